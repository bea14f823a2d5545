"""deel-lip's normalizers under their own names: the same arguments, the same tuples back.

Where deel-lip divides by a largest singular value estimated from below, by power iteration, these
divide by an upper bound of it (Gram iteration, see `spectral_norm_bound`), so that the result never
exceeds norm 1. Start vectors are taken and refreshed as before, but no result depends on them.
"""

from collections.abc import Callable

from keras import ops

from deel_lip_tf.normalizers.convolution import padding_amounts
from deel_lip_tf.normalizers.numerics.arithmetic import frobenius_norm, safe_divide
from deel_lip_tf.normalizers.numerics.norm_bounds import (
    power_iteration,
    spectral_norm_bound,
    squarings_for,
)
from deel_lip_tf.normalizers.operation import flatten_kernel
from deel_lip_tf.normalizers.parametrization import at_least_float32
from deel_lip_tf.normalizers.spectral import (
    DEFAULT_BETA_BJORCK,
    DEFAULT_EPS_BJORCK,
    DEFAULT_EPS_SPECTRAL,
    DEFAULT_MAXITER_BJORCK,
    DEFAULT_MAXITER_SPECTRAL,
    Spectral,
)

STOP_GRAD_SPECTRAL = True
SWAP_MEMORY = True


def set_stop_grad_spectral(value: bool) -> None:
    """Does nothing: accepted for users of deel-lip.

    There it decides whether gradients pass through the vectors of the power iteration. Here the
    bound of the norm is a closed formula of the kernel, and its gradient is the exact one.

    Args:
        value: whether, in deel-lip, no gradient passes.

    Raises:
        TypeError: `value` is not a boolean.

    Example:
        >>> lip.normalizers.set_stop_grad_spectral(False)
        >>> lip.normalizers.STOP_GRAD_SPECTRAL  # what it was
        True
    """
    _check_boolean(value)


def set_swap_memory(value: bool) -> None:
    """Does nothing: there is no `tf.while_loop` here whose memory could be swapped.

    Args:
        value: whether, in deel-lip, memory is swapped.

    Raises:
        TypeError: `value` is not a boolean.

    Example:
        >>> lip.normalizers.set_swap_memory(False)
        >>> lip.normalizers.SWAP_MEMORY  # what it was
        True
    """
    _check_boolean(value)


def _check_boolean(value) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"`value` must be True or False. Received: value={value!r}.")


def reshaped_kernel_orthogonalization(
    kernel,
    u,
    adjustment_coef: float,
    eps_spectral: float = DEFAULT_EPS_SPECTRAL,
    eps_bjorck: float | None = DEFAULT_EPS_BJORCK,
    beta: float | None = DEFAULT_BETA_BJORCK,
    maxiter_spectral: int = DEFAULT_MAXITER_SPECTRAL,
    maxiter_bjorck: int = DEFAULT_MAXITER_BJORCK,
):
    """The flattened kernel orthogonalised, times `adjustment_coef`.

    Args:
        kernel: tensor (..., outputs); flattened to (everything else, outputs).
        u: start vector (1, outputs) of the power iteration that refreshes it, or `None`.
        adjustment_coef: factor of the result.
        eps_spectral: by how much, relatively, the bound of the norm may exceed the norm where only
            the norm is divided out: positive, 1e-3 by default.
        eps_bjorck: how far from 1 the singular values may end: positive, 1e-3 by default; `None`
            only divides by the bound of the norm.
        beta: step of Björck's iteration, in ]0, 1/2], 1/2 by default; `None` does as
            `eps_bjorck=None`.
        maxiter_spectral: largest number of squarings for the bound of the norm, at least 1, 10 by
            default; also of the iterations that refresh `u`.
        maxiter_bjorck: largest number of orthogonalisation steps, at least 1, 15 by default.

    Returns:
        `(wbar, u, sigma)`: the kernel, of norm at most `adjustment_coef` when flattened; the
        refreshed vector (1, outputs); the upper bound of the norm of `kernel`, (1, 1).

    Raises:
        TypeError: a parameter that is not a number, or not an integer where one is asked for.
        ValueError: a parameter outside its range.

    Example:
        >>> kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
        >>> wbar, u, sigma = lip.normalizers.reshaped_kernel_orthogonalization(kernel, None, 0.5)
        >>> print(np.linalg.svd(np.reshape(wbar, (-1, 4)), compute_uv=False).round(3))
        [0.5 0.5 0.5 0.5]
        >>> bool(np.linalg.norm(kernel.reshape(-1, 4), 2) <= sigma[0, 0])  # an upper bound
        True
    """
    parameters = Spectral(eps_spectral, eps_bjorck, beta, maxiter_spectral, maxiter_bjorck)
    kernel = at_least_float32(ops.convert_to_tensor(kernel))
    matrix = flatten_kernel(kernel)
    wbar = adjustment_coef * ops.reshape(parameters.project(matrix), kernel.shape)
    return wbar, *_vector_and_bound(matrix, u, parameters)


def spectral_normalization(
    kernel, u=None, eps: float = DEFAULT_EPS_SPECTRAL, maxiter: int = DEFAULT_MAXITER_SPECTRAL
):
    """The flattened kernel divided by an upper bound of its largest singular value.

    Args:
        kernel: tensor (..., outputs).
        u: start vector (1, outputs) of the power iteration that refreshes it, or `None`.
        eps: by how much, relatively, the bound may exceed the norm.
        maxiter: largest number of squarings for the bound, and of iterations that refresh `u`.

    Returns:
        `(kernel / sigma, u, sigma)`: a kernel of norm at most 1 when flattened, the refreshed
        vector, and the bound (1, 1). deel-lip divides by an estimate plus `eps`.

    Raises:
        TypeError: a parameter that is not a number, or not an integer where one is asked for.
        ValueError: `eps` is not positive, or `maxiter` is not.

    Example:
        >>> kernel = np.random.default_rng(0).normal(size=(6, 3))
        >>> normalized, u, sigma = lip.normalizers.spectral_normalization(kernel)
        >>> bool(np.linalg.norm(kernel, 2) <= sigma[0, 0]), bool(np.linalg.norm(normalized, 2) <= 1)
        (True, True)
    """
    parameters = Spectral(eps, None, None, maxiter)
    kernel = at_least_float32(ops.convert_to_tensor(kernel))
    matrix = flatten_kernel(kernel)
    normalized = ops.reshape(parameters.project(matrix), kernel.shape)
    return normalized, *_vector_and_bound(matrix, u, parameters)


def _vector_and_bound(matrix, u, parameters: Spectral) -> tuple:
    squarings = squarings_for(min(matrix.shape), parameters.eps_spectral)
    largest = ops.max(ops.abs(matrix))
    bound = spectral_norm_bound(
        safe_divide(matrix, largest), min(squarings, parameters.maxiter_spectral)
    )
    u = None if u is None else ops.cast(u, matrix.dtype)
    _, u = power_iteration(matrix, u, parameters.eps_spectral, parameters.maxiter_spectral)
    return u, ops.reshape(largest * bound, (1, 1))


def bjorck_normalization(
    w,
    eps: float = DEFAULT_EPS_BJORCK,
    beta: float = DEFAULT_BETA_BJORCK,
    maxiter: int = DEFAULT_MAXITER_BJORCK,
):
    """The orthogonal matrix nearest to `w`.

    deel-lip iterates Björck's cubic on `w` itself, which diverges from norm `sqrt(3)` on. Here `w`
    is divided by a bound of its norm first, so that any finite `w` is welcome, and with
    `beta = 1/2` faster cubics come before: the limit is the same, and the norm is at most 1.

    Args:
        w: tensor (rows, columns).
        eps: how far from 1 the singular values may end: positive, 1e-3 by default.
        beta: in ]0, 1/2], 1/2 by default; another value asks for exactly Björck's steps.
        maxiter: largest number of steps, at least 1, 15 by default.

    Returns:
        A tensor (rows, columns) of norm at most 1. Its singular values are within `eps` of 1 where
        the smallest one of `w` is at least 1e-4 of the largest.

    Raises:
        TypeError: a parameter that is not a number, or not an integer where one is asked for.
        ValueError: a parameter outside its range.

    Example:
        >>> w = np.random.default_rng(0).normal(scale=50.0, size=(5, 5))
        >>> orthogonal = lip.normalizers.bjorck_normalization(w, eps=1e-6, maxiter=30)
        >>> u, _, vt = np.linalg.svd(w)
        >>> np.allclose(orthogonal, u @ vt, atol=1e-4)  # the orthogonal matrix nearest to w
        True
    """
    return Spectral(eps_bjorck=eps, beta_bjorck=beta, maxiter_bjorck=maxiter).project(
        ops.convert_to_tensor(w)
    )


def get_conv_operators(
    kernel, u_shape, stride: int = 1, conv_first: bool = True, pad_func: Callable | None = None
) -> tuple[Callable, Callable]:
    """A convolution and its exact adjoint, for power iterations on the operator itself.

    Args:
        kernel: tensor (rows, columns, channels, filters).
        u_shape: shape (1, rows, columns, channels) of what the first operator is applied to.
        stride: of the convolution.
        conv_first: whether the first operator is the convolution, or else its adjoint; `u_shape`
            then is that of an output, and images are `stride` times as large.
        pad_func: pads a batch of images, by zeros or copies of pixels; `None` is zero padding
            "same".

    Returns:
        `(linear_op, adjoint_op)`, functions of a batch of one image, channels last.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> kernel = rng.normal(size=(3, 3, 2, 4)).astype("float32")
        >>> forward, adjoint = lip.normalizers.get_conv_operators(kernel, (1, 6, 6, 2), stride=2)
        >>> x, y = (rng.normal(size=s).astype("float32") for s in ((1, 6, 6, 2), (1, 3, 3, 4)))
        >>> np.isclose(np.sum(forward(x) * y), np.sum(x * adjoint(y)), rtol=1e-4).item()  # <Ax, y>
        True
    """
    kernel = ops.convert_to_tensor(kernel)
    channels = kernel.shape[2]
    rows, columns = (size * (1 if conv_first else stride) for size in u_shape[1:3])
    pad = pad_func or _zero_padding((rows, columns), kernel.shape[:2], stride)
    # Where each padded pixel comes from, counted from 1; zeros come from nowhere.
    numbers = ops.reshape(ops.arange(1, rows * columns + 1, dtype="float32"), (1, rows, columns, 1))
    sources = ops.cast(pad(numbers), "int32")
    _, height, width, _ = sources.shape

    def convolution(images):
        return ops.conv(pad(images), kernel, strides=stride, padding="valid")

    def adjoint(outputs):
        padded = ops.conv_transpose(outputs, kernel, strides=stride, padding="valid")
        padded = padded[:, :height, :width]
        missing = (height - padded.shape[1], width - padded.shape[2])
        padded = ops.pad(padded, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        sums = ops.segment_sum(
            ops.reshape(padded, (-1, channels)),
            ops.reshape(sources, (-1,)),
            num_segments=rows * columns + 1,
        )
        return ops.reshape(sums[1:], (1, rows, columns, channels))

    return (convolution, adjoint) if conv_first else (adjoint, convolution)


def _zero_padding(sizes: tuple, kernel_size: tuple, stride: int) -> Callable:
    axes = zip(sizes, kernel_size, (stride, stride), strict=True)
    amounts = [padding_amounts(*axis, "same") for axis in axes]
    return lambda images: ops.pad(images, ((0, 0), *amounts, (0, 0)))


def spectral_normalization_conv(
    kernel,
    u,
    stride: int = 1,
    conv_first: bool = True,
    pad_func: Callable | None = None,
    eps: float = DEFAULT_EPS_SPECTRAL,
    maxiter: int = DEFAULT_MAXITER_SPECTRAL,
):
    """The kernel divided by an estimate of the norm of its convolution.

    A power iteration on images of the size of `u`: the estimate is from below, so the result may
    have a norm above 1, as in deel-lip. `SpectralConv2D` guarantees its norm, and
    `bounds.lipschitz_bound` proves that of any convolution.

    Args:
        kernel: tensor (rows, columns, channels, filters).
        u: start image (1, rows, columns, channels); an output where `conv_first` is false. deel-lip
            adds noise to it; a start that is not exactly orthogonal to the answer needs none.
        stride: of the convolution, the same along both axes; 1 by default.
        conv_first: whether `u` is an input of the convolution (the default), or else an output of
            it.
        pad_func: pads a batch of images, by zeros or copies of pixels; `None`, the default, is zero
            padding "same".
        eps: stops when `u` moves by less; negative returns `(kernel, u, 1.0)`.
        maxiter: largest number of iterations.

    Returns:
        `(kernel / (sigma + eps), u, sigma)`, `sigma` a scalar tensor, differentiable in `kernel`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> kernel = rng.normal(size=(3, 3, 2, 4)).astype("float32")
        >>> u = rng.normal(size=(1, 8, 8, 2)).astype("float32")
        >>> kernel, u, _ = lip.normalizers.spectral_normalization_conv(kernel, u, maxiter=50)
        >>> conv = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)
        >>> conv.build((None, 8, 8, 2))
        >>> conv.set_weights([kernel])
        >>> round(lip.bounds.lipschitz_bound(conv).value, 1)  # near 1, and no guarantee
        1.0
    """
    if eps < 0:
        return kernel, u, 1.0
    kernel, u = ops.convert_to_tensor(kernel), ops.convert_to_tensor(u)
    linear_op, adjoint_op = get_conv_operators(kernel, u.shape, stride, conv_first, pad_func)

    def step(i, vector, _):
        following = _unit(adjoint_op(_unit(linear_op(vector))))
        return i + 1, following, frobenius_norm(following - vector)

    start = (0, _unit(u), ops.cast(2 * eps + 1, kernel.dtype))
    _, u, _ = ops.while_loop(
        lambda i, _, moved: moved > eps, step, start, maximum_iterations=maxiter
    )
    u = ops.stop_gradient(u)
    sigma = frobenius_norm(linear_op(u))
    return kernel / (sigma + eps), u, sigma


def _unit(tensor):
    return safe_divide(tensor, frobenius_norm(tensor))
