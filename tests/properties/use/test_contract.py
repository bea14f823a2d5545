"""Every name of the contract: its arguments, and a day of training, saving, exporting, proving."""

import inspect
import operator

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import (
    callbacks,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    regularizers,
)
from tests._oracles.tolerances import SAME_FLOAT32
from tests._tables.cases import IMAGE, LAYERS, Case

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

# One row for each class, and the layers that promise no constant.
ONE_OF_EACH = [
    *{case.cls: case for case in LAYERS}.values(),
    Case(layers.PadConv2D, dict(filters=4, kernel_size=3, padding="circular"), IMAGE),
]
# The base classes, and the one layer of two inputs, which has tests of its own.
ELSEWHERE = {"Condensable", "LipschitzLayer", "LipResidual"}


def test_the_table_has_every_layer():
    public = {getattr(layers, name).__name__ for name in layers.__all__}  # without second names
    assert {case.cls.__name__ for case in ONE_OF_EACH} == public - ELSEWHERE


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
@pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")
def test_a_day_of_a_layer(case, rng, tmp_path):
    model = lip.Sequential(
        [
            keras.Input(case.shape),
            case.make(),
            keras.layers.Flatten(),
            layers.SpectralDense(3, use_bias=False),
        ]
    )
    loss = losses.TauSparseCategoricalCrossentropy(tau=3.0)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    x = rng.normal(size=(24, *case.shape)).astype("float32")
    model.fit(x, rng.integers(0, 3, 24), batch_size=8, epochs=1, verbose=0)
    expected = model.predict(x, verbose=0)

    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded.predict(x, verbose=0), expected, **SAME_FLOAT32)
    exported = model.vanilla_export()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        exported.export(tmp_path / "exported", verbose=False)
        served = tf.saved_model.load(tmp_path / "exported")
        np.testing.assert_allclose(served.serve(x), expected, **SAME_FLOAT32)
    np.testing.assert_allclose(exported.predict(x, verbose=0), expected, **SAME_FLOAT32)

    bound = lip.bounds.lipschitz_bound(model).value
    differences = np.linalg.norm(expected[:, None] - expected, axis=-1)
    flat = x.reshape(24, -1)
    distances = np.linalg.norm(flat[:, None] - flat, axis=-1)
    assert (differences <= bound * distances * (1 + 1e-5)).all()


BINARY, ONE_HOT, SPARSE = "binary", "one-hot", "sparse"
LOSSES = {
    losses.KR: (BINARY, {}),
    losses.NegKR: (BINARY, {}),
    losses.HKR: (BINARY, dict(alpha=10.0)),
    losses.HKRauto: (BINARY, dict(alpha=10.0)),
    losses.HingeMargin: (BINARY, {}),
    losses.HingeMarginAuto: (BINARY, {}),
    losses.TauBinaryCrossentropy: (BINARY, dict(tau=3.0)),
    losses.CategoricalHinge: (ONE_HOT, dict(min_margin=1.0)),
    losses.EMMA: (SPARSE, dict(radius=0.1, lipschitz="measured")),
    losses.GloRo: (ONE_HOT, dict(radius=0.1)),
    losses.LogitAnnealing: (SPARSE, {}),
    losses.LseHKR: (ONE_HOT, {}),
    losses.MultiMargin: (ONE_HOT, {}),
    losses.MulticlassHKR: (ONE_HOT, {}),
    losses.MulticlassHKRauto: (ONE_HOT, {}),
    losses.MulticlassHinge: (ONE_HOT, {}),
    losses.MulticlassHingeAuto: (ONE_HOT, {}),
    losses.MulticlassKR: (ONE_HOT, {}),
    losses.MulticlassSoftHKR: (ONE_HOT, {}),
    losses.OffsetCrossentropy: (SPARSE, {}),
    losses.TauCategoricalCrossentropy: (ONE_HOT, dict(tau=3.0)),
    losses.TauSparseCategoricalCrossentropy: (SPARSE, dict(tau=3.0)),
}


def test_the_table_has_every_loss():
    classes = [getattr(losses, name) for name in losses.__all__]
    own = {c for c in classes if isinstance(c, type) and issubclass(c, keras.Loss)}
    assert set(LOSSES) == own - {losses.ParametricLoss}


def network(outputs):
    inputs = keras.Input((6,))
    x = layers.GroupSort2()(layers.SpectralDense(8)(inputs))
    return lip.LossVariableModel(inputs, layers.SpectralDense(outputs, use_bias=False)(x))


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.filterwarnings("ignore:.*no trainable param")
@pytest.mark.filterwarnings("ignore:.*nothing to learn")
def test_a_day_of_a_loss(loss, rng, tmp_path):
    coding, arguments = LOSSES[loss]
    x = rng.normal(size=(24, 6)).astype("float32")
    classes = np.argmax(x[:, :3], axis=1)
    labels = {
        BINARY: (classes > 0).astype("float32")[:, None],
        ONE_HOT: np.eye(3, dtype="float32")[classes],
        SPARSE: classes,
    }[coding]
    model = network(1 if coding == BINARY else 3)
    certificate = metrics.Certificate_Binary if coding == BINARY else metrics.Certificate_Multiclass
    model.compile(keras.optimizers.Adam(1e-2), loss(**arguments), metrics=[certificate(model)])
    history = model.fit(x, labels, batch_size=8, epochs=2, validation_data=(x, labels), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert history.history[f"val_{certificate.__name__}"][-1] >= 0

    expected = model.evaluate(x, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded.evaluate(x, labels, verbose=0), expected, rtol=1e-5)
    np.testing.assert_allclose(model.vanilla_export()(x), model(x), **SAME_FLOAT32)


# The positional arguments of deel-lip and of its branches, in their order, with their defaults.
SIGNATURES = {
    "Sequential": "layers=None, name=None, k_coef_lip=1.0",
    "LossVariableSequential": "layers=None, name=None, optim_margin=True",
    "vanillaModel": "model",
    "layers.FrobeniusDense": "units, activation=None, use_bias=True",
    "layers.SpectralDense": "units, activation=None, use_bias=True",
    "layers.FrobeniusConv2D": "filters, kernel_size, strides=1, padding='same'",
    "layers.SpectralConv2D": "filters, kernel_size, strides=1, padding='same'",
    "layers.SpectralConv2DTranspose": "filters, kernel_size, strides=1, padding='same'",
    "layers.SpectralDepthwiseConv2D": "kernel_size, strides=1, padding='same', depth_multiplier=1",
    "layers.PadConv2D": "filters, kernel_size, strides=(1, 1), padding='same'",
    "layers.ScaledAveragePooling2D": (
        "pool_size=(2, 2), strides=None, padding='valid', data_format=None, k_coef_lip=1.0"
    ),
    "layers.ScaledL2NormPooling2D": (
        "pool_size=(2, 2), strides=None, padding='valid', data_format=None, k_coef_lip=1.0, "
        "eps_grad_sqrt=1e-06"
    ),
    "layers.ScaledGlobalAveragePooling2D": "data_format=None, k_coef_lip=1.0",
    "layers.ScaledGlobalL2NormPooling2D": "data_format=None, k_coef_lip=1.0, eps_grad_sqrt=1e-06",
    "layers.InvertibleDownSampling": "pool_size, data_format='channels_last', name=None",
    "layers.InvertibleUpSampling": "pool_size, data_format='channels_last', name=None",
    "layers.MaxMin": "data_format='channels_last', k_coef_lip=1.0",
    "layers.GroupSort": "n=None, data_format='channels_last', k_coef_lip=1.0",
    "layers.PReLUlip": "k_coef_lip=1.0",
    "layers.Householder": "data_format='channels_last', k_coef_lip=1.0, theta_initializer=None",
    "layers.LipschitzLayer._compute_lip_coef": "self, input_shape=None",
    "losses.KR": "multi_gpu=False, {}",
    "losses.MulticlassKR": "multi_gpu=False, {}",
    "losses.HKR": "alpha, min_margin=1.0, multi_gpu=False, {}",
    "losses.HingeMargin": "min_margin=1.0, {}",
    "losses.hinge_margin": "y_true, y_pred, min_margin=1.0",
    "losses.multiclass_hinge": "y_true, y_pred, min_margin=1.0",
    "losses.MulticlassHinge": "min_margin=1.0, {}",
    "losses.MulticlassHKR": "alpha=10.0, min_margin=1.0, multi_gpu=False, {}",
    "losses.MultiMargin": "min_margin=1.0, {}",
    "losses.CategoricalHinge": "min_margin, {}",
    "losses.TauCategoricalCrossentropy": "tau, {}",
    "losses.TauSparseCategoricalCrossentropy": "tau, {}",
    "losses.TauBinaryCrossentropy": "tau, {}",
    "losses.MulticlassSoftHKR": (
        "alpha=10.0, min_margin=1.0, alpha_mean=0.99, temperature=1.0, {}"
    ),
    "losses.HingeMarginAuto": "min_margin=1.0, max_margin=200.0, alpha_margin=0.1, {}",
    "losses.HKRauto": (
        "alpha, min_margin=1.0, max_margin=200.0, alpha_margin=0.1, multi_gpu=False, {}"
    ),
    "losses.MulticlassHingeAuto": (
        "min_margin=1.0, max_margin=200.0, alpha_margin=0.1, soft_hinge_tau=0.0, {}"
    ),
    "losses.MulticlassHKRauto": (
        "alpha=10.0, min_margin=1.0, max_margin=200.0, alpha_margin=0.1, soft_hinge_tau=0.0, "
        "multi_gpu=False, {}"
    ),
    "losses.Certificate_Binary": "model",
    "losses.Certificate_Multiclass": "model",
    "metrics.CategoricalProvableRobustAccuracy": (
        f"epsilon={36 / 255}, lip_const=1.0, disjoint_neurons=True"
    ),
    "metrics.BinaryProvableRobustAccuracy": f"epsilon={36 / 255}, lip_const=1.0",
    "metrics.CategoricalProvableAvgRobustness": (
        "lip_const=1.0, disjoint_neurons=True, negative_robustness=False"
    ),
    "metrics.BinaryProvableAvgRobustness": "lip_const=1.0, negative_robustness=False",
    "callbacks.CondenseCallback": "on_epoch=True, on_batch=False",
    "callbacks.MonitorCallback": (
        "monitored_layers, logdir, target='kernel', what='max', on_epoch=True, on_batch=False"
    ),
    "callbacks.LossParamScheduler": "param_name, fp, xp, step=0",
    "callbacks.LossParamLog": "param_name, rate=1",
    "constraints.WeightClipConstraint": "c=2",
    "constraints.AutoWeightClipConstraint": "scale=1",
    "constraints.FrobeniusConstraint": "eps=1e-07",
    "constraints.SpectralConstraint": (
        "k_coef_lip=1.0, eps_spectral=0.001, eps_bjorck=0.001, beta_bjorck=0.5, u=None"
    ),
    "initializers.SpectralInitializer": (
        "eps_spectral=0.001, eps_bjorck=0.001, beta_bjorck=0.5, k_coef_lip=1.0, "
        "base_initializer='orthogonal'"
    ),
    "regularizers.Lorth": "dim, kernel_shape=None, stride=1, conv_transpose=False",
    "regularizers.Lorth2D": "kernel_shape=None, stride=1, conv_transpose=False",
    "regularizers.LorthRegularizer": (
        "kernel_shape=None, stride=1, lambda_lorth=1.0, dim=2, conv_transpose=False"
    ),
    "regularizers.OrthDenseRegularizer": "lambda_orth=1.0",
    "utils.evaluate_lip_const": "model, x=None, eps=0.0001, seed=None",
    "utils.evaluate_lip_const_gen": "model, generator, eps=0.0001, seed=None",
    "utils.process_labels_for_multi_gpu": "labels",
    "compute_layer_sv.compute_layer_sv": "layer, supplementary_type2sv=None",
    "compute_layer_sv.compute_model_sv": "model, supplementary_type2sv=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_come_in_the_order_of_deel_lip(name):
    found = operator.attrgetter(name)(lip)
    parameters = inspect.signature(found).parameters.values()
    mine = [p.replace(annotation=p.empty) for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    last_of_losses = f"reduction='sum_over_batch_size', name='{name.split('.')[-1]}'"
    expected = SIGNATURES[name].format(last_of_losses)
    assert ", ".join(map(str, mine))[: len(expected)] == expected


OF_KERNELS = (
    "kernel_initializer bias_initializer kernel_regularizer bias_regularizer activity_regularizer "
    "kernel_constraint bias_constraint"
)
OF_IMAGES = f"data_format dilation_rate groups activation use_bias {OF_KERNELS}"
BY_POSITION = {
    layers.SpectralDense: f"units activation use_bias {OF_KERNELS} lora_rank",
    layers.AOLDense: f"units activation use_bias {OF_KERNELS} lora_rank",
    layers.AOLConv2D: f"filters kernel_size strides padding {OF_IMAGES}",
    layers.AOCConv1D: f"filters kernel_size strides padding {OF_IMAGES}",
    layers.AOCConv2D: f"filters kernel_size strides padding {OF_IMAGES}",
    layers.BCOPConv2D: f"filters kernel_size strides padding {OF_IMAGES}",
    layers.AOCConv2DTranspose: (
        f"filters kernel_size strides padding {OF_IMAGES.replace(' groups', '')}"
    ),
    layers.FrobeniusDense: f"units activation use_bias {OF_KERNELS} lora_rank",
    layers.SpectralConv1D: f"filters kernel_size strides padding {OF_IMAGES}",
    layers.SpectralConv2D: f"filters kernel_size strides padding {OF_IMAGES}",
    layers.FrobeniusConv2D: f"filters kernel_size strides padding {OF_IMAGES}",
    layers.PadConv2D: f"filters kernel_size strides padding {OF_IMAGES}",
    layers.SpectralConv2DTranspose: (
        f"filters kernel_size strides padding {OF_IMAGES.replace(' groups', '')}"
    ),
    layers.SpectralDepthwiseConv2D: (
        "kernel_size strides padding depth_multiplier "
        f"{OF_IMAGES.replace(' groups', '').replace('kernel_', 'depthwise_')}"
    ),
}
ARGUMENTS = dict(
    units=3,
    filters=2,
    kernel_size=5,
    strides=2,
    padding="valid",
    depth_multiplier=3,
    data_format="channels_first",
    dilation_rate=1,
    groups=1,
    activation="relu",
    use_bias=False,
    kernel_initializer="ones",
    bias_initializer="he_normal",
    kernel_regularizer="l1",
    bias_regularizer="l2",
    activity_regularizer="L1L2",
    kernel_constraint="non_neg",
    bias_constraint="unit_norm",
    lora_rank=None,
)


@pytest.mark.parametrize("layer", BY_POSITION, ids=lambda layer: layer.__name__)
def test_arguments_by_position_are_those_by_name(layer):
    names = BY_POSITION[layer].split()
    values = [ARGUMENTS[name.replace("depthwise_", "kernel_")] for name in names]
    by_position = layer(*values, name="one").get_config()
    assert by_position == layer(**dict(zip(names, values, strict=True)), name="one").get_config()
    # and not because both left it out
    assert by_position["bias_constraint"]["class_name"] == "UnitNorm"


def test_defaults_of_the_projection():
    made = [
        layers.SpectralDense(1),
        layers.SpectralConv2D(1, 1),
        layers.SpectralConv2DTranspose(1, 1),
    ]
    expected = dict(
        k_coef_lip=1.0,
        eps_spectral=1e-3,
        eps_bjorck=1e-3,
        beta_bjorck=0.5,
        maxiter_spectral=10,
        maxiter_bjorck=15,
    )
    for layer in made:
        assert layer.get_config() | expected == layer.get_config()
        assert layer.get_config()["kernel_initializer"]["class_name"] == "SpectralInitializer"
    assert layers.FrobeniusDense(1).get_config()["disjoint_neurons"] is True


class Halving(keras.layers.Layer, layers.LipschitzLayer):
    """A layer of a user of deel-lip, with the methods that deel-lip asks for."""

    def build(self, input_shape):
        self._init_lip_coef(input_shape)
        super().build(input_shape)

    def _compute_lip_coef(self, input_shape=None):
        return 1 / input_shape[-1]

    def call(self, inputs):
        return keras.ops.sum(inputs, axis=-1, keepdims=True) * self._get_coef()


def test_a_layer_written_for_deel_lip_takes_its_share_of_the_constant():
    model = lip.Sequential([keras.Input((4,)), layers.GroupSort2(), Halving()], k_coef_lip=9.0)
    np.testing.assert_allclose(model(np.full((1, 4), 2.0)), [[18.0]], rtol=1e-6)


METRICS = {
    metrics.CategoricalProvableRobustAccuracy: dict(epsilon=0.1, disjoint_neurons=False),
    metrics.BinaryProvableRobustAccuracy: dict(epsilon=0.1),
    metrics.CategoricalProvableAvgRobustness: dict(disjoint_neurons=False),
    metrics.BinaryProvableAvgRobustness: dict(negative_robustness=True),
    metrics.KR: {},
    metrics.MulticlassKR: {},
    metrics.Certificate_Multiclass: {},
    metrics.CertifiedRobustAccuracy: dict(radius=0.05),
}
# On the kernels of plain Keras layers.
OF_PLAIN_LAYERS = [
    dict(kernel_constraint=constraints.SpectralConstraint()),
    dict(kernel_constraint=constraints.FrobeniusConstraint()),
    dict(kernel_constraint=constraints.WeightClipConstraint(0.5)),
    dict(kernel_constraint=constraints.AutoWeightClipConstraint()),
    dict(kernel_initializer=initializers.SpectralInitializer()),
    dict(kernel_initializer=initializers.IBPInitializer(seed=0)),
    dict(kernel_constraint=constraints.AbsoluteSumConstraint()),
    dict(kernel_initializer=initializers.CenteredInitializer()),
    dict(kernel_initializer=initializers.ResidualInitializer()),
    dict(kernel_regularizer=regularizers.OrthDenseRegularizer(0.1)),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")
def test_a_day_of_everything_else(rng, tmp_path):
    """Metrics, callbacks, constraints, initializers, regularizers, a layer of two inputs."""
    inputs = keras.Input((4, 4, 2))
    penalty = regularizers.LorthRegularizer(lambda_lorth=0.1)
    tensor = keras.layers.Conv2D(3, 3, padding="same", kernel_regularizer=penalty)(inputs)
    tensor = keras.layers.Flatten()(tensor)
    for arguments in OF_PLAIN_LAYERS:
        tensor = keras.layers.Dense(6, **arguments)(tensor)
    branch = layers.GroupSort2()(layers.SpectralDense(6, name="watched")(tensor))
    tensor = layers.LipResidual()([tensor, branch])
    model = lip.Model(inputs, layers.SpectralDense(3)(tensor))
    of_models = {metrics.Certificate_Multiclass, metrics.CertifiedRobustAccuracy}
    given = [m(**({"model": model} if m in of_models else {}), **k) for m, k in METRICS.items()]
    model.compile("adam", losses.MulticlassHKR(alpha=10.0), metrics=given, run_eagerly=True)
    x = rng.normal(size=(12, 4, 4, 2)).astype("float32")
    labels = np.eye(3, dtype="float32")[rng.integers(0, 3, 12)]
    watching = [
        callbacks.CondenseCallback(),
        callbacks.MonitorCallback(["watched"], str(tmp_path / "logs"), "wbar"),
        callbacks.LossParamScheduler("alpha", [10.0, 2.0], [0, 2]),
        callbacks.LossParamLog("alpha"),
    ]
    model.fit(x, labels, batch_size=4, epochs=1, verbose=0, callbacks=watching)
    assert float(model.loss.alpha) == 2.0
    expected = model.evaluate(x, labels, verbose=0, return_dict=True)
    assert expected.keys() == {"loss", *(made.name for made in given)}

    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    found = reloaded.evaluate(x, labels, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(model.vanilla_export()(x), model(x), **SAME_FLOAT32)
    bound = lip.bounds.lipschitz_bound(model).value
    assert 0 < lip.utils.evaluate_lip_const(model, x[:2]) <= bound
    assert [len(pair) for _, pair in lip.compute_layer_sv.compute_model_sv(model)]


def test_the_tables_have_everything_else():
    def classes(room, base):
        named = [getattr(room, name) for name in dir(room)]  # those of `__getattr__`, too
        made = [one for one in named if isinstance(one, type)]
        return {c for c in made if issubclass(c, base) and not c.__name__.startswith("_")}

    assert classes(metrics, keras.metrics.Metric) == {*METRICS, metrics.Certificate_Binary}
    used = {type(one) for arguments in OF_PLAIN_LAYERS for one in arguments.values()}
    made = classes(constraints, keras.constraints.Constraint)
    made |= classes(initializers, keras.initializers.Initializer)
    made |= classes(regularizers, keras.regularizers.Regularizer)
    assert made == used | {regularizers.LorthRegularizer}
