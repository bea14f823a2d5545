"""Float64 NumPy oracles; they share no code with the library and never call it."""

import itertools

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


def pad(images, kernel_size, strides, padding):
    """Pads a batch of images (n, rows, columns, channels) for a valid convolution."""
    widths = [(0, 0)]
    for size, k, s in zip(images.shape[1:3], kernel_size, strides, strict=True):
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


def conv2d(images, kernel, strides=(1, 1), padding="same"):
    """Cross-correlation by loops over the outputs, channels last."""
    images, kernel = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
    kh, kw = kernel.shape[:2]
    padded = pad(images, (kh, kw), strides, padding)
    rows = range(0, padded.shape[1] - kh + 1, strides[0])
    columns = range(0, padded.shape[2] - kw + 1, strides[1])
    outputs = np.zeros((len(images), len(rows), len(columns), kernel.shape[-1]))
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        patch = padded[:, row : row + kh, column : column + kw]
        outputs[:, i, j] = np.tensordot(patch, kernel, axes=([1, 2, 3], [0, 1, 2]))
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


def conv1d(sequences, kernel, strides=(1,), padding="same"):
    """The same for sequences (n, steps, channels): images of one row."""
    outputs = conv2d(
        np.asarray(sequences)[:, None], np.asarray(kernel)[None], (1, *strides), padding
    )
    return outputs[:, 0]


def depthwise_conv2d(images, kernel, strides=(1, 1), padding="same"):
    """Every channel by itself; output channel `c * multiplier + i`."""
    channels = range(kernel.shape[2])
    outputs = [
        conv2d(images[..., c : c + 1], kernel[:, :, c : c + 1], strides, padding) for c in channels
    ]
    return np.concatenate(outputs, axis=-1)


def padded_transpose_matrix(kernel, input_shape, strides, padding) -> np.ndarray:
    """The adjoint of the padded convolution whose output has the shape `input_shape`."""
    rows, columns = (n * s for n, s in zip(input_shape[:2], strides, strict=True))
    shape = (rows, columns, kernel.shape[2])
    return matrix_of(lambda x: conv2d(x, kernel, strides, padding), shape).T


def matrix_of(function, input_shape) -> np.ndarray:
    """The matrix (outputs, inputs) of a linear function of a batch of float64 arrays."""
    size = int(np.prod(input_shape))
    images = function(np.eye(size).reshape(size, *input_shape))
    return np.asarray(images, np.float64).reshape(size, -1).T


def conv2d_transpose(images, kernel, strides, padding, output_padding=(None, None)):
    """Scatters every input pixel times the kernel, then crops as TensorFlow does."""
    images, kernel = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
    n, rows, columns = images.shape[:3]
    kh, kw, filters, _ = kernel.shape
    full = np.zeros((n, (rows - 1) * strides[0] + kh, (columns - 1) * strides[1] + kw, filters))
    for i, j in itertools.product(range(rows), range(columns)):
        patch = np.tensordot(images[:, i, j], kernel, axes=([1], [3]))
        top, left = i * strides[0], j * strides[1]
        full[:, top : top + kh, left : left + kw] += patch
    for axis, (size, k, s) in enumerate(zip((rows, columns), (kh, kw), strides, strict=True)):
        wanted = size * s if padding == "same" else size * s + max(k - s, 0)
        have = full.shape[axis + 1]
        before = max(k - s, 0) // 2 if padding == "same" else 0
        index = np.arange(before, before + wanted)
        taken = np.take(full, np.minimum(index, have - 1), axis=axis + 1)
        beyond = np.expand_dims(
            (index < have).astype(float), axis=[a for a in range(4) if a != axis + 1]
        )
        full = taken * beyond
    return full


def jacobian(function, point, step=1e-6) -> np.ndarray:
    """Central differences of a function of one flat float64 vector."""
    columns = []
    for direction in np.eye(point.size):
        delta = (step * direction).reshape(point.shape)
        difference = np.asarray(function(point + delta)) - np.asarray(function(point - delta))
        columns.append(difference.ravel() / (2 * step))
    return np.stack(columns, axis=1)
