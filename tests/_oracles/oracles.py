"""Float64 NumPy oracles; they share no code with the library and never call it."""

import numpy as np

_PAD_MODES = {
    "circular": "wrap",
    "symmetric": "symmetric",
    "reflect": "reflect",
    "replicate": "edge",
}


def spectral_norm(matrix) -> float:
    return float(np.linalg.norm(np.asarray(matrix, np.float64), 2))


def singular_values(matrix) -> np.ndarray:
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def polar(matrix) -> np.ndarray:
    """The nearest matrix with orthonormal columns, or rows."""
    left, _, right = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    return left @ right


def pad(images, kernel_size, strides, padding):
    """Pads a batch of images (n, *sizes, channels) for a valid convolution."""
    widths = [(0, 0)]
    for size, k, s in zip(images.shape[1:-1], kernel_size, strides, strict=True):
        if padding == "same":
            total = max((int(np.ceil(size / s)) - 1) * s + k - size, 0)
            widths.append((total // 2, total - total // 2))
        elif padding == "valid":
            widths.append((0, 0))
        elif padding == "causal":
            widths.append((k - 1, 0))
        else:
            widths.append(((k - 1) // 2, k // 2))
    widths.append((0, 0))
    if padding not in _PAD_MODES:
        return np.pad(images, widths)
    return np.pad(images, widths, mode=_PAD_MODES[padding])


def convolution(images, kernel, strides, padding="same"):
    """Cross-correlation of any rank by loops over the outputs, channels last."""
    images, kernel = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
    sizes = kernel.shape[:-2]
    padded = pad(images, sizes, strides, padding)
    axes = zip(padded.shape[1:-1], sizes, strides, strict=True)
    counts = [max((n - k) // s + 1, 0) for n, k, s in axes]
    outputs = np.zeros((len(images), *counts, kernel.shape[-1]))
    summed = list(range(len(sizes) + 1))
    for place in np.ndindex(*counts):
        starts = zip(place, sizes, strides, strict=True)
        patch = padded[(slice(None), *(slice(i * s, i * s + k) for i, k, s in starts))]
        outputs[(slice(None), *place)] = np.tensordot(
            patch, kernel, ([i + 1 for i in summed], summed)
        )
    return outputs


def full_kernel(kernel, groups, dilation) -> np.ndarray:
    """The kernel (*sizes, inputs, outputs) with zeros for dilation and between groups."""
    *sizes, inputs, outputs = np.shape(kernel)
    spread = [(k - 1) * rate + 1 for k, rate in zip(sizes, dilation, strict=True)]
    full = np.zeros((*spread, groups * inputs, outputs))
    for group, columns in enumerate(np.split(np.arange(outputs), groups)):
        rows = slice(group * inputs, (group + 1) * inputs)
        taps = tuple(slice(None, None, rate) for rate in dilation)
        full[(*taps, rows, slice(columns[0], columns[-1] + 1))] = np.asarray(kernel)[..., columns]
    return full


def conv2d(images, kernel, strides=(1, 1), padding="same"):
    """Of images."""
    return convolution(images, kernel, strides, padding)


def conv1d(sequences, kernel, strides=(1,), padding="same"):
    """Of sequences."""
    return convolution(sequences, kernel, strides, padding)


def depthwise_conv2d(images, kernel, strides=(1, 1), padding="same"):
    """Every channel by itself; output channel `c * multiplier + i`."""
    channels = range(kernel.shape[2])
    outputs = [
        conv2d(images[..., c : c + 1], kernel[:, :, c : c + 1], strides, padding) for c in channels
    ]
    return np.concatenate(outputs, axis=-1)


def padded_transpose_matrix(kernel, input_shape, strides, padding) -> np.ndarray:
    """The adjoint of the padded convolution whose output has the shape `input_shape`."""
    sizes = (n * s for n, s in zip(input_shape[:-1], strides, strict=True))
    shape = (*sizes, kernel.shape[-2])
    return matrix_of(lambda x: convolution(x, kernel, strides, padding), shape).T


def matrix_of(function, input_shape) -> np.ndarray:
    """The matrix (outputs, inputs) of a linear function of a batch of float64 arrays."""
    size = int(np.prod(input_shape))
    images = function(np.eye(size).reshape(size, *input_shape))
    return np.asarray(images, np.float64).reshape(size, -1).T


def conv_transpose(images, kernel, strides, padding):
    """Scatters every input pixel times the kernel, of any rank, then crops as TensorFlow does."""
    images, kernel = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
    places, sizes = images.shape[1:-1], kernel.shape[:-2]
    axes = list(zip(places, sizes, strides, strict=True))
    full = np.zeros((len(images), *((n - 1) * s + k for n, k, s in axes), kernel.shape[-2]))
    for place in np.ndindex(*places):
        patch = np.tensordot(images[(slice(None), *place)], kernel, axes=([1], [kernel.ndim - 1]))
        starts = zip(place, sizes, strides, strict=True)
        full[(slice(None), *(slice(i * s, i * s + k) for i, k, s in starts))] += patch
    for axis, (size, k, s) in enumerate(axes, start=1):
        wanted = size * s if padding == "same" else size * s + max(k - s, 0)
        have = full.shape[axis]
        before = max(k - s, 0) // 2 if padding == "same" else 0
        index = np.arange(before, before + wanted)
        taken = np.take(full, np.minimum(index, have - 1), axis=axis)
        beyond = [a for a in range(full.ndim) if a != axis]
        full = taken * np.expand_dims((index < have).astype(float), axis=beyond)
    return full


def jacobian_by_batch(function, point, step=1e-6) -> np.ndarray:
    """The same of a function of a batch, which is called once."""
    deltas = step * np.eye(point.size).reshape(-1, *point.shape)
    values = np.asarray(function(np.concatenate([point + deltas, point - deltas])))
    forward, backward = np.split(values.reshape(2 * point.size, -1), 2)
    return ((forward - backward) / (2 * step)).T


def jacobian(function, point, step=1e-6) -> np.ndarray:
    """Central differences of a function of one flat float64 vector."""
    columns = []
    for direction in np.eye(point.size):
        delta = (step * direction).reshape(point.shape)
        difference = np.asarray(function(point + delta)) - np.asarray(function(point - delta))
        columns.append(difference.ravel() / (2 * step))
    return np.stack(columns, axis=1)
