"""Kernels divided by a bound of the norm of what the layer does with them: measured from above."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.numerics.arithmetic import frobenius_norm, safe_divide, safe_sqrt
from deel_lip_tf.normalizers.numerics.norm_bounds import (
    spectral_norm_bound,
    squarings_for,
    unit_roundoff,
)
from deel_lip_tf.normalizers.operation import Operation, flatten_kernel
from deel_lip_tf.normalizers.parametrization import Parametrization, Projected, at_least_float32

# Along an axis of degree d, so many times d frequencies: see `operator_norm_bound`.
PER_DEGREE = 16


def operator_norm_bound(kernel, operation: Operation, per_degree: int = PER_DEGREE):
    """An upper bound of the norm of a product, or of a convolution without strides.

    A product is bounded by Gram iteration, `spectral_norm_bound`. A convolution over zeros or
    round a ring is at most the largest norm of its symbol `K(w) = sum_t K[t] exp(i <w, t>)`. Each
    `<u, K(w) v>` is a trigonometric polynomial of degree `d = (k - 1) / 2` along each axis, hence
    at most `prod 1 / cos(pi d / N)` times its largest value on a grid of N frequencies (M. Riesz).
    At each of them the matrix is bounded by Gram iteration. Paddings that copy pixels multiply by
    the square root of how often. It is never below the norm, rounding aside, and for large images
    above it by 4 % with 16 frequencies per degree, and by 1 % with 32; by half of that more where
    many singular values are equal.

    Args:
        kernel: tensor (*kernel_size, inputs, outputs), of any finite entries.
        operation: what the layer does with it.
        per_degree: `N / d`, at least 3, 16 by default. The cost grows with its square in images.

    Returns:
        A scalar tensor in at least float32, differentiable in `kernel`; 0 for the zero kernel.

    Raises:
        ValueError: the operation has strides, or convolves each channel by itself.

    Example:
        >>> operation = lip.normalizers.Operation((3, 3), (1, 1), "same")
        >>> identity = lip.initializers.CenteredInitializer("identity")((3, 3, 2, 2))
        >>> bound = lip.normalizers.operator_norm_bound(identity, operation)
        >>> 1.0 <= float(bound) <= 1.06  # the flattened kernel has norm 1, and meets 9 patches
        True

    Source: Delattre et al., 2023, arXiv:2305.16173, with the factor of M. Riesz in place of theirs.
    """
    check_plain(operation, "`operator_norm_bound`")
    unit, scale = _with_scale(kernel)
    return scale * _bound_of_unit(unit, operation, per_degree)


def divided_by_norm(kernel, operation: Operation):
    """The kernel over its `operator_norm_bound`, for entries of any size; zero stays zero."""
    check_plain(operation, "`divided_by_norm`")
    unit, _ = _with_scale(kernel)
    return safe_divide(unit, _bound_of_unit(unit, operation, PER_DEGREE))


@register
@dataclass(frozen=True)
class OperatorNorm(Parametrization):
    """The kernel divided by an upper bound of the norm of its operation.

    `W / operator_norm_bound(W)`: the operation has norm at most 1, and within some percent of it,
    whatever its patches overlap; all singular values keep their proportions. The bound is from
    above, by Gram iteration at the frequencies of a grid, and never by power iteration. A zero
    kernel stays zero. For products, and for convolutions without strides.

    Example:
        >>> layer = lip.layers.SpectralConv2D(
        ...     4, 3, parametrization=lip.normalizers.OperatorNorm()
        ... )
        >>> layer.build((None, 8, 8, 4))
        >>> 0.9 < lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    def projected(self, weights, operation):
        """The divided kernel; its bound is 1."""
        return Projected(divided_by_norm(ops.convert_to_tensor(weights["kernel"]), operation))

    def reuse(self, operation):
        """For each spatial axis, copies by the padding."""
        check_plain(operation, "The parametrization OperatorNorm")
        return operation.copies


def check_plain(operation: Operation, who: str) -> None:
    """Refuses what has another symbol.

    Raises:
        ValueError: strides, a transposed convolution or one of each channel by itself.
    """
    if set(operation.strides) - {1} or operation.is_depthwise or operation.is_transposed:
        raise ValueError(
            f"{who} knows products, and convolutions of all channels with strides=1. Received: "
            f"{operation}. Use the parametrization AOL() for others."
        )


def _with_scale(kernel):
    """The kernel with largest entry 1, and what it was divided by."""
    kernel = at_least_float32(ops.convert_to_tensor(kernel))
    scale = ops.stop_gradient(ops.max(ops.abs(kernel)))
    return safe_divide(kernel, scale), scale


def _bound_of_unit(kernel, operation: Operation, per_degree: int):
    """The bound for a kernel whose squares neither overflow nor underflow."""
    inputs, outputs = kernel.shape[-2:]
    # The grid of an image costs `(pi / per_degree)**2`, and Gram iteration at most half of it.
    squarings = squarings_for(min(inputs, outputs), (math.pi / per_degree) ** 2 / 2)
    taps = math.prod(operation.kernel_size)
    copies = math.sqrt(math.prod(operation.copies))
    if taps == 1:
        return spectral_norm_bound(flatten_kernel(kernel), squarings) * copies
    grid = _grid(operation.kernel_size, per_degree)
    factor = math.prod(1 / math.cos(math.pi / per_degree) for k in grid.sizes if k > 1)
    # The sums over taps and channels are rounded; mostly by far less.
    slack = 1 + (16 + (taps * max(inputs, outputs)) ** 0.5 / 4) * unit_roundoff(kernel)
    return _largest_of_symbol(kernel, grid, squarings) * (factor * slack * copies)


@dataclass(frozen=True)
class _Grid:
    """The frequencies of a symbol.

    Attributes:
        sizes: of the kernel.
        angles: (frequencies, taps) float64.
    """

    sizes: tuple[int, ...]
    angles: np.ndarray


def _grid(sizes: tuple[int, ...], per_degree: int) -> _Grid:
    """Half of the grid: opposite frequencies have conjugate symbols."""
    # N is at least `per_degree` times d = (k - 1) / 2.
    counts = [max(-(-per_degree * (k - 1) // 2), 1) for k in sizes]
    taps = np.array(list(itertools.product(*map(range, sizes))))
    steps = np.array(list(itertools.product(*map(range, counts))))
    opposite = -steps % counts
    kept = [tuple(a) <= tuple(b) for a, b in zip(steps, opposite, strict=True)]
    frequencies = 2 * np.pi * steps[kept] / counts
    return _Grid(tuple(sizes), frequencies @ taps.T)


def _largest_of_symbol(kernel, grid: _Grid, squarings: int):
    """The largest bound on the grid. Its gradient is that at the frequency where it is taken."""
    matrices = ops.reshape(kernel, (grid.angles.shape[1], *kernel.shape[-2:]))
    if matrices.shape[-1] > matrices.shape[-2]:
        matrices = ops.swapaxes(matrices, -1, -2)
    cosines, sines = (ops.cast(wave(grid.angles), kernel.dtype) for wave in (np.cos, np.sin))
    bounds = _symbol_bounds(ops.stop_gradient(matrices), cosines, sines, squarings)
    top = ops.stop_gradient(ops.argmax(bounds))
    cosines, sines = (ops.take(wave, top, axis=0)[None] for wave in (cosines, sines))
    (bound,) = ops.unstack(_symbol_bounds(matrices, cosines, sines, squarings), 1)
    # One product by itself may be rounded to another side than among many.
    return bound + ops.stop_gradient(ops.relu(ops.max(bounds) - bound))


def _symbol_bounds(matrices, cosines, sines, squarings: int):
    """Bounds (frequencies,) of the norms of `sum_t matrices[t] exp(i angle_t)`."""
    flat = ops.reshape(matrices, (matrices.shape[0], -1))
    shape = (-1, *matrices.shape[1:])
    real, imaginary = (ops.reshape(ops.matmul(wave, flat), shape) for wave in (cosines, sines))
    gram = _hermitian_gram(real, imaginary)
    norms = [_norm_of_pair(*gram)]
    # As `gram_norm_bound`: ||G_t||_2 = n_t ||G_{t+1}||_2^(1/2), from the innermost square outwards.
    for _ in range(squarings):
        gram = _squared(*(safe_divide(part, norms[-1]) for part in gram))
        norms.append(_norm_of_pair(*gram))
    bound = norms.pop()
    while norms:
        bound = norms.pop() * safe_sqrt(bound)
    return ops.reshape(safe_sqrt(bound), (-1,))


def _hermitian_gram(real, imaginary):
    """Real and imaginary part of `A^H A`: symmetric, and antisymmetric."""
    transposed = ops.swapaxes(real, -1, -2)
    symmetric = ops.matmul(transposed, real)
    symmetric = symmetric + ops.matmul(ops.swapaxes(imaginary, -1, -2), imaginary)
    mixed = ops.matmul(transposed, imaginary)
    return symmetric, mixed - ops.swapaxes(mixed, -1, -2)


def _squared(symmetric, antisymmetric):
    """The square of `S + i Q`: `S S - Q Q`, and `S Q + Q S` where `Q S = -(S Q)^T`."""
    mixed = ops.matmul(symmetric, antisymmetric)
    real = ops.matmul(symmetric, symmetric) - ops.matmul(antisymmetric, antisymmetric)
    return real, mixed - ops.swapaxes(mixed, -1, -2)


def _norm_of_pair(symmetric, antisymmetric):
    squares = [ops.square(frobenius_norm(x, (-2, -1), True)) for x in (symmetric, antisymmetric)]
    return safe_sqrt(squares[0] + squares[1])
