"""What layers compute, in NumPy: arrays (samples, ...) of any real type in, the same type out.

Written from the definitions of the layers, channels last; nothing here calls Keras or the library.
"""

import itertools
import math

import numpy as np

__all__ = [
    "ACTIVATIONS",
    "average_pooled",
    "convolved",
    "extended",
    "folded",
    "house_held",
    "interpolated",
    "max_pooled",
    "relu",
    "same_padding",
    "sorted_groups",
    "transposed",
]


def relu(x, slope=0.0, largest=None):
    positive = np.maximum(x, 0) if largest is None else np.clip(x, 0, largest)
    return np.where(x > 0, positive, slope * x)


def _elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _softmax(x):
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


_ERF = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x):
    return 0.5 * x * (1 + _ERF(x.astype(np.float64) / math.sqrt(2.0)))


def _selu(x):
    return 1.0507009873554804934193349852946 * _elu(x, 1.6732632423543772848170429916717)


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": relu,
    "relu6": lambda x: relu(x, largest=6.0),
    "leaky_relu": lambda x: relu(x, slope=0.2),
    "elu": _elu,
    "selu": _selu,
    "gelu": _gelu,
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "exponential": np.exp,
    "celu": _elu,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "hard_silu": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "log_sigmoid": lambda x: -_softplus(-x),
    "tanh_shrink": lambda x: x - np.tanh(x),
    "soft_shrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "squareplus": lambda x: 0.5 * (x + np.sqrt(x * x + 4)),
    "softmax": _softmax,
}
"""By Keras's name, with its default arguments."""


def same_padding(size: int, window: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Zeros before and after an axis, as TensorFlow adds them."""
    reach = (window - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def extended(x, amounts, mode="constant"):
    """`x` with `amounts` (before, after) of each axis between samples and channels added."""
    return np.pad(x, [(0, 0), *amounts, (0, 0)], mode=mode)


def _places(sizes, windows, strides, dilations):
    """For each tap of a window: its index, and the slices of the entries that it meets."""
    counts = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(sizes, windows, strides, dilations, strict=True)
    ]
    for tap in itertools.product(*map(range, windows)):
        slices = tuple(
            slice(t * d, t * d + (c - 1) * s + 1, s)
            for t, d, c, s in zip(tap, dilations, counts, strides, strict=True)
        )
        yield tap, (slice(None), *slices)


def convolved(x, kernel, strides, dilations, groups=1):
    """Cross-correlation without padding; `kernel` (*window, inputs of a group, outputs)."""
    windows = kernel.shape[:-2]
    total = 0
    for tap, place in _places(x.shape[1:-1], windows, strides, dilations):
        parts = np.split(x[place], groups, axis=-1)
        kernels = np.split(kernel[tap], groups, axis=-1)
        total = total + np.concatenate(
            [part @ one for part, one in zip(parts, kernels, strict=True)], axis=-1
        )
    return total


def transposed(x, kernel, strides, padding):
    """Each entry times the kernel (*window, outputs, inputs), added up and cropped."""
    sizes, windows = x.shape[1:-1], kernel.shape[:-2]
    axes = list(zip(sizes, windows, strides, strict=True))
    full = [max((n - 1) * s + k, n * s) for n, k, s in axes]
    total = np.zeros((len(x), *full, kernel.shape[-2]), x.dtype)
    for tap in itertools.product(*map(range, windows)):
        place = [slice(t, t + (n - 1) * s + 1, s) for t, (n, _, s) in zip(tap, axes, strict=True)]
        total[(slice(None), *place)] += x @ kernel[tap].T
    wanted = [n * s if padding == "same" else n * s + max(k - s, 0) for n, k, s in axes]
    first = [max(k - s, 0) // 2 if padding == "same" else 0 for _, k, s in axes]
    crop = [slice(a, a + w) for a, w in zip(first, wanted, strict=True)]
    return total[(slice(None), *crop)]


def max_pooled(x, windows, strides, padding):
    if padding == "same":
        amounts = _amounts(x, windows, strides)
        x = np.pad(x, [(0, 0), *amounts, (0, 0)], constant_values=-np.inf)
    ones = (1,) * len(windows)
    return np.max([x[p] for _, p in _places(x.shape[1:-1], windows, strides, ones)], axis=0)


def average_pooled(x, windows, strides, padding):
    """Means of the entries of each window; zeros that were added do not count."""
    amounts = _amounts(x, windows, strides) if padding == "same" else [(0, 0)] * len(windows)
    ones, inside = (1,) * len(windows), np.ones((1, *x.shape[1:-1], 1), x.dtype)
    x, inside = extended(x, amounts), extended(inside, amounts)
    places = [place for _, place in _places(x.shape[1:-1], windows, strides, ones)]
    return sum(x[place] for place in places) / sum(inside[place] for place in places)


def _amounts(x, windows, strides):
    return [same_padding(*axis) for axis in zip(x.shape[1:-1], windows, strides, strict=True)]


def sorted_groups(x, size):
    """Consecutive groups of channels, each in ascending order."""
    return np.sort(x.reshape(*x.shape[:-1], -1, size), axis=-1).reshape(x.shape)


def house_held(x, theta):
    """Pairs of channels (i, i + half), reflected on one side of a line of angle `theta / 2`."""
    a, b = np.split(x, 2, axis=-1)
    side = a * np.sin(theta / 2) - b * np.cos(theta / 2)
    moved = np.maximum(side, 0)
    first, second = a - 2 * moved * np.sin(theta / 2), b + 2 * moved * np.cos(theta / 2)
    return np.concatenate([first, second], axis=-1)


def folded(x, theta):
    """Pairs of channels (i, i + half) as points of a plane that is folded, by their angles."""
    a, b = np.split(x, 2, axis=-1)
    t0, t1, t2 = theta[0], np.clip(theta[1], 1 / 64, 6.25), np.clip(theta[2], 1 / 64, 6.25)
    angle = np.mod(np.arctan2(b, a) - t0 / 2, 2 * np.pi)
    pieces = [angle < t1 / 2, angle < (t1 + t2) / 2, angle < np.pi + t2 / 2]
    angle = np.select(pieces, [angle, t1 - angle, angle - t2], -angle) + t0 / 2
    length = np.hypot(a, b)
    return np.concatenate([length * np.cos(angle), length * np.sin(angle)], axis=-1)


def interpolated(x, grid, slopes):
    """Of each channel the function with these slopes between and beyond the knots, 0 at 0."""
    slopes = np.clip(slopes, -1, 1)

    def integral(x):
        left = slopes[0] * np.minimum(x - grid[0], 0)
        right = slopes[-1] * np.maximum(x - grid[-1], 0)
        pairs = zip(grid[:-1], grid[1:], slopes[1:-1], strict=True)
        return left + right + sum(s * (np.clip(x, low, high) - low) for low, high, s in pairs)

    return integral(x) - integral(np.zeros_like(x))
