"""What layers compute, in few typed primitives over NumPy arrays.

A linear map knows three things about itself: how it is applied, how its matrix of absolute values
is, and its adjoint. It says so in terms of `Arrays`, the operations that an interpreter has: one in
NumPy (`arrays.py`), one in TensorFlow (`verify/tensorflow.py`), one in `keras.ops`
(`training/arrays.py`), another one is one file. Tensors have the shape (batch, *shape);
coefficients are float64, or a `Parameter` that reads variables (`parameters.py`).
"""

from deel_lip_tf.semantics.ir.primitives.base import Arrays, LinearMap, Shape, Tensor
from deel_lip_tf.semantics.ir.primitives.convolution import Conv
from deel_lip_tf.semantics.ir.primitives.joint import Concatenate, Sum
from deel_lip_tf.semantics.ir.primitives.moves import Adjoint, Gather, Pick, Reshape, Transpose
from deel_lip_tf.semantics.ir.primitives.products import (
    AxisProducts,
    Blocks,
    Centering,
    Diagonal,
    Einsum,
    MatMul,
    Scale,
)

__all__ = ["Adjoint", "Arrays", "AxisProducts", "Blocks", "Centering", "Concatenate", "Conv"]
__all__ += ["Diagonal", "Einsum", "Gather", "LinearMap", "MatMul", "Pick", "Reshape", "Scale"]
__all__ += ["Shape", "Sum", "Tensor", "Transpose"]
