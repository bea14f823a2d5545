"""Random convolutions: their dense matrices in plain NumPy, beside what is proven of them."""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from deel_lip_tf.bounds.norms.convolution import convolution_bound
from deel_lip_tf.bounds.norms.operators import operator_bound
from deel_lip_tf.semantics.norms import L2
from deel_lip_tf.semantics.operators import Convolution
from tests._oracles import oracles


def norms(matrices, norm=2):
    """Operator norms of a batch (cases, outputs, inputs)."""
    return np.linalg.norm(matrices, norm, axis=(-2, -1))


def spatial(size, kernel_size, strides, padding, dilation=(1, 1)):
    """(taps, outputs, inputs) for one channel: which input each tap meets at each output."""
    wide = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    taps = []
    for place in itertools.product(*map(range, kernel_size)):
        kernel = np.zeros((*wide, 1, 1))
        kernel[place[0] * dilation[0], place[1] * dilation[1]] = 1.0
        taps.append(
            oracles.matrix_of(
                lambda x, k=kernel: oracles.conv2d(x, k, strides, padding), (*size, 1)
            )
        )
    return np.stack(taps)


def dense_matrices(places, kernels):
    """The matrices of convolutions (cases, *kernel_size, inputs, outputs)."""
    flat = kernels.reshape(len(kernels), -1, *kernels.shape[-2:])
    matrices = np.einsum("tpq,btio->bpoqi", places, flat)
    rows, columns = places.shape[1] * flat.shape[3], places.shape[2] * flat.shape[2]
    return matrices.reshape(len(kernels), rows, columns)


@dataclass(frozen=True)
class Geometry:
    """What a convolution is, besides its kernel; `known` says whether the bound knows the size."""

    size: tuple
    kernel_size: tuple
    strides: tuple = (1, 1)
    padding: str = "same"
    dilation: tuple = (1, 1)
    transposed: bool = False
    known: bool = True

    def matrices(self, kernels):
        size = self.size
        if self.transposed:  # of the image that it writes
            axes = zip(size, self.strides, self.kernel_size, strict=True)
            is_whole = self.padding == "valid"
            size = tuple((n - 1) * s + k if is_whole else n * s for n, s, k in axes)
        places = spatial(size, self.kernel_size, self.strides, self.padding, self.dilation)
        matrices = dense_matrices(places, kernels)
        return np.swapaxes(matrices, 1, 2) if self.transposed else matrices

    def bound(self, kernel, norm=L2, budget=0.01):
        fields = (self.strides, self.dilation, self.padding)
        sizes = self.size if self.known else (None,) * 2
        grouped = kernel[..., None, :, :]
        convolution = Convolution(grouped, *fields, sizes, self.transposed)
        return operator_bound(convolution, norm, budget)[0]


def kernels_of(rng, count, geometry, inputs, outputs):
    """Random kernels, a third of them adversarial: constant, or isometries of patches."""
    kernels = rng.standard_normal((count, *geometry.kernel_size, inputs, outputs))
    flat = kernels.reshape(count, -1, outputs)
    some = np.arange(count) % 6 == 1
    left, _, right = np.linalg.svd(flat[some], full_matrices=False)
    flat[some] = left @ right
    flat[np.arange(count) % 6 == 3] = 1.0
    return flat.reshape(kernels.shape)


def convolutions(geometries, channels=((1, 1), (2, 2), (1, 4)), norm=L2, order=2):
    def draw(rng, count):
        pairs = list(itertools.product(geometries, channels))
        for geometry, (inputs, outputs) in pairs:
            kernels = kernels_of(rng, -(-count // len(pairs)), geometry, inputs, outputs)
            bounds = [geometry.bound(kernel, norm) for kernel in kernels]
            yield norms(geometry.matrices(kernels), order), bounds

    return draw


PADDINGS = ("same", "valid", "circular", "symmetric", "reflect", "replicate")
SMALL = [
    Geometry(size, kernel_size, strides, padding)
    for padding in PADDINGS
    for size, kernel_size, strides in (
        ((4, 4), (3, 3), (1, 1)),
        ((3, 5), (2, 3), (1, 2)),
        ((1, 9), (1, 5), (1, 1)),
        ((5, 4), (3, 2), (2, 1)),
    )
]
DILATED = [
    Geometry((5, 6), (2, 3), padding=padding, dilation=(2, 2)) for padding in ("same", "valid")
]
TRANSPOSED = [
    Geometry(size, kernel_size, strides, padding, transposed=True)
    for padding in ("same", "valid")
    for size, kernel_size, strides in (
        ((3, 3), (3, 3), (1, 1)),
        ((3, 3), (3, 3), (2, 2)),
        ((1, 4), (1, 5), (1, 2)),
    )
]
LONG = [
    Geometry((1, 48), (1, k), padding=p, known=False) for k in (2, 3) for p in ("same", "valid")
]


def of_large_images(kernels, strides):
    """Norms of convolutions of the infinite image, from below, by NumPy's FFT.

    They are the largest at the frequencies of a grid: up to three taps, within 0.5%. A stride folds
    several frequencies of the input to one of the output.
    """
    points = [s if k == 1 else 48 * s for k, s in zip(kernels.shape[1:3], strides, strict=True)]
    symbols = np.fft.fft2(kernels, points, axes=(1, 2)) / np.sqrt(np.prod(strides))
    split = [part for s, n in zip(strides, points, strict=True) for part in (s, n // s)]
    folded = symbols.reshape(len(kernels), *split, *kernels.shape[3:])
    folded = folded.transpose(0, 2, 4, 6, 1, 3, 5)
    return norms(folded.reshape(*folded.shape[:4], -1)).max(axis=(1, 2))


def any_size(geometries, sizes, channels=((1, 1), (2, 2), (1, 4))):
    """The bound holds for every size: it is compared with the largest norm of many, and of large.

    Paddings that copy or wrap round can only add to the norm of large images: far from the border
    they do nothing.
    """

    def draw(rng, count):
        pairs = list(itertools.product(geometries, channels))
        for geometry, (inputs, outputs) in pairs:
            kernels = kernels_of(rng, -(-count // len(pairs)), geometry, inputs, outputs)
            bounds = [geometry.bound(kernel) for kernel in kernels]
            # Rows for kernels of one row; other sizes only repeat it.
            some = [size for size in sizes if geometry.kernel_size[0] > 1 or size[0] == 1]
            images = [replace(geometry, size=size) for size in (geometry.size, *some)]
            largest = [norms(image.matrices(kernels)) for image in images]
            largest.append(of_large_images(kernels, geometry.strides))
            yield np.max(largest, axis=0), bounds

    return draw


SIZES_AND_KERNELS = (
    ((3, 3), (3, 3), (1, 1)),
    ((5, 4), (2, 3), (1, 2)),
    ((1, 6), (1, 3), (1, 1)),
)
ANY_SIZE = [
    Geometry(size, kernel_size, strides, padding, known=False)
    for padding in ("same", "valid", "circular")
    for size, kernel_size, strides in SIZES_AND_KERNELS
    if padding != "circular" or strides == (1, 1)
]
WRAPPING = [
    Geometry(size, kernel_size, (1, 2), "circular", known=False)
    for size, kernel_size in (((5, 4), (2, 3)), ((1, 6), (1, 3)))
]
COPYING = [
    Geometry(size, kernel_size, strides, padding, known=False)
    for padding in ("symmetric", "reflect", "replicate")
    for size, kernel_size, strides in SIZES_AND_KERNELS
]
LARGER = [(5, 5), (3, 9)]
ROWS = [(1, n) for n in (1, 2, 3, 4, 5, 7, 9, 12, 31)]
IMAGES = [*ROWS[:5], *((n, 1) for n in (2, 3, 4)), (2, 2), (2, 5), (4, 3), (4, 9), (9, 4), (8, 8)]


def orthogonal_convolutions(rng, count):
    """Products of shifts and projections (BCOP), of unknown image size: their norm is 1."""
    geometry = Geometry((4, 4), (2, 2), padding="circular", known=False)
    halves = np.linalg.qr(rng.standard_normal((2, count, 4, 4)))[0][..., :2]
    across, down = halves @ np.swapaxes(halves, -1, -2)
    mixing = np.linalg.qr(rng.standard_normal((count, 4, 4)))[0]
    eye = np.eye(4)
    rows = [[a @ b @ mixing for b in (down, eye - down)] for a in (across, eye - across)]
    kernels = np.stack([np.stack(row, axis=1) for row in rows], axis=1)
    bounds = [geometry.bound(kernel) for kernel in kernels]
    yield norms(geometry.matrices(kernels)), bounds


def grouped(known):
    """Blocks: the norm is the largest of theirs, neither their product nor their sum."""

    def draw(rng, count):
        geometry = Geometry((4, 4), (3, 3))
        kernels = rng.standard_normal((count, 3, 3, 3, 2, 2))
        groups = [kernels[:, :, :, group] for group in range(3)]
        exact = [norms(geometry.matrices(group)) for group in groups]
        if not known:
            exact += [of_large_images(group, (1, 1)) for group in groups]
        sizes = (4, 4) if known else (None, None)
        cases = [Convolution(kernel, (1, 1), (1, 1), "same", sizes) for kernel in kernels]
        yield np.max(exact, axis=0), [convolution_bound(one, 0.01)[0] for one in cases]

    return draw
