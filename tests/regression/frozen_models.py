"""What each release freezes: models of every layer, trained models, objects of each class."""

import math
from functools import cache

import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf import (
    callbacks,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    optimizers,
    regularizers,
    training,
)
from deel_lip_tf.normalizers import (
    AOC,
    AOL,
    BCOP,
    BRO,
    SLL,
    Cayley,
    Frobenius,
    LipNeXt,
    LiRes,
    OperatorNorm,
    Spectral,
    UnitFrobenius,
)
from tests._tables.all_losses import ALL_LOSSES, parameters_of
from tests._tables.cases import CONSTRAINED, IMAGE, LAYERS, SEQUENCE, Case

PROJECTION = dict(
    eps_spectral=1e-4, eps_bjorck=1e-4, beta_bjorck=0.4, maxiter_spectral=12, maxiter_bjorck=25
)
# Arguments that no row of the other tests' table gives.
MORE = [
    Case(layers.SpectralDense, dict(units=5, activation="relu", k_coef_lip=1.5, **PROJECTION)),
    Case(layers.FrobeniusDense, dict(units=4, activation="tanh", k_coef_lip=0.5)),
    Case(
        layers.SpectralConv1D,
        dict(filters=3, kernel_size=2, padding="causal", activation="relu", k_coef_lip=2.0),
        SEQUENCE,
    ),
    Case(
        layers.SpectralConv2D,
        dict(filters=3, kernel_size=(2, 3), padding="reflect", use_bias=False, k_coef_lip=0.7),
        IMAGE,
    ),
    Case(
        layers.FrobeniusConv2D,
        dict(filters=2, kernel_size=2, activation="leaky_relu", k_coef_lip=3.0),
        IMAGE,
    ),
    Case(
        layers.SpectralDepthwiseConv2D,
        dict(kernel_size=2, padding="valid", activation="elu", k_coef_lip=0.5, **PROJECTION),
        IMAGE,
    ),
    Case(
        layers.SpectralConv2DTranspose,
        dict(filters=2, kernel_size=3, strides=2, activation="relu", k_coef_lip=1.5),
        IMAGE,
    ),
    Case(layers.PadConv2D, dict(filters=4, kernel_size=3, padding="circular"), IMAGE),
    Case(
        layers.PadConv2D,
        dict(filters=2, kernel_size=(2, 3), strides=2, padding="symmetric", activation="relu"),
        IMAGE,
    ),
    Case(layers.ScaledAveragePooling2D, dict(pool_size=2, k_coef_lip=2.0), (6, 4, 3)),
    Case(
        layers.ScaledL2NormPooling2D,
        dict(pool_size=2, k_coef_lip=0.5, eps_grad_sqrt=1e-4),
        (6, 4, 3),
    ),
    Case(layers.ScaledGlobalAveragePooling2D, dict(k_coef_lip=1.5), IMAGE),
    Case(layers.ScaledGlobalL2NormPooling2D, dict(k_coef_lip=1.5, eps_grad_sqrt=1e-4), IMAGE),
    Case(layers.ScaledAdaptiveAveragePooling2D, dict(output_size=1, k_coef_lip=1.5), IMAGE),
    Case(layers.ScaledAdaptiveL2NormPooling2D, dict(output_size=1, k_coef_lip=1.5), IMAGE),
    Case(layers.GroupSort, dict(n=2, data_format="channels_first", k_coef_lip=0.5), (4, 3, 6)),
    Case(layers.GroupSort2, dict(k_coef_lip=2.0)),
    Case(layers.FullSort, dict(k_coef_lip=2.0)),
    Case(layers.MaxMin, dict(data_format="channels_first", k_coef_lip=0.5), (4, 3, 6)),
    Case(layers.Householder, dict(theta_initializer="random_normal", k_coef_lip=1.5)),
    Case(layers.PReLUlip, dict(k_coef_lip=1.5, alpha_initializer="random_normal")),
    Case(layers.InvertibleDownSampling, dict(pool_size=2, k_coef_lip=0.5), (6, 4, 3)),
    Case(layers.InvertibleUpSampling, dict(pool_size=2, k_coef_lip=0.5), (3, 2, 12)),
    Case(layers.LayerCentering, dict(axis=-1, k_coef_lip=1.5), IMAGE),
    Case(layers.BatchCentering, dict(momentum=0.5, k_coef_lip=1.5), IMAGE),
    Case(layers.BatchLipNorm, dict(normalize=True, epsilon=1e-3, momentum=0.5), IMAGE),
    Case(layers.ScaleBias, dict(scalar=0.5, k_coef_lip=1.5), IMAGE),
]


def _groups() -> dict[str, list[Case]]:
    constrained, groups = {case.cls for case in CONSTRAINED}, {}
    for case in LAYERS + MORE:
        family = case.cls.__name__ if case.cls in constrained else "others"
        groups.setdefault(f"{family}-{'x'.join(map(str, case.shape))}", []).append(case)
    return groups


GROUPS = _groups()
"""Rows of one shape of inputs, and of one class if it is constrained: branches of one model."""


def randomize(model, seed=0):
    """Random weights, and the statistics of two random batches."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    for _ in range(2):
        model(samples(model, rng, 16), training=True)
    return model


def samples(model, rng, count=4):
    return rng.normal(size=(count, *model.inputs[0].shape[1:])).astype(model.inputs[0].dtype)


def branches(name):
    """One input, and one output for each row of a group."""
    inputs = keras.Input(GROUPS[name][0].shape)
    made = [case.make(name=f"row{i}") for i, case in enumerate(GROUPS[name])]
    return randomize(keras.Model(inputs, [layer(inputs) for layer in made]))


# --- trained models ---------------------------------------------------------------------------


def labels(model, rng, count):
    """Labels in the coding of each output's loss: of two classes, as indices, or one-hot."""
    if isinstance(model.loss, dict):
        pairs = zip(model.output_names, model.outputs, strict=True)
        return {name: _labels(model.loss[name], out, rng, count) for name, out in pairs}
    return _labels(model.loss, model.outputs[0], rng, count)


def _labels(loss, output, rng, count):
    classes = output.shape[-1]
    drawn = rng.permutation(np.arange(count) % max(classes, 2))
    if "Sparse" in type(loss).__name__:
        return drawn.astype("int32")
    return (drawn[:, None] if classes == 1 else np.eye(classes)[drawn]).astype("float32")


def trained(model, loss, given=()):
    """After one step of Adam. Eager, so that whoever loads it need not trace anything."""
    optimizer = keras.optimizers.Adam(0.01, beta_1=0.8)
    model.compile(optimizer, loss, metrics=given or None, run_eagerly=True)
    rng = np.random.default_rng(1)
    x = samples(model, rng, 12)
    model.fit(x, labels(model, rng, 12), batch_size=12, verbose=0)
    return model


def _classifier(padding="circular", **kwargs):
    return randomize(
        lip.Sequential(
            [
                keras.Input((6, 4, 2)),
                layers.SpectralConv2D(4, 3, padding=padding, name="convolution"),
                layers.MaxMin(name="maxmin"),
                layers.ScaledAveragePooling2D(2, name="pooling"),
                keras.layers.Flatten(name="flatten"),
                layers.SpectralDense(6, name="dense"),
                layers.GroupSort2(name="groupsort"),
                layers.FrobeniusDense(3, use_bias=False, name="head"),
            ],
            **kwargs,
        )
    )


def sequential():
    model = _classifier(k_coef_lip=2.0)
    given = [
        metrics.CategoricalProvableRobustAccuracy(epsilon=0.2, lip_const=2.0),
        metrics.CategoricalProvableAvgRobustness(lip_const=2.0, negative_robustness=True),
        metrics.MulticlassKR(),
        metrics.Certificate_Multiclass(model),
        metrics.CertifiedRobustAccuracy(model, radius=0.05),
    ]
    return trained(model, losses.MulticlassHKR(alpha=5.0, min_margin=0.5), given)


def functional():
    inputs = keras.Input((8,))
    branch = layers.SpectralDense(8, name="dense")(inputs)
    branch = layers.BatchLipNorm(normalize=True, name="normalization")(branch)
    branch = layers.FullSort(name="sort")(branch)
    tensor = layers.LipResidual(k_coef_lip=0.8, name="residual")([inputs, branch])
    nested = [layers.SpectralDense(4, name="inner"), layers.Householder(name="householder")]
    tensor = lip.Sequential(nested, k_coef_lip=0.5, name="nested")(tensor)
    model = lip.Model(inputs, layers.FrobeniusDense(3, name="head")(tensor))
    return trained(randomize(model), losses.TauSparseCategoricalCrossentropy(tau=4.0), ["accuracy"])


def binary():
    parts = [
        keras.Input((6,)),
        layers.SpectralDense(4, name="dense"),
        layers.PReLUlip(name="prelu"),
        layers.FrobeniusDense(1, name="head"),
    ]
    model = randomize(lip.LossVariableSequential(parts, k_coef_lip=1.5))
    given = [
        metrics.BinaryProvableRobustAccuracy(epsilon=0.1, lip_const=1.5),
        metrics.BinaryProvableAvgRobustness(lip_const=1.5, negative_robustness=True),
        metrics.KR(),
        metrics.Certificate_Binary(model),
    ]
    return trained(model, losses.HKRauto(alpha=5.0, max_margin=3.0, alpha_margin=0.05), given)


def margins():
    inputs = keras.Input((6,))
    hidden = layers.GroupSort2(name="groupsort")(layers.SpectralDense(4, name="dense")(inputs))
    model = lip.LossVariableModel(inputs, layers.FrobeniusDense(3, name="head")(hidden))
    loss = losses.MulticlassHKRauto(alpha=5.0, min_margin=0.01, max_margin=3.0, soft_hinge_tau=4.0)
    return trained(randomize(model), loss)


PARAMETERS = dict(
    alpha=3.0,
    min_margin=0.7,
    max_margin=5.0,
    alpha_margin=0.2,
    tau=2.5,
    temperature=1.3,
    penalty=1.1,
    alpha_mean=0.9,
    soft_hinge_tau=4.0,
    offset=0.5,
    beta=1.5,
    radius=0.3,
    lipschitz=1.7,
    trades=0.6,
)
BINARY = (
    losses.KR,
    losses.NegKR,
    losses.HKR,
    losses.HKRauto,
    losses.HingeMargin,
    losses.HingeMarginAuto,
    losses.TauBinaryCrossentropy,
)


def a_loss(make):
    return make(**{k: v for k, v in PARAMETERS.items() if k in parameters_of(make)})


def all_losses():
    """Every loss on an output of its own."""
    inputs = keras.Input((6,))
    hidden = layers.SpectralDense(4, name="dense")(inputs)
    scores, score = (layers.SpectralDense(n, name=f"scores{n}")(hidden) for n in (3, 1))
    ends = [
        keras.layers.Identity(name=make.__name__)(score if make in BINARY else scores)
        for make in ALL_LOSSES
    ]
    model = randomize(lip.LossVariableModel(inputs, ends))
    return trained(model, {make.__name__: a_loss(make) for make in ALL_LOSSES})


def constrained():
    """Constraints, initializers and regularizers in layers of Keras."""
    inputs = keras.Input((4, 4, 2))
    penalty = regularizers.LorthRegularizer(lambda_lorth=0.1)
    tensor = keras.layers.Conv2D(3, 3, kernel_regularizer=penalty, name="convolution")(inputs)
    tensor = keras.layers.Flatten(name="flatten")(tensor)
    for name, arguments in OF_PLAIN_LAYERS.items():
        tensor = keras.layers.Dense(4, name=name, **arguments)(tensor)
    return trained(randomize(keras.Model(inputs, tensor)), losses.MultiMargin(min_margin=0.5))


def of_dtype(policy):
    parts = [
        layers.SpectralDense(5, activation="relu", name="dense", dtype=policy),
        layers.GroupSort(n=5, name="groupsort", dtype=policy),
        layers.FrobeniusDense(3, name="head", dtype=policy),
    ]
    dtype = keras.DTypePolicy(policy).variable_dtype
    return randomize(keras.Sequential([keras.Input((8,), dtype=dtype), *parts]))


def condensed():
    model = _classifier()
    model.condense()
    return model


MODELS = {
    "sequential": sequential,
    "functional": functional,
    "binary": binary,
    "margins": margins,
    "all_losses": all_losses,
    "constrained": constrained,
    "condensed": condensed,
    "exported": lambda: _classifier("same", k_coef_lip=0.5).vanilla_export(),
    "float64": lambda: of_dtype("float64"),
    "mixed_bfloat16": lambda: of_dtype("mixed_bfloat16"),
}

# --- one object of each class that is neither a layer nor a model ------------------------------

OF_PLAIN_LAYERS = {
    "spectral": dict(
        kernel_constraint=constraints.SpectralConstraint(2.0, eps_bjorck=1e-4, beta_bjorck=0.4)
    ),
    "frobenius": dict(kernel_constraint=constraints.FrobeniusConstraint(eps=1e-6)),
    "clipped": dict(kernel_constraint=constraints.WeightClipConstraint(0.5)),
    "clipped_by_size": dict(kernel_constraint=constraints.AutoWeightClipConstraint(2.0)),
    "orthogonal": dict(
        kernel_initializer=initializers.SpectralInitializer(
            eps_bjorck=1e-4, k_coef_lip=2.0, base_initializer="glorot_uniform"
        )
    ),
    "penalized": dict(kernel_regularizer=regularizers.OrthDenseRegularizer(0.1)),
}


def plain_network() -> keras.Model:
    """What is trained with bounds."""
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "relu", name="dense")])


@cache
def objects() -> list:
    """Objects of every registered class but models, with arguments that are no defaults."""
    made = [case.make() for case in {case.cls: case for case in LAYERS + MORE}.values()]
    made += [layers.LipResidual(k_coef_lip=0.8), *map(a_loss, ALL_LOSSES)]
    made += [one for arguments in OF_PLAIN_LAYERS.values() for one in arguments.values()]
    made += [
        AOL(),
        OperatorNorm(at_most=True),
        Spectral(**PROJECTION),
        Frobenius(False),
        UnitFrobenius(),
    ]
    made += [AOC(), BCOP(), BRO(), Cayley(), LiRes(depth=4), LipNeXt(0.2), SLL()]
    return made + [
        constraints.AbsoluteSumConstraint(2.0),
        initializers.CenteredInitializer("identity"),
        initializers.IBPInitializer(seed=3),
        initializers.ResidualInitializer(seed=3),
        losses.HKR(alpha=math.inf, multi_gpu=True, reduction="sum", name="mine"),
        regularizers.LorthRegularizer((3, 3, 2, 4), 2, 0.5, conv_transpose=True),
        metrics.CategoricalProvableRobustAccuracy(0.2, 2.0, False, "robust"),
        metrics.BinaryProvableRobustAccuracy(0.2, 2.0, "robust"),
        metrics.CategoricalProvableAvgRobustness(2.0, False, True, "robustness"),
        metrics.BinaryProvableAvgRobustness(2.0, True, "robustness"),
        metrics.KR(1, "kr"),
        metrics.MulticlassKR(3, "kr"),
        metrics.Certificate_Multiclass(name="radius"),
        metrics.Certificate_Binary(name="radius"),
        metrics.CertifiedRobustAccuracy(radius=0.3, name="certified"),
        training.Ramp(1.0, 0.5, 100, begin=20),
        training.CertifiedModel(
            plain_network(), 0.1, training.Ramp(0.0, 1.0, 100), 0.3, 0.2, 2, (0.0, 1.0), name="c"
        ),
        optimizers.StiefelMuon(0.1, 0.9, 0.2, 0.8, 0.99, 1e-6, clipnorm=2.0),
        callbacks.CondenseCallback(on_epoch=False, on_batch=True),
        callbacks.MonitorCallback(["a", "b"], "logs", "wbar", "all", False, True),
        callbacks.LossParamScheduler("alpha", [10.0, 2.0], [0, 20], 3),
        callbacks.LossParamLog("alpha", 5),
        callbacks.SafeBackup("backups", 7, False, False),
        callbacks.ExplainNaN(),
    ]
