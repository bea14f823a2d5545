"""Products with constant matrices."""

import numpy as np

from deel_lip_tf._rounding import UP
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.graph import Value
from deel_lip_tf.semantics.ir.primitives import Einsum
from deel_lip_tf.semantics.ir.primitives.products import einsum_terms
from deel_lip_tf.semantics.operators import Matrices
from deel_lip_tf.semantics.rounding import CallShapes, gamma
from deel_lip_tf.semantics.rule import Rule, rule


@rule("Einsum")
class Contraction(Rule):
    """`einsum` of a tensor and a constant matrix, along one axis of the tensor."""

    def call_operator(self, call):
        operands = [np.asarray(x) for x in call.args if isinstance(x, np.ndarray)]
        tensor, matrix, result = einsum_terms(call.operation.subscripts)
        # The first letters are those of the tensor, and the first of them is the batch.
        is_one = len(call.inputs) == 1 and len(operands) == 1 and isinstance(call.args[0], Value)
        is_plain = is_one and operands[0].ndim == 2 and len(matrix) == 2
        if is_plain:
            contracted, new = tuple(matrix)
            is_plain = contracted in tensor[1:] and new not in tensor
            is_plain = is_plain and len(set(tensor)) == len(tensor)
        if not is_plain or result != tensor.replace(contracted, new):
            raise UnsupportedLayerError(
                "it is not the product with a constant matrix along one axis"
            )
        return Matrices(operands[0].astype(np.float64)[None])

    def rounding(self, operation, shapes):
        (matrix,) = (number for number in shapes.numbers if isinstance(number, np.ndarray))
        norm = float(np.linalg.norm(matrix)) * UP
        one = CallShapes(shapes.inputs, shapes.outputs, norm)
        return one.rounding(gamma(matrix.shape[0] + 4))

    def lower_call(self, lowering, call, inputs):
        arguments = [a for a in call.args if not isinstance(a, str)]
        constants = [np.asarray(a, np.float64) for a in arguments if isinstance(a, np.ndarray)]
        subscripts = call.operation.subscripts
        tensor, constant, result = einsum_terms(subscripts)
        is_plain = len(inputs) == 1 and len(constants) == 1 and "." not in subscripts
        if not is_plain or not isinstance(arguments[0], Value):
            raise UnsupportedLayerError("it is not the product of a tensor and a constant")
        if len(set(tensor)) < len(tensor):
            raise UnsupportedLayerError("a letter occurs twice for its tensor")
        if not result.startswith(tensor[0]) or tensor[0] in constant:
            raise UnsupportedLayerError("it contracts the batch axis")
        return lowering.builder.affine(inputs, Einsum(subscripts, constants[0]))
