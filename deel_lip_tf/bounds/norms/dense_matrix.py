"""Convolutions of small images: the matrix of the operator itself, and its norm.

The matrix is a sum over the taps of Kronecker products: for each axis a matrix of zeros and ones
that says which element of the padded input a tap meets at each output, times the kernel.
"""

import itertools
import math

import numpy as np

from deel_lip_tf._rounding import gamma
from deel_lip_tf.bounds.norms.spectral import spectral_norm_bound
from deel_lip_tf.normalizers.convolution import ZERO, padded_indices, padding_amounts
from deel_lip_tf.semantics.operators import Convolution, all_known

_FLOPS = 1e10  # what a bound with a budget of 1 may cost: about a second on two cores


def matrix_bound(convolution: Convolution, budget: float = 1.0) -> float | None:
    """Bounds a `Convolution` by the norm of its matrix: within 1e-9 of it.

    Returns:
        The bound, or None where the image is too large, or its size is not known.
    """
    if (sizes := all_known(convolution.sizes)) is None:
        return None
    places = _places(convolution, sizes)
    groups, inputs, outputs = convolution.kernel.shape[-3:]
    positions = [math.prod(axis.shape[side] for axis in places) for side in (1, 2)]
    rows, columns = sorted((positions[0] * outputs, positions[1] * inputs))
    taps = math.prod(convolution.kernel_size)
    flops = groups * (4.0 * columns * rows**2 + 2.0 * taps * rows * columns) + 1e5 * groups
    if flops > _FLOPS * budget or rows * columns > 2**25 or not rows:
        return None
    spatial = _spatial(places)
    kernel = convolution.kernel.reshape(taps, groups, inputs, outputs)
    bounds = [_norm(spatial, kernel[:, group]) for group in range(groups)]
    return math.nextafter(max(bounds), math.inf)


def check_finite(kernel: np.ndarray) -> None:
    """Refuses a kernel of which nothing can be proven.

    Raises:
        ValueError: it holds what is no finite number.
    """
    if not np.isfinite(kernel).all():
        raise ValueError("the kernel holds NaN or infinite values")


def _norm(spatial: np.ndarray, kernel: np.ndarray) -> float:
    matrix = np.tensordot(spatial, kernel, axes=(0, 0))  # (outputs, inputs) places, then channels
    shape = (spatial.shape[1] * kernel.shape[2], spatial.shape[2] * kernel.shape[1])
    bound = spectral_norm_bound(matrix.transpose(0, 3, 1, 2).reshape(shape))
    # An entry is the sum of the taps that meet the same element: one, unless a padding copies.
    if not (spatial.sum(axis=0) > 1).any():
        return bound
    absolute = np.tensordot(spatial, np.abs(kernel), axes=(0, 0))
    return bound + 1.01 * gamma(len(kernel) + 2) * float(np.sqrt(np.square(absolute).sum()))


def _places(convolution: Convolution, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """For each axis (taps, outputs, inputs): 1 where a tap meets an input at an output."""
    found = []
    for size, (_, *axis) in zip(sizes, convolution.axes(), strict=True):
        met, inputs = axis_taps(convolution, size, *axis)
        is_met = (met[..., None] == np.arange(inputs)) & (met[..., None] != ZERO)
        found.append(is_met.astype(np.float64))
    return found


def axis_taps(
    convolution: Convolution, size: int, taps: int, stride: int, rate: int
) -> tuple[np.ndarray, int]:
    """What the taps meet on one axis of a known size.

    Returns:
        `(met, length)`: (taps, outputs), the input that a tap meets at an output, or `ZERO`; and
        the number of inputs. Of a transposed convolution they are those of its adjoint: "valid"
        writes a whole image, and "same" crops it to `stride` times the input.
    """
    reach = (taps - 1) * rate + 1
    padding = convolution.padding
    if convolution.transposed and padding in ("same", "valid"):
        size = size * stride if padding == "same" else (size - 1) * stride + reach
    before, after = padding_amounts(size, reach, stride, padding)
    sources = padded_indices(size, before, after, padding)
    starts = np.arange(0, len(sources) - reach + 1, stride)
    return sources[starts + rate * np.arange(taps)[:, None]], size


def _spatial(places: list[np.ndarray]) -> np.ndarray:
    """(all taps, all outputs, all inputs): Kronecker products over the axes."""
    combined = []
    for taps in itertools.product(*(range(len(axis)) for axis in places)):
        whole = np.ones((1, 1))
        for axis, tap in zip(places, taps, strict=True):
            whole = np.kron(whole, axis[tap])
        combined.append(whole)
    return np.stack(combined)
