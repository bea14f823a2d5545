"""Every layer, loss, metric, constraint and command where TensorFlow cannot be imported.

Steps of layers are compiled on JAX, as `fit` does; those of losses are not, which would take
longer than everything that they compute.
"""

import keras
import numpy as np
import pytest
from keras import ops

import deel_lip_tf as lip
from deel_lip_tf import bounds, constraints, layers, losses, metrics
from tests._oracles.tolerances import SAME_FLOAT32, SOUND
from tests._tables.all_losses import ALL_LOSSES, needed_by
from tests._tables.cases import LAYERS

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="Keras runs on JAX or PyTorch here"
)

RNG = np.random.default_rng(5)
# The first row of each class.
CASES = {case.cls: case for case in reversed(LAYERS)}.values()
X = RNG.normal(size=(24, 4)).astype("float32")
CLASSES = RNG.integers(0, 3, 24)
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]
SIGNS = 2.0 * (CLASSES[:, None] > 0) - 1


def values(model, x):
    return ops.convert_to_numpy(model(x, training=False))


@pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layer_is_trained_bounded_saved_and_exported(case, rng, tmp_path):
    layer = case.make()
    model = lip.Sequential([keras.Input(case.shape), layer])
    x = rng.normal(size=(4, *case.shape)).astype("float32")
    is_eager = keras.backend.backend() != "jax"
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=is_eager)
    if model.trainable_weights:
        before = model.get_weights()
        model.train_on_batch(x, np.ones_like(values(model, x)))
        assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    expected = values(model, x)
    model.save(tmp_path / "model.keras")
    for other in (model.vanilla_export(), keras.models.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(values(other, x), expected, **SAME_FLOAT32)
    bound = bounds.lipschitz_bound(model).value
    if layer.is_guaranteed and not getattr(layer, "disjoint_neurons", False):
        assert bound <= layer.lipschitz_constant() * SOUND
    step = 1e-2 * rng.normal(size=x.shape).astype("float32")
    moved = values(model, x + step) - expected
    lengths = [
        np.linalg.norm(one.reshape(4, -1).astype("float64"), axis=1) for one in (moved, step)
    ]
    assert (lengths[0] <= bound * lengths[1] + 1e-5).all()


@pytest.mark.filterwarnings("ignore:LossVariableSequential. the loss has no trainable parameters")
@pytest.mark.parametrize("make", ALL_LOSSES)
def test_every_loss_trains(make):
    loss = make(**needed_by(make))
    is_binary = "Binary" in make.__name__ or make.__name__ in (
        *("KR", "NegKR", "HKR", "HKRauto", "HingeMargin", "HingeMarginAuto"),
    )
    units, labels = (1, SIGNS) if is_binary else (3, ONE_HOT)
    labels = CLASSES if "Sparse" in make.__name__ else labels
    keras.utils.set_random_seed(0)
    hidden, head = layers.FrobeniusDense(4), layers.FrobeniusDense(units)
    model = lip.LossVariableSequential([keras.Input((4,)), hidden, head])
    model.compile(keras.optimizers.SGD(0.02), loss, run_eagerly=True)
    seen = model.fit(X, labels, 24, 6, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(seen).all() and seen[-1] < seen[0]


METRICS = [
    (metrics.KR, SIGNS, losses.KR),
    (metrics.MulticlassKR, ONE_HOT, losses.MulticlassKR),
    (metrics.BinaryProvableAvgRobustness, SIGNS, None),
    (metrics.BinaryProvableRobustAccuracy, SIGNS, None),
    (metrics.CategoricalProvableAvgRobustness, ONE_HOT, None),
    (metrics.CategoricalProvableRobustAccuracy, ONE_HOT, None),
]


@pytest.mark.parametrize(("make", "labels", "same"), METRICS)
def test_every_metric_adds_batches_up(make, labels, same, rng):
    scores = rng.normal(size=labels.shape).astype("float32")
    at_once, in_parts = make(), make()
    at_once.update_state(labels, scores)
    for part in (slice(0, 5), slice(5, 24)):
        in_parts.update_state(labels[part], scores[part])
    found = float(ops.convert_to_numpy(at_once.result()))
    assert np.isfinite(found) and found != 0
    assert float(ops.convert_to_numpy(in_parts.result())) == pytest.approx(found, rel=1e-5)
    if same:
        expected = float(ops.convert_to_numpy(same()(labels, scores)))
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", sorted(set(constraints.__all__) & set(dir(constraints))))
def test_every_constraint_is_kept_by_training(name):
    make = getattr(constraints, name)
    if not (isinstance(make, type) and issubclass(make, keras.constraints.Constraint)):
        return
    kept = keras.layers.Dense(3, kernel_constraint=make())
    model = keras.Sequential([keras.Input((4,)), kept])
    model.compile(keras.optimizers.SGD(5.0), "mse", run_eagerly=True)
    model.fit(X, ONE_HOT, 24, verbose=0)
    kernel = ops.convert_to_numpy(kept.kernel)
    np.testing.assert_allclose(ops.convert_to_numpy(make()(kernel)), kernel, atol=1e-3)
    if "Spectral" in name:
        assert bounds.lipschitz_bound(kept).value <= 1 + 1e-3


@pytest.mark.parametrize("search", ["jacobian_norm", "noise_norm", "attack"])
def test_what_is_estimated_is_below_what_is_proven(search):
    hidden = layers.FrobeniusDense(4, activation=layers.GroupSort2())
    model = lip.Sequential([keras.Input((4,)), hidden, layers.FrobeniusDense(3)])
    report = bounds.report(model, X)
    assert 0 < report.lower <= report.bound.value
    found = lip.utils.evaluate_lip_const(model, X, 0.1, 0, search, num_iterations=5)
    # PyTorch computes it in float32.
    assert 0 < found <= report.bound.value * (1 + SAME_FLOAT32["rtol"])


@pytest.mark.parametrize("command", [["hunt", "m"], ["quickstart"]])
def test_commands_that_need_tensorflow_say_so_in_one_line(command, capsys):
    from deel_lip_tf import __main__ as command_line

    assert command_line.main(command) == 2
    assert "set KERAS_BACKEND=tensorflow" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command_line.main([command[0], "--help"])
    assert "TensorFlow" in capsys.readouterr().out


def test_verification_of_a_keras_file_says_so_too(tmp_path, capsys):
    """Of a small ONNX file it needs no framework."""
    from deel_lip_tf import __main__ as command_line

    question = tmp_path / "question.vnnlib"
    question.write_text("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= 0 X_0 1))")
    assert command_line.main(["verify", str(tmp_path / "model.keras"), str(question)]) == 2
    assert "set KERAS_BACKEND=tensorflow" in capsys.readouterr().err
