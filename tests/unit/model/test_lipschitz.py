"""Sequential and Model: constants, warnings, training, saving and resuming."""

import gc
import itertools
import math
import warnings
import weakref

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import _keras, layers
from deel_lip_tf.layers.compiled import sorting, window_norms
from deel_lip_tf.model.lipschitz import split_constant
from deel_lip_tf.normalizers.polar import tf_graphs
from tests._oracles import oracles
from tests._oracles.tolerances import GRADIENT, SAME_FLOAT32

SHAPE = (8, 8, 2)


def image_layers():
    return [
        layers.SpectralConv2D(4, 3),
        layers.GroupSort2(),
        layers.ScaledL2NormPooling2D(),
        keras.layers.Flatten(),
        layers.SpectralDense(8),
        layers.FullSort(),
        layers.FrobeniusDense(3, disjoint_neurons=False),
    ]


def sequential(k=1.0):
    return lip.Sequential([keras.Input(SHAPE), *image_layers()], k_coef_lip=k)


def functional():
    inputs = keras.Input(SHAPE)
    x = layers.SpectralConv2D(4, 3, padding="circular")(inputs)
    shared = layers.GroupSort2()
    x = shared(x)
    y = layers.SpectralConv2D(4, 3, k_coef_lip=0.5)(x)
    x = keras.layers.Average()([x, shared(y)])
    x = layers.InvertibleDownSampling(2)(x)
    x = keras.layers.Flatten()(x)
    return lip.Model(inputs, layers.SpectralDense(3)(x))


def nested():
    inner = lip.Sequential([keras.Input((8,)), layers.SpectralDense(8), layers.GroupSort2()])
    plain = keras.Sequential([keras.Input((8,)), layers.SpectralDense(6), layers.Householder()])
    return lip.Sequential(
        [
            keras.Input(SHAPE),
            layers.ScaledGlobalAveragePooling2D(),
            layers.SpectralDense(8),
            inner,
            plain,
            layers.SpectralDense(3),
        ],
        k_coef_lip=3.0,
    )


MODELS = {"sequential": sequential, "functional": functional, "nested": nested}


@pytest.fixture
def data(rng):
    return rng.normal(size=(32, *SHAPE)).astype("float32"), rng.integers(0, 3, 32)


def compiled(model, **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"], **kwargs)
    return model


def weights_of(model):
    return [keras.ops.convert_to_numpy(w) for w in model.weights]


@pytest.mark.slow
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_trains_saves_exports(make, data, tmp_path, tf):
    x, y = data
    model = compiled(make())
    before = model.evaluate(x, y, verbose=0)[0]
    model.fit(x, y, epochs=3, batch_size=10, verbose=0)
    assert model.evaluate(x, y, verbose=0)[0] < before
    model.train_on_batch(x, y)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(model(x), expected, **SAME_FLOAT32)

    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded(x), expected, **SAME_FLOAT32)
    assert type(reloaded) is type(model)

    exported = model.vanilla_export()
    np.testing.assert_allclose(exported(x), expected, **SAME_FLOAT32)
    for saved in (model, exported):
        saved.export(tmp_path / "saved_model", verbose=False)
        served = tf.saved_model.load(tmp_path / "saved_model")
        np.testing.assert_allclose(served.serve(x), expected, **SAME_FLOAT32)

    model.condense()
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_resuming_is_bit_for_bit(make, data, tmp_path):
    x, y = data
    model = compiled(make())
    model.fit(x, y, epochs=1, batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "checkpoint.keras")
    resumed = keras.models.load_model(tmp_path / "checkpoint.keras")
    for one in (model, resumed):
        one.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(weights_of(model), weights_of(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_policies_train(make, policy, data):
    x, y = data
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(make())
    finally:
        keras.config.set_dtype_policy(default)
    losses = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    tolerance = dict(rtol=0.1, atol=0.1) if policy == "mixed_bfloat16" else SAME_FLOAT32
    np.testing.assert_allclose(
        model.vanilla_export().predict(x, verbose=0), model.predict(x, verbose=0), **tolerance
    )


@pytest.mark.slow
def test_jit_compile(data):
    x, y = data
    model = compiled(sequential(), jit_compile=True)
    losses = model.fit(x, y, epochs=2, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x), **SAME_FLOAT32)


def product(model):
    return math.prod(
        layer.k_coef_lip for layer in model.layers if isinstance(layer, layers.LipschitzLayer)
    )


@pytest.mark.parametrize("k", [1.0, 0.01, 0.3, 5.0, 1e6, 1e-6])
def test_product_of_constants_is_exactly_k(k, tmp_path):
    model = sequential(k)
    assert product(model) == k
    model.add(layers.SpectralDense(2))
    assert product(model) == k
    model.pop()
    assert product(model) == k
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    assert (product(reloaded), reloaded.k_coef_lip) == (k, k)
    outer = lip.Sequential([keras.Input(SHAPE), reloaded, layers.SpectralDense(2)], k_coef_lip=7.0)
    assert product(outer) == 7.0
    assert product(reloaded) == reloaded.k_coef_lip
    outer.set_klip_factor(k)
    assert product(outer) == k
    assert product(reloaded) == reloaded.k_coef_lip


def test_split_constant_is_exact():
    for k, n in itertools.product((0.01, 0.1, 0.3, 1 / 3, 2, 5, 7.3, 1e-8, 1e8), range(1, 40)):
        parts = split_constant(k, n)
        assert len(parts) == n
        assert math.prod(parts) == k
        assert max(parts) / min(parts) < 1 + 1e-3


@pytest.mark.parametrize("k", [0.01, 1.0, 4.0])
def test_distances_grow_at_most_by_k(k, rng):
    model = sequential(k)
    x, y = rng.normal(size=(2, 500, *SHAPE)).astype("float32")
    out = np.linalg.norm(model.predict(x, verbose=0) - model.predict(y, verbose=0), axis=1)
    distances = np.linalg.norm((x - y).reshape(500, -1), axis=1)
    assert (out <= k * distances * (1 + 1e-5)).all()


def test_a_constant_nobody_can_carry_is_refused():
    with pytest.raises(ValueError, match="no layer can carry it"):
        lip.Sequential([keras.Input((4,)), keras.layers.ReLU()], k_coef_lip=0.5)
    model = lip.Sequential(k_coef_lip=0.5)
    model.add(keras.Input((4,)))
    model.add(keras.layers.ReLU())
    with pytest.raises(ValueError, match="no layer can carry it"):
        model(np.zeros((1, 4)))
    lip.Sequential([keras.Input((4,)), keras.layers.ReLU()])
    with pytest.raises(ValueError, match="k_coef_lip"):
        lip.Sequential([layers.SpectralDense(2)], k_coef_lip=0)


def test_a_changed_constant_reaches_traced_functions(data, tmp_path):
    x, y = data
    model = compiled(sequential())
    expected = model.predict(x, verbose=0)
    model.evaluate(x, y, verbose=0)
    head = model.layers[-1]
    head.set_klip_factor(4.0)
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x), **SAME_FLOAT32)
    assert not np.allclose(model.predict(x, verbose=0), expected)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded(x), model(x), **SAME_FLOAT32)


@pytest.mark.filterwarnings("ignore:Sequential model contains")  # `TimeDistributed`
@pytest.mark.parametrize("kind", [layers.FrobeniusDense, layers.AOLDense])
def test_a_changed_constant_of_a_wrapped_layer_reaches_traced_functions(kind, rng):
    x = rng.normal(size=(4, 2, 3)).astype("float32")
    inner = kind(3)
    model = lip.Sequential([keras.Input((2, 3)), keras.layers.TimeDistributed(inner)])
    model.compile(loss="mse")
    model.predict(x, verbose=0), model.evaluate(x, x, verbose=0)
    inner.set_klip_factor(0.25)
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x), **SAME_FLOAT32)
    loss = float(np.mean((np.asarray(model(x)) - x) ** 2))
    assert model.evaluate(x, x, verbose=0) == pytest.approx(loss, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Sequential model contains")  # `TimeDistributed`
def test_condensing_reaches_wrapped_layers(rng):
    inner = layers.SpectralDense(3)
    model = lip.Sequential([keras.Input((2, 3)), keras.layers.TimeDistributed(inner)])
    inner.kernel.assign(rng.normal(size=(3, 3)))
    effective = np.asarray(inner.effective_kernel())
    model.condense()
    np.testing.assert_allclose(inner.kernel, effective, **SAME_FLOAT32)


UNKNOWN = [
    keras.layers.Dense(3, name="unknown"),
    keras.layers.BatchNormalization(name="unknown"),
    keras.layers.Activation("gelu", name="unknown"),
    keras.layers.UnitNormalization(name="unknown"),
    layers.SpectralDense(3, activation="gelu", name="unknown"),
    keras.Sequential([keras.layers.Dense(3, name="unknown")]),
]
KNOWN = [
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.Softmax,
    keras.layers.Flatten,
    lambda: keras.layers.Dropout(0.5),
    lambda: keras.layers.Rescaling(1 / 255),
    lambda: keras.layers.Activation("tanh"),
    lambda: keras.layers.Reshape((4, 1)),
    lambda: layers.SpectralDense(4, activation=layers.GroupSort2()),
    layers.PReLUlip,
    lambda: lip.Sequential([layers.SpectralDense(4)]),
]


@pytest.mark.parametrize("layer", UNKNOWN)
def test_unknown_layers_are_named_once(layer):
    with pytest.warns(UserWarning, match="not a 1-Lipschitz layer: unknown") as record:
        model = lip.Sequential([keras.Input((4,)), layers.SpectralDense(4), layer])
        model.add(layers.SpectralDense(2))
        model(np.zeros((1, 4)))
    assert len([r for r in record if "Lipschitz" in str(r.message)]) == 1


@pytest.mark.parametrize("make", KNOWN)
def test_known_layers_are_not_named(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lip.Sequential([keras.Input((4,)), layers.SpectralDense(4), make()])


def test_functional_models_warn_too():
    inputs = keras.Input((4,))
    with pytest.warns(UserWarning, match="unknown"):
        lip.Model(inputs, keras.layers.Dense(3, name="unknown")(inputs))


@pytest.mark.slow
def test_gradients_through_a_network_are_those_of_finite_differences(rng, tf):
    model = lip.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.SpectralConv2D(4, 3, strides=2, padding="circular", activation="tanh"),
            layers.SpectralConv2DTranspose(2, 2, 2),
            layers.Householder(),
            layers.ScaledL2NormPooling2D(),
            layers.PReLUlip(alpha_initializer="random_normal"),
            keras.layers.Flatten(),
            layers.FrobeniusDense(3),
        ],
        k_coef_lip=2.0,
    )
    model = float64(model)
    x = rng.normal(size=(3, 4, 4, 2))
    for variable in model.trainable_variables:
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(model(x) ** 2)
        gradient = tape.gradient(y, variable.value).numpy()
        start = variable.numpy()

        def function(value, variable=variable):
            variable.assign(value)
            return np.array([tf.reduce_sum(model(x) ** 2).numpy()])

        expected = oracles.jacobian(function, start).reshape(start.shape)
        variable.assign(start)
        error = np.linalg.norm(gradient - expected)
        assert error <= GRADIENT * np.linalg.norm(expected), variable.path


def test_clones_are_what_the_docstring_says():
    """Keras makes its own `Sequential`, of layers of the same constants; other classes stay."""
    parts = [lip.layers.SpectralDense(3, name="a"), lip.layers.SpectralDense(2, name="b")]
    model = lip.Sequential([keras.Input((3,)), *parts], k_coef_lip=4.0)
    clone = keras.models.clone_model(model)
    assert type(clone) is keras.Sequential and not hasattr(clone, "condense")
    assert [layer.k_coef_lip for layer in clone.layers] == [2.0, 2.0]
    for kind in (lip.Sequential, lip.LossVariableSequential):
        model = kind([keras.Input((3,)), lip.layers.SpectralDense(2)], k_coef_lip=4.0)
        copy = type(model).from_config(model.get_config())
        assert type(copy) is kind and copy.k_coef_lip == copy.layers[0].k_coef_lip == 4.0
    inputs = keras.Input((3,))
    model = lip.Model(inputs, lip.layers.SpectralDense(2)(inputs))
    assert type(keras.models.clone_model(model)) is lip.Model


def float64(model):
    """The same architecture, built under the float64 policy."""
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        configs = [layer.get_config() for layer in model.layers]
        copies = [
            type(layer).from_config({**config, "dtype": "float64"})
            for layer, config in zip(model.layers, configs, strict=True)
        ]
        return lip.Sequential([keras.Input(model.input_shape[1:]), *copies], k_coef_lip=2.0)
    finally:
        keras.config.set_dtype_policy(default)


def test_what_is_traced_is_forgotten_with_the_model(tf):
    """TensorFlow registers custom gradients for ever; here as long as their model is there."""
    from tensorflow.python.framework import ops as framework

    def network():
        hidden = layers.SpectralDense(4), layers.GroupSort2()
        model = lip.Sequential([keras.Input((4,)), *hidden, layers.SpectralDense(2)])
        model.compile("adam", "mse")
        return model

    def trained(model):
        model.fit(x, x[:, :2], verbose=0)
        model.evaluate(x, x[:, :2], verbose=0)
        model.predict(x, verbose=0)
        return weakref.ref(model), *map(weakref.ref, _keras._TRACED[model])

    def registered():
        return {name for name in framework.gradient_registry.list() if "CustomGradient" in name}

    x = np.ones((8, 4), "float32")
    kept = network()
    trained(kept)
    applied = tf.function(kept)
    applied(x)  # its gradient is looked up later
    gc.collect()
    before = registered()
    traces = trained(network())
    assert len(traces) >= 4 and registered() > before
    gc.collect()  # the model, with what was registered
    gc.collect()  # and then the graphs
    assert registered() == before and all(trace() is None for trace in traces)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(applied(x))
    assert all(g is not None for g in tape.gradient(value, kept.trainable_variables[:1]))
    kept.fit(x, x[:, :2], verbose=0)


@pytest.mark.parametrize("how", ["predict", "fit"])
def test_what_models_share_keeps_its_gradients_when_the_one_that_traced_it_goes(tf, how):
    for module in (tf_graphs, sorting, window_norms):  # what other tests have traced
        for cached in vars(module).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 2))

    def network():
        parts = [layers.SpectralConv2D(4, 3), layers.GroupSort2(), layers.ScaledL2NormPooling2D()]
        parts += [keras.layers.Flatten(), layers.SpectralDense(3)]
        model = lip.Sequential([keras.Input((8, 8, 2)), *parts])
        model.compile("adam", "mse")
        return model

    if how == "predict":
        network().predict(x, verbose=0)
    else:
        network().fit(x, np.ones((4, 3)), verbose=0)
    gc.collect()
    model = network()
    model.fit(x, np.ones((4, 3)), verbose=0)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model(tf.constant(x)))
    assert tape.gradient(value, model.trainable_variables[0].value) is not None


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_step_is_traced_once(tf, jit_compile):
    """TensorFlow traces a function twice that creates variables."""

    class Noted(keras.layers.Layer):
        def call(self, inputs, training=None):
            traced.append(training)
            return inputs

    traced = []
    model = lip.Sequential([keras.Input((4,)), layers.SpectralDense(3)])
    model.compile("adam", "mse", metrics=["mae"], jit_compile=jit_compile)
    with pytest.warns(match="not a 1-Lipschitz layer"):
        model.add(Noted())
    traced.clear()
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    history = model.fit(x, x[:, :3], epochs=2, verbose=0, validation_data=(x, x[:, :3])).history
    assert traced == [True, False]
    assert set(history) == {"loss", "mae", "val_loss", "val_mae"}
    # a learning rate, a count of steps, two moments of the kernel and of the bias
    assert len(model.optimizer.variables) == 6 and model.optimizer.iterations == 2
    assert model.train_on_batch(x, x[:, :3])[0] < history["loss"][0]
