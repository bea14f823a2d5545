"""Convex potential layers against their formulas, their dense matrices and adversarial pairs."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import deel_lip_tf as lip
from deel_lip_tf import bounds, certificates, layers, verify
from deel_lip_tf.normalizers import SLL, Operation, Projected
from tests._oracles import oracles
from tests._oracles.tolerances import SAME_FLOAT32, SOUND
from tests._tables.cases import POTENTIALS

DENSE = [layers.SLLDense, layers.CPLDense]
IMAGES = [layers.SLLConv2D, layers.CPLConv2D]
SHAPE = (5, 4, 2)


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x), np.float64)


def matrix_of(layer, shape):
    """`V^T` as a matrix, by loops in float64 over the kernel that the layer computes with."""
    kernel = numpy(layer.effective_kernel())
    if kernel.ndim == 2:
        return kernel.T
    return oracles.matrix_of(lambda x: oracles.conv2d(x, kernel, (1, 1), layer.padding), shape)


def hard_weights(layer, rng):
    """Raw kernels, and scales of all sizes, that the proofs would break at."""
    shape = layer.kernel.shape
    normal = rng.normal(size=(np.prod(shape[:-1]), shape[-1]))
    left, _, right = np.linalg.svd(normal, full_matrices=False)
    mixed = normal * 10.0 ** rng.integers(-25, 1, size=shape[-1])
    rank_one = np.outer(rng.normal(size=len(normal)), rng.normal(size=shape[-1]))
    one_tap = np.zeros_like(normal)
    one_tap[: shape[-2]] = np.eye(*shape[-2:])
    kernels = [normal, left @ right, np.ones_like(normal), rank_one, mixed, one_tap, 0 * normal]
    for kernel in kernels:
        for scale in (1.0, 1e30, 1e-30):
            layer.kernel.assign((scale * kernel).reshape(shape))
            if "scales" in layer.branch.raw_weights:
                drawn = rng.choice([0.0, 1.0, -60.0, 1e4], size=shape[-1]) * rng.normal()
                layer.branch.raw_weights["scales"].assign(drawn)
            yield


def applied(layer, x):
    return numpy(layer(x)).reshape(len(x), -1)


@pytest.mark.parametrize("case", POTENTIALS, ids=str)
def test_no_weights_make_the_kernel_exceed_one(case, rng):
    layer = case.make()
    layer.build((None, *case.shape))
    norms = []
    for _ in hard_weights(layer, rng):
        kernel = numpy(layer.effective_kernel())
        assert np.isfinite(kernel).all()
        norms.append(oracles.spectral_norm(matrix_of(layer, case.shape)))
        assert norms[-1] <= SOUND
        x = rng.normal(size=(2, *case.shape)).astype("float32")
        assert np.isfinite(numpy(layer(x))).all()
    assert max(norms) > 0.9


@pytest.mark.parametrize("case", POTENTIALS, ids=str)
def test_it_is_the_formula_of_its_kernel(case, rng):
    layer = case.make(dtype="float64", k_coef_lip=0.7, bias_initializer="random_normal")
    x = rng.normal(size=(6, *case.shape))
    y = applied(layer, x)
    matrix = matrix_of(layer, case.shape)
    hidden = x.reshape(6, -1) @ matrix.T
    if layer.bias is not None:
        hidden += np.tile(numpy(layer.bias), hidden.shape[1] // layer.bias.shape[0])
    expected = x.reshape(6, -1) - 2 * np.maximum(hidden, 0) @ matrix
    np.testing.assert_allclose(y, 0.7 * expected, rtol=1e-9, atol=1e-12)


def test_sll_is_the_formula_of_the_paper(rng):
    """`x - 2 W T^-1 relu(W^T x + b)`, with `b = T^(1/2) bias`."""
    layer = layers.SLLDense(5, dtype="float64", bias_initializer="random_normal")
    x = rng.normal(size=(3, 4))
    y = numpy(layer(x))
    w, q = numpy(layer.kernel), np.exp(numpy(layer.branch.raw_weights["scales"]))
    t = (np.abs(w.T @ w) * q[None] / q[:, None]).sum(axis=1)
    b = np.sqrt(t) * numpy(layer.bias)
    expected = x - 2 * (np.maximum(x @ w + b, 0) / t) @ w.T
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)
    assert np.ptp(q) > 0.1


@pytest.mark.usefixtures("keras_in_float64")  # `norm_bound` is called by itself
def test_cpl_is_the_formula_of_the_paper(rng):
    layer = layers.CPLDense(5, dtype="float64")
    x = rng.normal(size=(3, 4))
    y = numpy(layer(x))
    w = numpy(layer.kernel)
    norm = numpy(Operation().norm_bound(layer.kernel))
    assert np.linalg.norm(w, 2) <= norm <= np.linalg.norm(w, 2) * 1.02
    expected = x - 2 * np.maximum(x @ w, 0) @ w.T / norm**2
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", POTENTIALS, ids=str)
def test_adversarial_pairs_stay_together(case, rng):
    """Ascent of the ratio of distances, by the power method on differences of outputs."""
    layer = case.make(dtype="float64")
    layer.build((None, *case.shape))
    bound = bounds.lipschitz_bound(layer).value
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    point = rng.normal(size=(8, *case.shape))
    step = rng.normal(size=(8, *case.shape))
    for _ in range(20):
        step = step / np.linalg.norm(step.reshape(8, -1), axis=1).reshape(8, *[1] * (step.ndim - 1))
        moved = numpy(layer(point + step)) - numpy(layer(point - step))
        assert (np.linalg.norm(moved.reshape(8, -1), axis=1) <= 2 * bound * SOUND).all()
        step = moved


@pytest.mark.parametrize("excess", [2.0, 3.0])
@pytest.mark.parametrize("cls", [*DENSE, *IMAGES])
def test_the_bound_counts_a_kernel_above_one(cls, excess, monkeypatch, rng):
    """`2 ||V||**2 - 1`, which is attained where all hidden units are active."""
    arguments, shape = ({}, (4,)) if cls in DENSE else (dict(kernel_size=3), SHAPE)
    layer = cls(**arguments, dtype="float64", bias_initializer=keras.initializers.Constant(1e3))
    layer.build((None, *shape))
    own = layer.parametrization_class.projected

    def enlarged(self, weights, operation):
        return Projected(excess * own(self, weights, operation).kernel)

    monkeypatch.setattr(layer.parametrization_class, "projected", enlarged)
    left, values, right = np.linalg.svd(matrix_of(layer, shape))
    bound = bounds.lipschitz_bound(layer).value
    assert values[0] > 1.2
    x = np.stack([np.zeros(shape), right[0].reshape(shape)])
    first, second = applied(layer, x)
    attained = np.linalg.norm(first - second)
    assert attained == pytest.approx(2 * values[0] ** 2 - 1, rel=1e-9)
    assert attained <= bound <= attained * 1.001 + 1e-9


def test_a_kernel_within_one_has_the_constant_one(rng):
    """Not a unit of the last place more, however deep the network."""
    blocks = [layers.CPLDense(16) for _ in range(20)]
    model = keras.Sequential([keras.Input((8,)), *blocks])
    assert bounds.lipschitz_bound(model).value == 1.0


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("case", POTENTIALS, ids=str)
def test_the_other_norms(case, norm, rng):
    layer = case.make(dtype="float64", bias_initializer="random_normal")
    layer.build((None, *case.shape))
    bound = bounds.lipschitz_bound(layer, norm).value
    order = {"linf": np.inf, "l1": 1}[norm]
    for _ in range(2):
        point = rng.normal(size=case.shape)
        jacobian = oracles.jacobian_by_batch(lambda x: applied(layer, x), point)
        assert np.linalg.norm(jacobian, order) <= bound * SOUND


@pytest.mark.parametrize("case", POTENTIALS, ids=str)
def test_exports_load_without_this_library(case, rng, tmp_path):
    layer = case.make(k_coef_lip=0.5, bias_initializer="random_normal")
    x = rng.normal(size=(4, *case.shape)).astype("float32")
    expected = applied(layer, x)
    exported = layer.vanilla_export()
    assert exported.name == layer.name
    model = keras.Sequential([keras.Input(case.shape), exported])
    assert "deel_lip_tf" not in model.to_json()
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(applied(reloaded, x), expected, **SAME_FLOAT32)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("case", POTENTIALS, ids=str)
def test_exports_are_recognized(case, norm):
    """The bound of a plain Keras graph of this form is that of the layer: exactly 1 in l2."""
    layer = case.make()
    layer.build((None, *case.shape))
    exported = keras.Sequential([keras.Input(case.shape), layer.vanilla_export()])
    expected = bounds.lipschitz_bound(layer, norm).value
    assert bounds.lipschitz_bound(exported, norm).value == pytest.approx(expected, rel=1e-12)
    if norm == "l2":
        assert expected == 1.0


@pytest.mark.parametrize("change", ["kernel", "activation", "twice", "source", "sign"])
def test_what_only_resembles_an_export_is_not(change, rng):
    """Each would be claimed to be 1-Lipschitz falsely; the oracle is the Jacobian."""
    v = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    activation = "tanh" if change == "activation" else "relu"
    x = keras.Input((4,), dtype="float64")
    first = keras.layers.Dense(4, activation=activation, dtype="float64", name="first")
    second = keras.layers.Dense(4, dtype="float64", name="second")
    source = keras.layers.Rescaling(-1.0, dtype="float64")(x) if change == "source" else x
    gradient = second(first(source))
    if change == "sign":
        gradient = keras.layers.Rescaling(-1.0, dtype="float64")(gradient)
    if change == "twice":
        gradient = second(first(gradient))
    model = keras.Model(x, keras.layers.Add(dtype="float64")([x, gradient]))
    other = v.T if change != "kernel" else v.T * np.array([1.0, 1, 1, -1])
    first.set_weights([v, np.full(4, 0.5)])
    second.set_weights([-2 * other, np.zeros(4)])
    assert bounds.lipschitz_bound(model).value > 1.0


def test_a_file_is_read_where_this_library_is_not(tmp_path, rng):
    layer = layers.SLLConv2D(3, 4, "circular")
    x = rng.normal(size=(1, *SHAPE)).astype("float32")
    np.savez(tmp_path / "pair.npz", x=x, y=layer(x))
    layer.vanilla_export().save(tmp_path / "model.keras")
    code = (
        "import sys, numpy as np, keras\n"
        "pair = np.load(sys.argv[1] + '/pair.npz')\n"
        "model = keras.models.load_model(sys.argv[1] + '/model.keras')\n"
        "assert np.allclose(model(pair['x']), pair['y'], atol=1e-5)\n"
        "assert not any(name.startswith('deel_lip_tf') for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


DEEP = {
    "SLLDense": lambda: layers.SLLDense(16),
    "CPLDense": lambda: layers.CPLDense(16),
    "LiResDense": lambda: layers.LiResDense(8, activation=layers.GroupSort2(), depth=6),
    "SLLConv2D": lambda: layers.SLLConv2D(3, 8),
    "CPLConv2D": lambda: layers.CPLConv2D(3, 8),
    "LiResConv2D": lambda: layers.LiResConv2D(8, 3, activation=layers.GroupSort2(), depth=6),
}


def deep_model(kind, depth=6):
    """Six blocks of a kind, between two orthogonal layers."""
    last = layers.SpectralDense(2)
    blocks = [DEEP[kind]() for _ in range(depth)]
    if "Dense" in kind:
        return lip.Sequential([keras.Input((4,)), layers.SpectralDense(8), *blocks, last])
    first = layers.SpectralConv2D(8, 1)
    pool = layers.ScaledGlobalL2NormPooling2D()
    return lip.Sequential([keras.Input((3, 3, 2)), first, *blocks, pool, last])


# A normalized LiResConv2D loses some 4 % of its gradient, which six of them do not learn this with.
@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in DEEP if kind != "LiResConv2D"])
def test_deep_networks_learn_and_are_certified(kind, rng):
    """Which half of the features has more energy, which no linear layer tells.

    Certificates are of the program that runs in float32, too: rounding is not multiplied by three
    in each block.
    """
    keras.utils.set_random_seed(0)
    model = deep_model(kind)
    x = rng.normal(size=(256, *model.input_shape[1:])).astype("float32")
    energies = (x**2).reshape(256, -1, 2).sum(axis=1)
    y = (energies[:, 0] > energies[:, 1]).astype(int)
    loss = lip.losses.TauSparseCategoricalCrossentropy(tau=20.0)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    history = model.fit(x, y, batch_size=64, epochs=15, verbose=0).history
    assert history["accuracy"][-1] > 0.85
    exact = certificates.certify(model, x[:32], y[:32])
    assert exact.bound <= SOUND
    assert np.median(exact.radius) > 0.02
    rounded = certificates.certify(model, x[:32], y[:32], semantics="float32")
    assert (rounded.radius <= exact.radius).all()
    assert (rounded.radius >= exact.radius - 0.01).all()


@pytest.mark.parametrize("cls", DENSE)
def test_branch_and_bound_decides_small_networks(cls, rng, tf):
    """The primitives are those of the layer: boxes around points, searched to the end."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((3,)), cls(4), cls(4), keras.layers.Dense(2)], name="verified"
    )
    for weight in model.weights:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    x = rng.normal(size=(4, 3)).astype("float32")
    labels = np.argmax(model(x), axis=1)
    decided = 0
    for eps in (0.01, 0.1, 1.0):
        result = verify.robustness(model, x, labels, eps, clip=None, method="branch-and-bound")
        points = x[:, None] + eps * rng.uniform(-1, 1, size=(4, 500, 3)).astype("float32")
        found = np.argmax(numpy(model(points.reshape(-1, 3))), axis=1).reshape(4, 500)
        is_robust = np.asarray(result.status) == "robust"
        assert (found[is_robust] == labels[is_robust, None]).all()
        decided += np.isin(np.asarray(result.status), ["robust", "falsified"]).sum()
    assert decided == 12


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: layers.SLLConv2D(2), ValueError, "odd kernel sizes"),
        (lambda: layers.CPLConv2D(3, padding="reflect"), ValueError, 'padding="same" or'),
        (lambda: layers.SLLConv2D(3, padding="valid"), ValueError, 'padding="same" or'),
        (lambda: layers.SLLConv2D(3, strides=2), (TypeError, ValueError), "strides"),
        (lambda: layers.CPLDense(0), ValueError, "`hidden` must be an integer of at least 1"),
        (lambda: layers.SLLDense(k_coef_lip=-1.0), ValueError, "`k_coef_lip` must be positive"),
        (lambda: layers.SLLDense().effective_kernel(), ValueError, "build the layer first"),
        (lambda: layers.SLLDense().build((None, None)), ValueError, "number of channels"),
    ],
)
def test_what_has_no_proof_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_scales_have_the_gradient_of_finite_differences(rng, tf):
    kernel, scales = rng.normal(size=(4, 5)), rng.normal(size=5)
    direction = rng.normal(size=(4, 5))

    def value(s):
        projected = SLL().projected({"kernel": tf.constant(kernel), "scales": s}, Operation())
        return tf.reduce_sum(direction * projected.kernel)

    s = tf.constant(scales)
    with tf.GradientTape() as tape:
        tape.watch(s)
        y = value(s)
    expected = oracles.jacobian(lambda v: np.array([value(tf.constant(v)).numpy()]), scales)
    np.testing.assert_allclose(tape.gradient(y, s), expected.ravel(), rtol=1e-5, atol=1e-7)
