"""Certificates against exact distances, attacks, and every way to be asked wrongly."""

from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf.bounds.evaluation.model import Float64Evaluator
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.certificates import (
    Certificates,
    certify,
    class_divisors,
    margin_lipschitz_constants,
)
from deel_lip_tf.certificates.proofs import _pairwise
from deel_lip_tf.certificates.radii import Evaluated, certified_radii

RNG = np.random.default_rng(1)


def linear_model(kernel, bias, dtype="float64"):
    model = keras.Sequential(
        [keras.Input(kernel.shape[:1]), layers.Dense(kernel.shape[1], dtype=dtype)]
    )
    model.set_weights([kernel, bias])
    return model


def boundary_distances(kernel, bias, x):
    """Exact distance of each sample to the nearest other class of a linear model."""
    logits = x @ kernel + bias
    top = logits.argmax(axis=1)
    gaps = np.take_along_axis(logits, top[:, None], 1) - logits
    norms = np.linalg.norm(kernel.T[top][:, None] - kernel.T[None], axis=2)
    norms[np.arange(len(x)), top] = 1.0
    gaps[np.arange(len(x)), top] = np.inf
    return (gaps / norms).min(axis=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [2, 5, 30])
def test_a_linear_model_is_certified_up_to_its_boundary(classes, dtype):
    kernel = RNG.standard_normal((20, classes)).astype(dtype)
    bias = RNG.standard_normal(classes).astype(dtype)
    x = RNG.standard_normal((200, 20))
    certificates = certify(linear_model(kernel, bias, dtype), x)
    exact = boundary_distances(kernel.astype(float), bias.astype(float), x)
    assert (certificates.radius <= exact).all()
    assert certificates.radius == pytest.approx(exact, rel=1e-9, abs=1e-11)
    assert (certificates.label == (x @ kernel + bias).argmax(axis=1)).all()


def test_one_output_is_certified_up_to_its_boundary():
    kernel, bias = RNG.standard_normal((20, 1)), RNG.standard_normal(1)
    x = RNG.standard_normal((200, 20))
    certificates = certify(linear_model(kernel, bias), x)
    score = (x @ kernel + bias)[:, 0]
    exact = np.abs(score) / np.linalg.norm(kernel)
    assert (certificates.radius <= exact).all()
    assert certificates.radius == pytest.approx(exact, rel=1e-9, abs=1e-11)
    assert (certificates.label == (score > 0)).all()
    assert certificates.margin == pytest.approx(np.abs(score), rel=1e-12)


def dense_network():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(7, activation="tanh"),
            layers.Dense(4),
        ]
    )


def convolutional_network():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Rescaling(2.0, offset=-1.0),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def network_with_branches():
    x = keras.Input((6,))
    y = layers.Dense(6, activation="elu")(x)
    y = layers.Add()([x, y])
    y = layers.Concatenate()([y, 0.5 * x])
    return keras.Model(x, layers.Dense(5)(y))


def nested_network():
    x = keras.Input((6,))
    features = layers.Dense(6, activation="relu")(x)
    head = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, activation="relu"), layers.Dense(3)]
    )
    return keras.Model(x, head(features))


def network_with_nonlinear_head():
    slope = keras.layers.LeakyReLU(negative_slope=0.25)
    return keras.Sequential([keras.Input((6,)), layers.Dense(5), layers.Dense(3, activation=slope)])


def network_with_a_rounded_slope():
    """The slope 0.2 counts as written and as rounded to float32."""
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(5), layers.Dense(3, activation="leaky_relu")]
    )


NETWORKS = [
    dense_network,
    convolutional_network,
    network_with_branches,
    nested_network,
    network_with_nonlinear_head,
]
# Of what the two readings of an argument cost the radius, the margin of the scores knows nothing.
READ_TWICE = [network_with_a_rounded_slope]


def attack(model, x, label, radius, trials):
    """Points at the radius: random ones, and ones found by descending the margin."""
    import tensorflow as tf

    def on_sphere(direction):
        norms = np.linalg.norm(direction.reshape(len(x), -1), axis=1)
        return direction / np.maximum(norms, 1e-30).reshape(-1, *[1] * (x.ndim - 1))

    radius = radius.reshape(-1, *[1] * (x.ndim - 1))
    for trial in range(trials):
        direction = on_sphere(RNG.standard_normal(x.shape))
        for _ in range(0 if trial % 2 else 12):
            point = tf.convert_to_tensor((x + radius * direction).astype("float32"))
            with tf.GradientTape() as tape:
                tape.watch(point)
                logits = model(point)
                others = logits - 1e9 * tf.one_hot(label, logits.shape[1])
                gain = tf.reduce_max(others, axis=1) - tf.gather(logits, label, batch_dims=1)
            step = np.asarray(tape.gradient(gain, point), dtype=np.float64)
            direction = on_sphere(direction + 0.5 * on_sphere(step))
        yield x + radius * direction


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the attack uses GradientTape")
@pytest.mark.parametrize("network", NETWORKS + READ_TWICE)
def test_no_attack_inside_the_radius_changes_the_label(network):
    model = network()
    x = RNG.random((40, *model.input_shape[1:]))
    certificates = certify(model, x, batch_size=16)
    assert (certificates.radius > 0).mean() > 0.9
    for point in attack(model, x, certificates.label, certificates.radius, trials=8):
        assert (certify(model, point).label == certificates.label).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_head_never_weakens_the_joint_rule(network):
    model = network()
    x = RNG.random((20, *model.input_shape[1:]))
    certificates = certify(model, x)
    joint = certificates.margin / (np.sqrt(2) * certificates.bound)
    assert (certificates.radius >= joint * (1 - 1e-6)).all()


def test_batches_do_not_matter():
    model = dense_network()
    x = RNG.random((7, 6))
    whole, parts = certify(model, x), certify(model, x, batch_size=2)
    assert parts.radius == pytest.approx(whole.radius, rel=1e-9)


def test_ties_and_non_finite_logits_certify_nothing():
    kernel = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    model = linear_model(kernel, np.zeros(3))
    x = np.array([[1.0, 0.0], [0.0, 1.0], [np.nan, 0.0], [np.inf, 1.0], [1e308, -1e308]])
    radius = certify(model, x).radius
    assert radius[0] == radius[2] == radius[3] == 0.0
    assert 0.0 < radius[1] <= 1 / np.sqrt(2)
    assert np.isfinite(radius).all()


def test_a_gap_moves_by_the_errors_of_both_its_logits():
    """Errors of one vector of norm e move the difference of two entries by sqrt(2) e."""
    logits, errors = np.array([[3.0, 1.0, 0.0]]), np.array([1.0])
    evaluated = Evaluated(logits, errors, 0.0, np.array([np.inf]))
    found = certified_radii(evaluated, np.array([0]), np.ones((1, 3)))
    moved = logits + np.array([[-1.0, 1.0, 0.0]]) / np.sqrt(2.0)
    assert 0.99 * (moved[0, 0] - moved[0, 1]) < found.radius <= moved[0, 0] - moved[0, 1]


def test_a_slack_of_columns_counts_for_both_of_them():
    """Where each column v is known up to s, a difference of two is longer by up to sqrt(2) s."""
    columns, slack = np.array([[3.0, 0.0], [0.0, 4.0]]), 0.5
    assert _pairwise(columns, 2.0, slack)[0, 1] >= 2.0 * (5.0 + np.sqrt(2.0) * slack)
    assert _pairwise(columns[:, :1], 2.0, slack).item() >= 2.0 * (3.0 + slack)


def test_a_label_that_the_model_itself_does_not_give_is_not_certified():
    """The exact gap is positive, and float32 has not got it."""
    model = linear_model(np.eye(2), np.zeros(2), "float32")
    x = np.array([[1.0, 1.0 + 1e-9]])
    assert np.argmax(model(x.astype("float32"))) == 0
    found = certify(model, x)
    assert found.label == 1 and found.radius == 0


def test_an_infinite_weight_is_refused():
    model = linear_model(np.array([[1.0, np.inf]]), np.zeros(2))
    with pytest.raises(ValueError, match="finite"):
        certify(model, np.ones((1, 1)))


TRUE = np.array([0, 1, 2, 0, 1])


@pytest.mark.parametrize(
    "y",
    [TRUE, TRUE.tolist(), TRUE[:, None], np.eye(3)[TRUE], 2 * np.eye(3)[TRUE] - 1, TRUE * 1.0],
    ids=["integers", "list", "column", "one-hot", "signed one-hot", "floats"],
)
def test_label_encodings(y):
    x = np.eye(3)[[0, 1, 0, 0, 2]] * 2.0
    certificates = certify(linear_model(np.eye(3), np.zeros(3)), x, y)
    assert certificates.label.tolist() == [0, 1, 0, 0, 2]
    assert (certificates.radius > 0).tolist() == [True, True, False, True, False]
    assert certificates.certified_accuracy(0.0) == 0.6
    assert certificates.certified_accuracy([0.0, 1.4, 1.5]).tolist() == [0.6, 0.6, 0.0]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("negative", [0, -1])
def test_binary_labels(negative, shape):
    model = linear_model(np.array([[1.0]]), np.zeros(1))
    y = np.array([1, negative, 1]).reshape(shape)
    certificates = certify(model, np.array([[2.0], [-3.0], [-1.0]]), y)
    assert certificates.label.tolist() == [1, negative, negative]
    assert certificates.radius == pytest.approx([2.0, 3.0, 0.0], rel=1e-9)
    assert certificates.correct.tolist() == [True, True, False]


def test_summary():
    model, x = linear_model(np.eye(3), np.zeros(3)), np.eye(3)
    text = str(certify(model, x, [0, 1, 1]))
    assert "3 samples" in text
    assert "certified accuracy" in text
    assert "66.67%" in text
    assert "certified share" in certify(model, x).summary([0.1])


def saved(tmp_path, semantics="real", **more):
    model = linear_model(np.eye(3, dtype="float32"), np.zeros(3, "float32"), "float32")
    certificates = certify(model, np.eye(3), semantics=semantics, **more)
    path = tmp_path / "radii.npz"
    certificates.save(path)
    return certificates, path


@pytest.mark.parametrize("more", [dict(), dict(y=[0, 1, 1])], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize("semantics", ["real", "float32"])
def test_certificates_are_kept_in_one_file(semantics, more, tmp_path):
    certificates, path = saved(tmp_path, semantics, **more)
    assert [file.name for file in tmp_path.iterdir()] == ["radii.npz"]
    loaded = Certificates.load(str(path))
    assert loaded.semantics == semantics and loaded.bound == certificates.bound
    for name in ("label", "radius", "margin", "correct"):
        old, new = getattr(certificates, name), getattr(loaded, name)
        assert (old is None and new is None) or (old == new).all() and old.dtype == new.dtype
    assert str(loaded) == str(certificates)
    certificates.save(path)  # again, over the old one
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive.files) >= {"label", "radius", "margin", "bound", "semantics"}


def test_nothing_is_half_written(tmp_path, monkeypatch):
    certificates, path = saved(tmp_path)
    before = path.read_bytes()

    def fails(file, **content):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", fails)
    with pytest.raises(OSError, match="no space"):
        certificates.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["radii.npz"]


def test_wrong_paths(tmp_path):
    certificates, path = saved(tmp_path)
    for wrong in (tmp_path, tmp_path / "nowhere" / "radii.npz"):
        with pytest.raises(ValueError, match="`path` must name a file in an existing folder"):
            certificates.save(wrong)
        with pytest.raises(ValueError, match="`path` must name a file that"):
            Certificates.load(wrong)
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", label=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", label=np.array([{}], dtype=object))
    with np.load(path) as archive:
        content = dict(archive)
    np.savez(tmp_path / "lengths.npz", **{**content, "radius": np.zeros(2)})
    np.savez(tmp_path / "semantics.npz", **{**content, "semantics": "imaginary"})
    np.savez(tmp_path / "older.npz", **{**content, "format": "deel_lip_tf certificates 0"})
    np.save(tmp_path / "array.npz", np.zeros(3))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    for name in ("text", "other", "pickled", "lengths", "semantics", "older", "array"):
        with pytest.raises(ValueError, match="Certify again and save"):
            Certificates.load(tmp_path / f"{name}.npz")


def test_divisors_of_a_linear_model_are_the_norms_of_differences():
    kernel = RNG.standard_normal((20, 5))
    assert class_divisors is margin_lipschitz_constants
    divisors = margin_lipschitz_constants(linear_model(kernel, np.zeros(5)))
    exact = np.linalg.norm(kernel[:, :, None] - kernel[:, None], axis=0)
    assert (divisors >= exact).all()
    off = ~np.eye(5, dtype=bool)
    assert divisors[off] == pytest.approx(exact[off], rel=1e-9)
    one = margin_lipschitz_constants(linear_model(kernel[:, :1], np.zeros(1)))
    assert one == pytest.approx(np.linalg.norm(kernel[:, :1]), rel=1e-9)
    with pytest.raises(TypeError, match="`model`"):
        margin_lipschitz_constants(kernel)


@pytest.mark.parametrize("shape", [(3,), (3, 5), (0, 4), (3, 4, 1), (4,)])
def test_wrong_shapes_of_x(shape):
    with pytest.raises(ValueError, match="`x` must"):
        certify(linear_model(np.eye(4), np.zeros(4)), np.ones(shape))


@pytest.mark.parametrize(
    "y", [[0, 1], [0, 1, 4], [0, 1, -1], [0.5, 1, 2], np.ones((3, 4)), np.ones((3, 2)), "abc"]
)
def test_wrong_labels(y):
    with pytest.raises(ValueError, match="`y` must"):
        certify(linear_model(np.eye(4), np.zeros(4)), np.ones((3, 4)), y)


def test_other_wrong_arguments():
    model = linear_model(np.eye(4), np.zeros(4))
    with pytest.raises(TypeError, match="`model`"):
        certify(model.layers[0], np.ones((1, 4)))
    with pytest.raises(ValueError, match="real numbers"):
        certify(model, np.ones((1, 4), complex))
    for batch_size in (0, 2.5, True):
        with pytest.raises(ValueError, match="`batch_size`"):
            certify(model, np.ones((1, 4)), batch_size=batch_size)
    with pytest.raises(ValueError, match="one output"):
        certify(keras.Sequential([keras.Input((3, 4)), layers.Dense(2)]), np.ones((1, 3, 4)))


@pytest.mark.parametrize(
    "last", ["softmax", "sigmoid", layers.Softmax(), layers.Activation("softmax")]
)
def test_probabilities_are_refused(last):
    end = [layers.Dense(2, activation=last)] if isinstance(last, str) else [layers.Dense(2), last]
    with pytest.raises(ValueError, match="logits"):
        certify(keras.Sequential([keras.Input((3,)), *end]), np.ones((1, 3)))


def test_a_layer_without_a_bound_is_named():
    model = keras.Sequential(
        [keras.Input((3,)), layers.LayerNormalization(name="centre"), layers.Dense(2)]
    )
    with pytest.raises(ValueError, match="centre"):
        certify(model, np.ones((1, 3)))


def test_mixed_precision_certifies_the_rounded_kernel():
    model = linear_model(np.array([[1.0 + 2.0**-12, 0.0]]), np.zeros(2), "mixed_bfloat16")
    radius = certify(model, np.array([[3.0]])).radius[0]
    assert radius == pytest.approx(3.0, rel=1e-9)


def library_network():
    return lip.Sequential(
        [
            keras.Input((8, 8, 1)),
            lip.layers.SpectralConv2D(4, 3, activation=lip.layers.GroupSort2()),
            lip.layers.ScaledL2NormPooling2D(2),
            lip.layers.SpectralConv2D(4, 3, padding="reflect", activation=lip.layers.GroupSort(4)),
            lip.layers.SpectralConv2D(4, 3, padding="circular", strides=2),
            layers.Flatten(),
            lip.layers.SpectralDense(8, activation=lip.layers.FullSort()),
            lip.layers.FrobeniusDense(3),
        ],
        k_coef_lip=1.5,
    )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the attack uses GradientTape")
def test_a_network_of_this_library():
    model = library_network()
    x = RNG.random((30, 8, 8, 1))
    certificates = certify(model, x)
    for point in attack(model, x, certificates.label, certificates.radius, trials=4):
        assert (certify(model, point).label == certificates.label).all()


def test_the_evaluated_function_is_that_of_the_stored_weights():
    model, walk = library_network(), LipschitzPropagation()
    walk.model(model)
    exact = Float64Evaluator(model, walk)
    x = RNG.random((5, 8, 8, 1))
    outputs, errors = exact(x)
    # float32 prediction: a few hundred roundings of numbers below 10
    assert outputs == pytest.approx(ops.convert_to_numpy(model(x)), abs=1e-5)
    assert (errors > 0).all()
    assert (errors < 1e-9).all()
    for layer in (model.layers[0], *model.layers[-2:]):
        effective = ops.convert_to_numpy(layer.effective_kernel()).astype(np.float64)
        assert (ops.convert_to_numpy(exact.copy(layer).kernel) == effective).all()


def test_the_rounding_errors_are_covered():
    # Logits of integers below 2**53 are exact; the same network scaled by 1/3 is not.
    kernels = [RNG.integers(-9, 10, (12, 12)) for _ in range(4)]
    model = keras.Sequential(
        [keras.Input((12,)), *[layers.Dense(12, dtype="float64") for _ in kernels]]
    )
    model.set_weights([w for k in kernels for w in (k / 3.0, np.zeros(12))])
    walk = LipschitzPropagation()
    walk.model(model)
    x = RNG.integers(-9, 10, (20, 12)).astype(float)
    outputs, errors = Float64Evaluator(model, walk)(x)
    exact = [[Fraction(int(v)) for v in row] for row in x]
    for kernel in kernels:
        columns = [[Fraction(float(v)) for v in column] for column in (kernel / 3.0).T]
        exact = [
            [sum(a * b for a, b in zip(row, column, strict=True)) for column in columns]
            for row in exact
        ]
    for row, output, error in zip(exact, outputs, errors, strict=True):
        distance = sum((Fraction(float(o)) - v) ** 2 for o, v in zip(output, row, strict=True))
        assert distance <= Fraction(float(error)) ** 2
        assert error <= 1e-10 * np.linalg.norm(output)


def test_the_model_is_not_changed():
    model = convolutional_network()
    before = [ops.convert_to_numpy(weight) for weight in model.weights]
    certify(model, RNG.random((4, 6, 6, 1)))
    assert all(
        (a == ops.convert_to_numpy(b)).all() for a, b in zip(before, model.weights, strict=True)
    )
    assert ops.shape(model(np.zeros((1, 6, 6, 1)))) == (1, 3)
