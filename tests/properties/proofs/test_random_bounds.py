"""More than 100,000 random layers and graphs: no float64 oracle exceeds a proven bound.

Each row of `FAMILIES` draws cases and returns the oracles' norms and the bounds. The oracles are
dense matrices in float64, made by plain NumPy or by pushing the identity through a Keras layer, and
their singular values; nothing of `bounds` takes part. `pytest -s` prints the table of the smallest
(loosest) and largest (tightest) ratio oracle / bound of each family.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers, ops

from deel_lip_tf import layers as lip
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.bounds.norms.operators import operator_bound
from deel_lip_tf.bounds.norms.spectral import spectral_norm_bound
from deel_lip_tf.semantics.norms import L1, LINF
from deel_lip_tf.semantics.operators import Matrices
from tests._oracles.random_convolutions import (
    ANY_SIZE,
    COPYING,
    DILATED,
    IMAGES,
    LARGER,
    LONG,
    PADDINGS,
    ROWS,
    SMALL,
    TRANSPOSED,
    WRAPPING,
    any_size,
    convolutions,
    grouped,
    norms,
    orthogonal_convolutions,
)

ROUNDING = 1 + 1e-12  # of numpy's singular values and sums, for the sizes below


@dataclass(frozen=True)
class Family:
    """Random cases of one kind.

    `loosest` is what every ratio oracle / bound must exceed, `reached` what one of them must.
    """

    name: str
    count: int
    draw: Callable
    loosest: float = 0.0
    reached: float = 0.0

    def __str__(self):
        return self.name


# --- matrices ----------------------------------------------------------------------------------


def difficult(rng, count, rows, columns):
    """Matrices of one shape: random, of rank one, graded, at all scales, nearly orthogonal."""
    matrices = rng.standard_normal((count, rows, columns))
    kinds = np.arange(count) % 6
    left, right = matrices[:, :, :1], matrices[:, :1, :]
    graded = 10.0 ** -np.arange(columns)
    matrices[kinds == 1] = (left * right)[kinds == 1]
    matrices[kinds == 2] *= graded
    matrices[kinds == 3] *= 10.0 ** rng.integers(-250, 250, (count, 1, 1))[kinds == 3]
    matrices[kinds == 4] = 1.0 + 1e-9 * matrices[kinds == 4]
    matrices[kinds == 5] = np.eye(rows, columns) + 1e-7 * matrices[kinds == 5]
    return matrices


def scaled_norms(matrices):
    """`norms` that neither overflow nor underflow."""
    largest = np.abs(matrices).max(axis=(1, 2))
    return norms(matrices / largest[:, None, None]) * largest


def dense(rng, count):
    shapes = list(itertools.product(range(1, 6), repeat=2))
    for rows, columns in shapes:
        matrices = difficult(rng, count // len(shapes), rows, columns)
        yield scaled_norms(matrices), [spectral_norm_bound(matrix) for matrix in matrices]


def orthogonal(rng, count):
    for order in (2, 3, 6, 9, 16):
        matrices = np.linalg.qr(rng.standard_normal((count // 5, order, order)))[0]
        matrices = matrices[:, :, : max(order - 1, 1)].astype(np.float32)
        yield norms(matrices.astype(np.float64)), [spectral_norm_bound(m) for m in matrices]


def dense_sums(rng, count):
    for norm, order in ((LINF, np.inf), (L1, 1)):
        matrices = difficult(rng, count // 2, 3, 5)
        bounds = [operator_bound(Matrices(m[None]), norm)[0] for m in matrices]
        yield norms(np.swapaxes(matrices, 1, 2), order), bounds


# --- layers without kernel ---------------------------------------------------------------------


def matrix_of_layer(layer, shape):
    """(outputs, inputs) of an affine layer, by pushing the identity and the origin through it."""
    size = int(np.prod(shape))
    points = np.concatenate([np.eye(size), np.zeros((1, size))]).reshape(-1, *shape)
    images = np.asarray(ops.convert_to_numpy(layer(points))).reshape(size + 1, -1)
    return (images[:-1] - images[-1]).T


def poolings(rng, count):
    sizes, windows, strides = range(1, 10), range(1, 5), range(1, 4)
    cases = itertools.product(sizes, windows, strides, ("same", "valid"))
    cases = [case for case in cases if case[3] == "same" or case[0] >= case[1]]
    for size, window, stride, padding in cases[:count]:
        layer = layers.AveragePooling1D(window, stride, padding, dtype="float64")
        matrix = matrix_of_layer(layer, (size, 1))
        layer.build((None, size, 1))
        for norm, order in (("l2", 2), ("linf", np.inf), ("l1", 1)):
            yield norms(matrix[None], order), [lipschitz_bound(layer, norm=norm).value]


def diagonals(rng, count):
    """Batch normalization, rescaling and normalization with random state, in all three norms."""
    batch = layers.BatchNormalization(dtype="float64")
    batch.build((None, 3))
    for _ in range(count // 9):
        batch.set_weights([*rng.standard_normal((3, 3)), np.exp(rng.standard_normal(3) * 4)])
        shape = [(3,), (2, 3), (2, 1)][rng.integers(3)]
        rescaling = layers.Rescaling(rng.standard_normal(3), rng.random(), dtype="float64")
        mean, variance = rng.standard_normal(3), np.exp(rng.standard_normal(3) * 4)
        scaling = layers.Normalization(mean=mean, variance=variance, dtype="float64")
        for layer, where in ((batch, (3,)), (rescaling, shape), (scaling, (2, 3))):
            matrix = matrix_of_layer(layer, where)[None]  # builds it
            for norm, order in (("l2", 2), ("linf", np.inf), ("l1", 1)):
                yield norms(matrix, order), [lipschitz_bound(layer, norm=norm).value]


ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "hard_silu", "mish"),
    *("sigmoid", "hard_sigmoid", "log_sigmoid", "tanh", "hard_tanh", "tanh_shrink"),
    *("softplus", "squareplus", "softsign", "softmax"),
)


def activations(rng, count):
    """Quotients of pairs at random distances, near and far from the kinks."""
    for name in ACTIVATIONS:
        scale = 10.0 ** rng.uniform(-3, 1, (count // len(ACTIVATIONS), 1))
        x = 3 * rng.standard_normal((len(scale), 4))
        y = x + scale * rng.standard_normal(x.shape)
        layer = layers.Activation(name, dtype="float64")
        f = [ops.convert_to_numpy(layer(point)) for point in (x, y)]
        quotients = np.linalg.norm(f[0] - f[1], axis=1) / np.linalg.norm(x - y, axis=1)
        # Differences of values near 1 at a distance of 1e-3 are rounded by 1e-13.
        yield quotients * (1 - 1e-11), [lipschitz_bound(layer).value] * len(x)


# --- graphs ------------------------------------------------------------------------------------

KIND = {"dtype": "float64", "use_bias": False}


def block(rng, tensor, filters=2):
    """One random affine layer that keeps the size (4, 4)."""
    choices = [
        lambda: layers.Conv2D(filters, 3, padding="same", **KIND),
        lambda: layers.DepthwiseConv2D(2, padding="same", depth_multiplier=1, **KIND),
        lambda: layers.SeparableConv2D(filters, 3, padding="same", **KIND),
        lambda: layers.Dense(filters, **KIND),
        lambda: layers.EinsumDense("abcd,bde->abce", (4, 4, filters), dtype="float64"),
        lambda: layers.AveragePooling2D(2, 1, padding="same", dtype="float64"),
        lambda: lip.SpectralConv2D(filters, 3, padding=PADDINGS[rng.integers(2, 6)], **KIND),
        lambda: lip.LayerCentering(use_bias=False, dtype="float64"),
        lambda: layers.Permute((2, 1, 3), dtype="float64"),
    ]
    return choices[rng.integers(len(choices))]()(tensor)


def merged(rng, tensor):
    """Two branches of one tensor, or of its slices, merged in a random way."""
    first, second = tensor, tensor
    if rng.random() < 0.3:
        first, second = ops.split(tensor, 2, axis=1)
        joined = [2 * first, second] if rng.random() < 0.5 else [-second, ops.flip(first, 1)]
        return layers.Concatenate(axis=1, dtype="float64")(joined)
    first, second = block(rng, first), block(rng, second)
    merge = [layers.Add, layers.Subtract, layers.Average, lip.LipResidual][rng.integers(4)]
    return merge(dtype="float64")([first, second])


def random_model(rng):
    """A random affine graph over (4, 4, 2), with one or two inputs."""
    inputs = [keras.Input((4, 4, 2), dtype="float64") for _ in range(rng.integers(1, 3))]
    tensors = [block(rng, tensor) for tensor in inputs]
    tensor = tensors[0]
    if len(tensors) > 1:
        merge = layers.Add if rng.random() < 0.5 else layers.Concatenate
        tensor = layers.Dense(2, **KIND)(merge(dtype="float64")(tensors))
    for _ in range(rng.integers(1, 4)):
        tensor = merged(rng, tensor) if rng.random() < 0.6 else block(rng, tensor)
    outputs = [tensor, tensors[0]] if rng.random() < 0.2 else tensor
    return keras.Model(inputs, outputs)


def matrix_of_model(model):
    sizes = [int(np.prod(tensor.shape[1:])) for tensor in model.inputs]
    points = np.concatenate([np.eye(sum(sizes)), np.zeros((1, sum(sizes)))])
    parts = np.split(points, np.cumsum(sizes)[:-1], axis=1)
    outputs = model([part.reshape(-1, 4, 4, 2) for part in parts])
    outputs = outputs if isinstance(outputs, list) else [outputs]
    flat = [np.asarray(ops.convert_to_numpy(y)).reshape(len(points), -1) for y in outputs]
    joint = np.concatenate(flat, axis=1)
    return (joint[:-1] - joint[-1]).T[None]


def graphs(rng, count):
    each = 6  # weights for each architecture
    for _ in range(count // (3 * each)):
        model = random_model(rng)
        for _ in range(each):
            for weight in model.weights:
                weight.assign(rng.standard_normal(weight.shape))
            matrix = matrix_of_model(model)
            for norm, order in (("l2", 2), ("linf", np.inf), ("l1", 1)):
                bound = lipschitz_bound(model, norm=norm, budget=0.01).value
                yield norms(matrix, order), [bound]


FAMILIES = [
    Family("dense", 50_000, dense, loosest=0.99, reached=1 - 1e-9),
    Family("dense, orthogonal", 10_000, orthogonal, loosest=0.99, reached=1 - 1e-9),
    Family("dense, linf and l1", 20_000, dense_sums, loosest=0.99),
    Family("convolution, known size", 3_000, convolutions(SMALL), loosest=0.9, reached=0.999),
    Family("convolution, dilated", 600, convolutions(DILATED), loosest=0.9, reached=0.999),
    Family("convolution, transposed", 900, convolutions(TRANSPOSED), loosest=0.9, reached=0.999),
    Family("convolution, long, unknown size", 600, convolutions(LONG), loosest=0.9, reached=0.99),
    Family("convolution, orthogonal", 600, orthogonal_convolutions, loosest=0.99, reached=0.999),
    Family(
        "convolution, any size", 1_200, any_size(ANY_SIZE, LARGER), loosest=0.9, reached=0.99,
    ),
    # Where the stride does not divide the size, patches are closer to each other at the seam: the
    # bound is that without stride, which some kernels reach and most do not.
    Family(
        "convolution, any size, seam", 180, any_size(WRAPPING, ROWS + IMAGES), loosest=0.7,
        reached=0.99,
    ),
    # How often a pixel is copied bounds what a border adds: by sqrt(2) and more for each axis,
    # which kernels reach that shift the image across the border, and random ones do not.
    Family(
        "convolution, any size, copying", 540, any_size(COPYING, ROWS + IMAGES), loosest=0.4,
        reached=0.9,
    ),
    Family("convolution, groups", 400, grouped(True), loosest=0.9, reached=0.999),
    Family("convolution, groups, any size", 400, grouped(False), loosest=0.9, reached=0.99),
    Family(
        "convolution, linf", 5_000,
        convolutions(SMALL + DILATED + TRANSPOSED, norm=LINF, order=np.inf),
        loosest=0.99, reached=0.999,
    ),
    Family(
        "convolution, l1", 5_000, convolutions(SMALL + DILATED + TRANSPOSED, norm=L1, order=1),
        loosest=0.99, reached=0.999,
    ),
    # In l2 by Schur's test: windows at the border hold fewer elements than those between.
    Family("average pooling", 180, poolings, loosest=0.2, reached=0.999),
    # An input that an argument broadcasts takes the largest factor for each of its copies.
    Family("diagonal layers", 1_500, diagonals, loosest=0.3, reached=0.999),
    # Quotients of random pairs: far from the steepest place they say nothing about the bound.
    Family("activations", 10_000, activations, reached=0.999),
    # Constants multiply along a graph, which is loose by as much as its layers do not align.
    Family("graphs", 540, graphs, reached=0.99),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_no_oracle_exceeds_the_bound(family, rng, record_property):
    parts = [(np.asarray(a), np.asarray(b)) for a, b in family.draw(rng, family.count)]
    norm, bound = (np.concatenate(side) for side in zip(*parts, strict=True))
    assert len(norm) >= family.count * 0.99
    violations = np.flatnonzero(~(norm <= bound * ROUNDING))
    assert not len(violations), (norm[violations[0]], bound[violations[0]])
    ratio = norm[bound > 0] / bound[bound > 0]
    record_property("cases", len(norm))
    record_property("loosest", float(ratio.min()))
    record_property("tightest", float(ratio.max()))
    print(f"\n{family.name:32s} {len(norm):7d} cases, {ratio.min():.6f} to {ratio.max():.6f}")
    assert ratio.min() >= family.loosest
    assert ratio.max() >= family.reached


def test_there_are_more_than_a_hundred_thousand_cases():
    assert sum(family.count for family in FAMILIES) >= 100_000


def test_a_bound_that_is_too_small_is_found(rng, monkeypatch):
    """The oracles are sharp enough to see a bound that is one part in 1e9 too small."""
    for family in (FAMILIES[0], FAMILIES[3]):
        norm, bound = (np.concatenate(s) for s in zip(*family.draw(rng, 360), strict=True))
        assert (norm > np.asarray(bound) * (1 - 1e-9) * ROUNDING).any()
