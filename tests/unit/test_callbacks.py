"""Callbacks while `fit` runs in graph mode: what they call, assign, print and write."""

import inspect

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import Sequential, callbacks, layers, losses
from tests._oracles.tolerances import CONDENSED
from tests._tables.trainings import NOT_ON_TORCH

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

X = np.random.default_rng(2).normal(size=(12, 3)).astype("float32")
Y = (X[:, :1] > 0).astype("int32")
# On JAX a compiled step of a model of Keras's own keeps the parameters of its loss.
NEEDS_PYTHON = keras.backend.backend() == "jax"


def small_model(loss=None, rate=0.0):
    keras.utils.set_random_seed(1)
    model = Sequential(
        [
            keras.Input((3,)),
            layers.SpectralDense(4, name="first"),
            keras.layers.ReLU(name="relu"),
            layers.SpectralDense(1, name="last"),
        ]
    )
    model.compile(keras.optimizers.SGD(rate), loss or losses.HKR(2.0))
    return model


def fit(model, callback, *others, epochs=2, **arguments):
    """Three batches an epoch."""
    model.fit(
        X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback, *others],
        **arguments,
    )  # fmt: skip
    return callback


class Recorder(keras.callbacks.Callback):
    """Records the parameter that each batch used, and the loss of the epochs."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(float(getattr(self.model.loss, self.name).numpy()))


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        ({}, 2),
        ({"on_batch": True}, 8),
        ({"on_epoch": False, "on_batch": True}, 6),
        ({"on_epoch": False}, 0),
    ],
)
def test_condense_is_called(arguments, calls):
    model, counted = small_model(), []
    condense = model.condense
    model.condense = lambda: counted.append(condense())
    fit(model, callbacks.CondenseCallback(**arguments))
    assert len(counted) == calls


def test_condensed_kernels_are_the_effective_ones():
    model = small_model(rate=0.1)
    fit(model, callbacks.CondenseCallback())
    for name in ("first", "last"):
        layer = model.get_layer(name)
        np.testing.assert_allclose(layer.kernel, layer.wbar, **CONDENSED)


def test_condense_needs_a_model_that_can():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="a `condense` method"):
        fit(model, callbacks.CondenseCallback())


def test_scheduled_parameter_follows_the_batches():
    model, recorder = small_model(), Recorder("alpha")
    scheduler = callbacks.LossParamScheduler("alpha", fp=[0.0, 4.0, 1.0], xp=[0, 4, 7])
    model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[scheduler, recorder])
    assert recorder.values == [0, 1, 2, 3, 4, 3, 2, 1, 1]


def test_scheduled_parameter_changes_the_loss_of_traced_steps():
    model = small_model()
    scheduler = callbacks.LossParamScheduler("alpha", fp=[1.0, 7.0], xp=[0, 2])
    seen = []

    class Losses(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs["loss"])

    model.fit(
        X, Y, batch_size=12, epochs=3, verbose=0, callbacks=[scheduler, Losses()]
    )  # one batch an epoch, and a learning rate of zero
    scores = model.predict(X, verbose=0)
    expected = [float(losses.HKR(a)(Y, scores)) for a in (1.0, 4.0, 7.0)]
    # terms of order one cancel in the first: its digits are theirs
    assert seen == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_schedule_resumes_from_the_object_its_config_or_a_given_step():
    model, recorder = small_model(), Recorder("alpha")
    schedule = {"param_name": "alpha", "fp": [0.0, 9.0], "xp": [0, 9]}
    scheduler = callbacks.LossParamScheduler(**schedule)
    fit(model, scheduler, epochs=1)
    model.fit(X, Y, batch_size=4, verbose=0, callbacks=[scheduler, recorder])
    assert recorder.values == [3, 4, 5]
    for resumed in (
        callbacks.LossParamScheduler.from_config(scheduler.get_config()),
        callbacks.LossParamScheduler(**schedule, step=6),
    ):
        recorder = Recorder("alpha")
        model.fit(X, Y, batch_size=4, verbose=0, callbacks=[resumed, recorder])
        assert recorder.values == [6, 7, 8]


BY_OPTIMIZER = dict(param_name="alpha", fp=[0.0, 9.0], xp=[0, 9], step=None)


@pytest.mark.parametrize("way", ["again", "a file", "a backup"])
def test_schedule_by_the_batches_of_the_optimizer_resumes(way, tmp_path):
    """Three batches an epoch, and a callback that is made anew each time."""
    model, backup = small_model(), keras.callbacks.BackupAndRestore(tmp_path / "backup")

    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    schedule = callbacks.LossParamScheduler(**BY_OPTIMIZER)
    backups = [backup, Crash()] if way == "a backup" else []
    try:
        fit(model, schedule, *backups, epochs=2 if backups else 1)
    except KeyboardInterrupt:
        model = small_model()
    if way == "a file":
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    recorder, again = Recorder("alpha"), callbacks.LossParamScheduler(**schedule.get_config())
    fit(model, again, recorder, *backups[:1], epochs=2 if backups else 1)
    assert recorder.values == [3, 4, 5]


@NOT_ON_TORCH
def test_several_batches_at_once_are_counted():
    model, recorder = small_model(), Recorder("alpha")
    model.compile("sgd", losses.HKR(1.0), steps_per_execution=3)
    for _ in range(3):
        fit(model, callbacks.LossParamScheduler(**BY_OPTIMIZER), recorder, epochs=1)
    assert recorder.values == [0, 3, 6]


def test_batches_are_counted_where_gradients_are_accumulated():
    model, recorder = small_model(), Recorder("alpha")
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3), losses.HKR(1.0))
    fit(model, callbacks.LossParamScheduler(**BY_OPTIMIZER), recorder, epochs=2)
    assert recorder.values == [0, 1, 2, 3, 4, 5]


def test_a_geometric_schedule_multiplies_by_the_same_number():
    model, recorder = small_model(), Recorder("alpha")
    schedule = callbacks.LossParamScheduler("alpha", [0.1, 10.0], [1, 5], 0, "geometric")
    fit(model, schedule, recorder, epochs=3)
    expected = [0.1, 0.1, 10**-0.5, 1.0, 10**0.5, 10.0, 10.0, 10.0, 10.0]
    assert recorder.values == pytest.approx(expected, rel=1e-6)
    assert max(recorder.values) <= 10.0 and schedule.value(0) == 0.1


def test_schedule_reaches_the_loss_of_a_reloaded_model(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", losses.HKR(2.0), run_eagerly=NEEDS_PYTHON)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit(loaded, callbacks.LossParamScheduler("alpha", [5.0], [0]), epochs=1)
    assert loaded.loss.alpha.numpy() == 5.0


def test_parameter_is_set_in_every_loss_of_several_outputs():
    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")}
    model = keras.Model(inputs, outputs)
    both = {"a": losses.HKR(1.0), "b": losses.HKR(2.0)}
    model.compile("sgd", both, run_eagerly=NEEDS_PYTHON)
    scheduler = callbacks.LossParamScheduler("alpha", [3.0], [0])
    model.fit(X, {"a": Y, "b": Y}, verbose=0, callbacks=[scheduler])
    assert [model.loss[name].alpha.numpy() for name in ("a", "b")] == [3.0, 3.0]


def test_parameter_is_printed_plainly_at_the_rate(capsys):
    scheduler = callbacks.LossParamScheduler("alpha", fp=[0.1, 0.1, 0.7, 0.7], xp=[0, 3, 4, 12])
    model = small_model(losses.HKR(1.0, name="hkr"))
    log = callbacks.LossParamLog("alpha", rate=2)
    model.fit(X, Y, batch_size=4, epochs=4, verbose=0, callbacks=[scheduler, log])
    assert capsys.readouterr().out.split("\n") == ["", "hkr alpha 0.1", "", "hkr alpha 0.7", ""]


def events(folder):
    """(step, tag, plugin, value) of each summary record under `folder`."""
    import tensorflow as tf

    found = []
    for path in sorted(folder.glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for entry in event.summary.value:
                plugin = entry.metadata.plugin_data.plugin_name
                found.append((event.step, entry.tag, plugin, tf.make_ndarray(entry.tensor)))
    return found


@pytest.mark.usefixtures("tf")
@pytest.mark.parametrize("target", ["kernel", "wbar"])
def test_monitor_writes_the_largest_singular_value(target, tmp_path):
    model = small_model(rate=0.1)
    watched = [model.get_layer(name) for name in ("first", "last")]
    for layer in watched:
        layer.kernel.assign(3 * layer.kernel)
        layer.kernel.constraint = None  # so that the optimizer leaves them apart
    norms = []

    class Norms(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            norms.extend(np.linalg.norm(getattr(layer, target), 2) for layer in watched)

    monitor = callbacks.MonitorCallback(["first", "last"], str(tmp_path), target=target)
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[monitor, Norms()])
    found = events(tmp_path)
    assert [(step, tag, plugin) for step, tag, plugin, _ in found] == [
        (step, f"{layer.name}/{target}_sigma_max", "scalars")
        for step in (0, 1)
        for layer in watched
    ]
    assert [float(norm) for *_, norm in found] == pytest.approx(norms, rel=1e-6)
    # the raw kernels are about three times the effective ones
    assert all(norm > 1.5 for norm in norms) == (target == "kernel")


@pytest.mark.usefixtures("tf")
def test_monitor_writes_a_histogram_of_all_singular_values_by_batch(tmp_path):
    monitor = callbacks.MonitorCallback(
        ["first"], str(tmp_path), what="all", on_epoch=True, on_batch=True
    )
    model = small_model()
    fit(model, monitor)
    found = events(tmp_path)
    values = np.linalg.svd(model.get_layer("first").kernel.numpy(), compute_uv=False)
    assert [step for step, *_ in found] == [0, 1, 2, 3, 4, 5]
    for _, tag, plugin, rows in found:
        assert (tag, plugin) == ("first/kernel_sigma", "histograms")
        assert rows[:, 2].sum() == len(values) == 3
        assert (rows[0, 0], rows[-1, 1]) == pytest.approx((values.min(), values.max()), rel=1e-6)


@pytest.mark.usefixtures("tf")
@pytest.mark.parametrize(
    ("layer", "flatten"),
    [
        (keras.layers.Conv2D(5, 3, name="conv"), lambda k: k.reshape(9 * 2, 5)),
        # (kh, kw, out, in): the rows of the adjoint are (kh, kw, out)
        (keras.layers.Conv2DTranspose(5, 3, name="conv"), lambda k: k.reshape(9 * 5, 2)),
    ],
)
def test_monitor_of_a_convolution_reads_the_matrix_of_a_patch(layer, flatten, tmp_path):
    model = keras.Sequential([keras.Input((6, 6, 2)), layer, keras.layers.GlobalMaxPooling2D()])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    monitor = callbacks.MonitorCallback(["conv"], str(tmp_path))
    model.fit(np.ones((2, 6, 6, 2)), np.ones((2, 5)), verbose=0, callbacks=[monitor])
    expected = np.linalg.norm(flatten(layer.kernel.numpy()), 2)
    assert events(tmp_path)[0][3] == pytest.approx(expected, rel=1e-6)


class Proven(keras.callbacks.Callback):
    """What is to be written, by the functions that users call."""

    def __init__(self, *samples):
        super().__init__()
        self.samples, self.bounds, self.radii = samples, [], []

    def on_epoch_end(self, epoch, logs=None):
        self.bounds.append(lip.lipschitz_bound(self.model).value)
        if self.samples:
            self.radii.append(lip.certify(self.model, *self.samples).radius.mean())


@pytest.mark.usefixtures("tf")
@pytest.mark.parametrize("as_data_set", [False, True])
def test_monitor_writes_what_is_proven_of_each_epoch(as_data_set, tmp_path, tf):
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    model, samples = small_model(rate=0.1), (X, Y)
    given = tf.data.Dataset.from_tensor_slices(samples).batch(3) if as_data_set else samples
    monitor = callbacks.MonitorCallback(["last"], str(tmp_path), samples=given)
    proven = Proven(*samples)
    model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[monitor, proven])
    found = [entry for entry in events(tmp_path) if not entry[1].startswith("last/")]
    tags = ["lipschitz_bound", "mean_certified_radius", "certified_accuracy"]
    assert [(s, tag) for s, tag, *_ in found] == [(s, tag) for s in range(3) for tag in tags]
    by_tag = {tag: [value for _, name, _, value in found if name == tag] for tag in tags}
    assert list(map(float, by_tag["lipschitz_bound"])) == pytest.approx(proven.bounds, rel=1e-6)
    radii = list(map(float, by_tag["mean_certified_radius"]))
    assert radii == pytest.approx(proven.radii, rel=1e-6)
    assert max(radii) > 0 and len(set(radii)) == 3  # of the weights after each epoch
    for _, _, plugin, value in (entry for entry in found if entry[1] == tags[2]):
        width, height, content = value
        image = tf.io.decode_png(content)
        assert plugin == "images" and image.shape[:2] == (int(height), int(width))
        assert np.ptp(image.numpy()[:, :, :3]) > 100  # something is drawn


@pytest.mark.usefixtures("tf")
def test_monitor_writes_the_bound_alone(tmp_path):
    model, proven = small_model(rate=0.1), Proven()
    monitor = callbacks.MonitorCallback(["last"], str(tmp_path), on_batch=True, bound=True)
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[monitor, proven])
    found = [(step, tag, value) for step, tag, _, value in events(tmp_path) if "/" not in tag]
    assert [(step, tag) for step, tag, _ in found] == [(s, "lipschitz_bound") for s in (0, 1)]
    assert [float(value) for *_, value in found] == pytest.approx(proven.bounds, rel=1e-6)


@pytest.mark.parametrize(
    "callback",
    [
        callbacks.CondenseCallback(on_epoch=False, on_batch=True),
        callbacks.LossParamScheduler("alpha", [1.0, 2.0], [0, 10], step=3),
        callbacks.LossParamScheduler("radius", [1.0, 2.0], [0, 10], None, "geometric"),
        callbacks.LossParamLog("tau", rate=4),
        callbacks.MonitorCallback(["a"], "logs", "wbar", "all", False, True),
    ],
    ids=lambda c: type(c).__name__,
)
def test_config_rebuilds_the_same_callback(callback):
    config = keras.saving.serialize_keras_object(callback)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(callback)
    assert copy.get_config() == callback.get_config()
    arguments = set(inspect.signature(type(callback)).parameters)
    assert set(callback.get_config()) == arguments - {"samples"}  # which are data


def test_schedule_is_refused_where_the_compiled_step_would_ignore_it(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    scheduler = callbacks.LossParamScheduler("alpha", [5.0], [0])
    scheduler.set_model(small_model())
    scheduler.on_train_begin()  # a model of this library hands its step the parameters
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", losses.HKR(2.0))
    scheduler.set_model(model)
    with pytest.raises(ValueError, match="run_eagerly=True"):
        scheduler.on_train_begin()
    scheduler.model.run_eagerly = True
    scheduler.on_train_begin()


def test_loss_given_by_name_has_no_parameter():
    with pytest.raises(ValueError, match="`param_name`.*'mse'"):
        fit(small_model("mse"), callbacks.LossParamLog("alpha"))
