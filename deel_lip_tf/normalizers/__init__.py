"""Pure mathematics of constrained kernels: tensors in, tensors out, no layer and no variable.

Vocabulary: a *kernel* is the tensor that a layer computes with; flattened to (inputs of a patch,
outputs) it is a *matrix*; an *operation* is what a layer does with it; a *parametrization* makes a
kernel of raw weights and bounds the norm of the operation with it; the *effective kernel* is
`k_coef_lip / bound * kernel`.
"""

from deel_lip_tf._lazy import public_names
from deel_lip_tf.normalizers.aol import AOL, SLL
from deel_lip_tf.normalizers.bro import BRO
from deel_lip_tf.normalizers.cayley import Cayley
from deel_lip_tf.normalizers.compatibility import (
    STOP_GRAD_SPECTRAL,
    SWAP_MEMORY,
    bjorck_normalization,
    get_conv_operators,
    reshaped_kernel_orthogonalization,
    set_stop_grad_spectral,
    set_swap_memory,
    spectral_normalization,
    spectral_normalization_conv,
)
from deel_lip_tf.normalizers.convolution import (
    max_duplication,
    padded_indices,
    padding_amounts,
    transposed_max_duplication,
)
from deel_lip_tf.normalizers.frobenius import Frobenius, UnitFrobenius
from deel_lip_tf.normalizers.lires import LiRes
from deel_lip_tf.normalizers.numerics.arithmetic import frobenius_norm, safe_divide, safe_sqrt
from deel_lip_tf.normalizers.numerics.norm_bounds import power_iteration, spectral_norm_bound
from deel_lip_tf.normalizers.operation import Operation, flatten_kernel
from deel_lip_tf.normalizers.operator_norm import OperatorNorm
from deel_lip_tf.normalizers.orthogonal.aoc import AOC, BCOP
from deel_lip_tf.normalizers.orthogonal.lipnext import LipNeXt
from deel_lip_tf.normalizers.parametrization import (
    MatrixParametrization,
    Parametrization,
    Projected,
    check_lipschitz_factor,
)
from deel_lip_tf.normalizers.polar.cubics import polar_factor
from deel_lip_tf.normalizers.spectral import (
    DEFAULT_BETA_BJORCK,
    DEFAULT_EPS_BJORCK,
    DEFAULT_EPS_SPECTRAL,
    DEFAULT_MAXITER_BJORCK,
    DEFAULT_MAXITER_SPECTRAL,
    Spectral,
)

__all__ = [
    "AOC",
    "AOL",
    "BCOP",
    "BRO",
    "DEFAULT_BETA_BJORCK",
    "DEFAULT_EPS_BJORCK",
    "DEFAULT_EPS_SPECTRAL",
    "DEFAULT_MAXITER_BJORCK",
    "DEFAULT_MAXITER_SPECTRAL",
    "SLL",
    "STOP_GRAD_SPECTRAL",
    "SWAP_MEMORY",
    "Cayley",
    "Frobenius",
    "LiRes",
    "LipNeXt",
    "MatrixParametrization",
    "Operation",
    "OperatorNorm",
    "Parametrization",
    "Projected",
    "Spectral",
    "UnitFrobenius",
    "bjorck_normalization",
    "check_lipschitz_factor",
    "flatten_kernel",
    "frobenius_norm",
    "get_conv_operators",
    "max_duplication",
    "padded_indices",
    "padding_amounts",
    "polar_factor",
    "power_iteration",
    "reshaped_kernel_orthogonalization",
    "safe_divide",
    "safe_sqrt",
    "set_stop_grad_spectral",
    "set_swap_memory",
    "spectral_norm_bound",
    "spectral_normalization",
    "spectral_normalization_conv",
    "transposed_max_duplication",
]

__dir__ = public_names(__name__)
