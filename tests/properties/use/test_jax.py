"""What JAX does otherwise: state that a compiled step carries, float64, and no TensorFlow.

`tests/integration/test_backends.py` runs this file, in a process of its own.
"""

import contextlib
import importlib.util

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import layers, losses
from tests._oracles.oracles import polar
from tests._tables.trainings import Root, margins_learned, whole_and_resumed

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras runs on JAX here")

RNG = np.random.default_rng(5)
X = RNG.normal(size=(24, 4)).astype("float32")
CLASSES = RNG.integers(0, 3, 24)
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]


def dense(*between, cls=lip.Sequential):
    hidden = layers.SpectralDense(4, activation=layers.GroupSort2())
    return cls([keras.Input((4,)), hidden, *between, layers.SpectralDense(3)])


def fitted(model, loss, *others, rate=0.1, epochs=1, rows=24, **options):
    model.compile(keras.optimizers.SGD(rate), loss, **options)
    model.fit(X[:rows], ONE_HOT[:rows], 8, epochs, shuffle=False, verbose=0, callbacks=others)
    return model


@pytest.mark.parametrize("reward", [0.1, 0.3])
def test_margins_are_learned_in_a_compiled_step(reward):
    seen, expected = margins_learned(reward)
    assert seen == pytest.approx(expected, rel=1e-6)


def test_the_running_mean_of_a_loss_is_that_of_its_batches():
    model, loss = dense(), losses.MulticlassSoftHKR(alpha_mean=0.5)
    fitted(model, loss, rate=0.0)
    mean = 1.0
    for batch in np.split(np.abs(model.predict(X, verbose=0)), 3):
        mean = 0.5 * mean + 0.5 * batch.mean()
    assert float(loss.running_mean) == pytest.approx(mean, rel=1e-5)
    loss.reset_state()
    fitted(model, loss, rate=0.0)  # no buffer is given away twice
    assert float(loss.running_mean) == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("make", [layers.BatchCentering, layers.BatchLipNorm])
def test_moving_means_are_those_of_the_batches(make):
    centering = make(use_bias=False)
    model = lip.Sequential([keras.Input((4,)), centering, layers.SpectralDense(3)])
    fitted(model, "mse", rate=0.0)
    np.testing.assert_allclose(centering.moving_mean, X.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert float(centering.batches) == 3


def trained_values(name, count):
    """Everything that two epochs change, on so many devices."""
    devices = keras.distribution.list_devices()[:count]
    shared = keras.distribution.DataParallel(devices=devices) if count > 1 else None
    with contextlib.ExitStack() as stack:
        stack.callback(keras.distribution.set_distribution, None)
        keras.distribution.set_distribution(shared)
        keras.utils.set_random_seed(0)
        model = dense(layers.BatchCentering(), cls=lip.LossVariableSequential)
        model.compile(keras.optimizers.SGD(0.1), getattr(losses, name)())
        order = np.argsort(CLASSES)  # so that devices lack classes
        model.fit(X[order], ONE_HOT[order], batch_size=8, epochs=2, shuffle=False, verbose=0)
        return [np.array(v) for v in model.trainable_variables + model.non_trainable_variables]


@pytest.mark.filterwarnings("ignore:LossVariableSequential. the loss has no trainable parameters")
@pytest.mark.parametrize("name", ["MulticlassHKR", "MulticlassHKRauto", "MulticlassSoftHKR"])
def test_four_devices_train_as_one_does(name):
    if len(keras.distribution.list_devices()) < 4:
        pytest.skip("needs XLA_FLAGS=--xla_force_host_platform_device_count=4")
    for one, other in zip(trained_values(name, 1), trained_values(name, 4), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_batch_that_the_devices_cannot_share_is_refused():
    if len(keras.distribution.list_devices()) < 4:
        pytest.skip("needs XLA_FLAGS=--xla_force_host_platform_device_count=4")
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:4])
    )
    try:
        with pytest.raises(ValueError, match="evenly divide"):
            fitted(dense(), "mse", epochs=1, rows=22)
    finally:
        keras.distribution.set_distribution(None)


@pytest.mark.parametrize("save_freq", ["epoch", 2])
def test_a_run_that_was_killed_goes_on_with_the_same_bits(save_freq, tmp_path):
    def run(*others):
        keras.utils.set_random_seed(0)
        model = dense(keras.layers.Dropout(0.3), cls=lip.LossVariableSequential)
        loss = losses.MulticlassHKRauto(alpha=1.0, min_margin=1e-3)
        fitted(model, loss, *others, epochs=3)
        return [*model.get_weights(), np.array(loss.hinge_margins)]

    for one, other in zip(*whole_and_resumed(run, save_freq, tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


def test_where_a_nan_began_is_said():
    explain = lip.callbacks.ExplainNaN()
    model = keras.Sequential([keras.Input((4,)), Root(name="root"), keras.layers.Dense(3)])
    fitted(model, "mse", explain)
    assert "'root'" in explain.explanation


def test_a_parameter_of_the_loss_is_read_in_each_compiled_step():
    model, loss = dense(), losses.MulticlassHKR(alpha=1.0)
    fitted(model, loss, rate=0.0)
    for alpha in (4.0, 0.0):
        loss.alpha = alpha
        expected = float(losses.MulticlassHKR(alpha)(ONE_HOT, model.predict(X, verbose=0)))
        assert model.evaluate(X, ONE_HOT, batch_size=24, verbose=0) == pytest.approx(expected, 1e-5)


def test_a_metric_proves_what_the_certificates_prove():
    model = dense()
    metric = lip.metrics.CertifiedRobustAccuracy(model, radius=0.05)
    fitted(model, losses.TauCategoricalCrossentropy(10.0), metrics=[metric], epochs=2)
    _, found = model.evaluate(X, ONE_HOT, batch_size=8, verbose=0)
    expected = lip.certificates.certify(model, X, CLASSES).certified_accuracy(0.05)
    assert found == pytest.approx(expected, abs=1e-6) and 0 < found < 1


def test_certificates_are_computed_in_float64_and_leave_no_trace_of_it():
    import jax

    model = dense()
    exported = model.vanilla_export()
    z = X.astype("float64")
    for layer in exported.layers:
        if isinstance(layer, keras.layers.Dense):
            kernel, bias = (np.asarray(w, np.float64) for w in layer.get_weights())
            z = z @ kernel + bias
            if z.shape[1] == 4:
                z = np.sort(z.reshape(-1, 2, 2)).reshape(-1, 4)
    z.sort(axis=1)
    certificates = lip.certificates.certify(model, X)
    np.testing.assert_allclose(certificates.margin, z[:, -1] - z[:, -2], rtol=1e-12, atol=1e-15)
    assert not jax.config.jax_enable_x64 and (certificates.radius > 0).any()
    assert (lip.certificates.certify(model, X, semantics="float32").radius > 0).any()


def test_float64_that_is_float32_is_refused():
    dense = keras.layers.Dense(2, dtype="float64", name="wide")
    with pytest.warns(UserWarning, match="float64"):
        model = keras.Sequential([keras.Input((3,), dtype="float64"), dense])
        with pytest.raises(ValueError, match="wide.*jax_enable_x64"):
            lip.bounds.lipschitz_bound(model)


def test_the_compiled_step_stays_on_the_device_and_on_the_manifold():
    import jax

    image = keras.Input((6, 6, 1))
    hidden = layers.SpectralConv2D(4, 3, activation=layers.GroupSort2())(image)
    hidden = layers.AOLConv2D(4, 3)(hidden)
    outputs = layers.SpectralDense(3)(keras.layers.Flatten()(hidden))
    model = lip.Model(image, outputs)
    model.compile(keras.optimizers.Adam(1e-2), losses.OffsetCrossentropy())
    x = RNG.normal(size=(8, 6, 6, 1)).astype("float32")
    model.fit(x, ONE_HOT[:8], epochs=2, verbose=0)
    for layer in (model.layers[1], model.layers[-1]):  # the optimizer has retracted them
        kernel = np.asarray(layer.kernel).reshape(-1, layer.kernel.shape[-1])
        assert np.ptp(np.linalg.svd(kernel, compute_uv=False)) < 1e-2
    names = ("trainable_variables", "non_trainable_variables")
    state = [[v.value for v in getattr(model, name)] for name in names]
    state += [[v.value for v in model.optimizer.variables]]
    state += [[v.value for v in model.metrics_variables]]
    step = jax.make_jaxpr(model.train_step)(tuple(state), (x, ONE_HOT[:8]))
    assert "callback" not in str(step) and "infeed" not in str(step)


def test_bfloat16_activations_with_kernels_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = fitted(dense(), losses.OffsetCrossentropy(), epochs=2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model(X).dtype == "bfloat16"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    kernel = np.asarray(model.layers[0].effective_kernel())
    assert np.linalg.norm(kernel, 2) <= 1 + 1e-6
    assert np.isfinite(lip.certificates.certify(model, X).radius).all()


WITHOUT = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)


@WITHOUT
def test_what_needs_tensorflow_says_so_when_it_is_asked_for(tmp_path):
    from deel_lip_tf.formats import from_saved_model

    monitor = lip.callbacks.MonitorCallback(["head"], str(tmp_path))
    for call in (
        lambda: lip.verify.robustness,
        lambda: from_saved_model(tmp_path),
        monitor.on_train_begin,
    ):
        with pytest.raises(ImportError, match="pip install tensorflow"):
            call()


# --- what is compiled ----------------------------------------------------------------------------


@pytest.fixture
def compiled(monkeypatch):
    """The shapes for which a polar factor has been traced since."""
    from deel_lip_tf.normalizers.polar import factor, tf_graphs

    tf_graphs._compiled.cache_clear()
    shapes = []

    def counted(function):
        def traced(matrix, options):
            shapes.append(matrix.shape)
            return function(matrix, options)

        return traced

    for name in ("_polar_factor", "_retracted"):
        monkeypatch.setattr(factor, name, counted(getattr(factor, name)))
    yield shapes
    tf_graphs._compiled.cache_clear()


def test_building_and_condensing_compile_no_polar_factor(compiled):
    model = dense()
    model.condense()
    assert compiled == []


def test_a_polar_factor_is_traced_once_for_a_shape(compiled):
    layer = layers.SpectralDense(4)
    layer.build((None, 6))
    found = [np.asarray(layer.wbar) for _ in range(2)]
    np.testing.assert_array_equal(*found)
    assert compiled == [(6, 4)]


def test_layers_of_one_shape_share_what_is_traced_in_a_step(compiled):
    fitted(dense(layers.SpectralDense(4), layers.SpectralDense(4)), "mse")
    # The projection and the retraction of two shapes.
    assert sorted(compiled) == 2 * [(4, 3)] + 2 * [(4, 4)]


def test_an_initializer_can_be_traced():
    import jax

    initializer = lip.initializers.SpectralInitializer(
        base_initializer=keras.initializers.Orthogonal(seed=3)
    )
    drawn = initializer((8, 5))
    assert jax.eval_shape(lambda: initializer((8, 5))).shape == (8, 5)
    np.testing.assert_allclose(jax.jit(lambda: initializer((8, 5)))(), drawn, atol=1e-5)


def test_the_gradient_of_a_compiled_projection_is_that_of_the_polar_factor():
    import jax

    kernel, direction, upstream = RNG.normal(size=(3, 6, 3)).astype("float32")
    project = lip.normalizers.Spectral().project

    step = 1e-4
    moved = [polar(kernel + sign * step * direction.astype("float64")) for sign in (1, -1)]
    expected = np.sum(upstream * (moved[0] - moved[1])) / (2 * step)
    gradient = jax.grad(lambda x: (upstream * project(x)).sum())
    for function in (gradient, jax.jit(gradient)):
        assert np.sum(function(kernel) * direction) == pytest.approx(expected, rel=1e-3)
