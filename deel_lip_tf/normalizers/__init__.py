"""Pure mathematics of constrained kernels: tensors in, tensors out, no layer and no variable.

Vocabulary: a *kernel* is the trainable tensor of a layer; flattened to (inputs of a patch,
outputs) it is a *matrix*; a *parametrization* projects the matrix onto a set of bounded norm; the
*gain* of an operation undoes how often it uses the kernel on one input; the *effective kernel* is
`gain * project(kernel)`, the one the layer computes with.
"""

from deel_lip_tf.normalizers.arithmetic import frobenius_norm, safe_divide, safe_sqrt
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
from deel_lip_tf.normalizers.orthogonal import polar_factor
from deel_lip_tf.normalizers.parametrization import (
    DEFAULT_BETA_BJORCK,
    DEFAULT_EPS_BJORCK,
    DEFAULT_EPS_SPECTRAL,
    DEFAULT_MAXITER_BJORCK,
    DEFAULT_MAXITER_SPECTRAL,
    Frobenius,
    Spectral,
    UnitFrobenius,
    check_lipschitz_factor,
    flatten_kernel,
)
from deel_lip_tf.normalizers.spectral import power_iteration, spectral_norm_bound

__all__ = [
    "DEFAULT_BETA_BJORCK",
    "DEFAULT_EPS_BJORCK",
    "DEFAULT_EPS_SPECTRAL",
    "DEFAULT_MAXITER_BJORCK",
    "DEFAULT_MAXITER_SPECTRAL",
    "STOP_GRAD_SPECTRAL",
    "SWAP_MEMORY",
    "Frobenius",
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
