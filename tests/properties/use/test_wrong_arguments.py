"""One wrong argument of a constructor or a function in each row: the error names it and what came.

Never a raw error of TensorFlow or NumPy, and never a silent NaN. What is wrong with the data that
layers, losses and metrics are given is in `test_wrong_inputs.py`.
"""

import math
import re
from functools import partial
from typing import NamedTuple

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
    utils,
    verify,
)
from deel_lip_tf.verify import figures
from deel_lip_tf.verify.specification.property import Property
from tests._tables.all_losses import ALL_LOSSES, needed_by, parameters_of

nan, inf = math.nan, math.inf


class Row(NamedTuple):
    make: object
    name: str
    value: object
    error: type
    words: str
    others: dict

    def __str__(self):
        made = getattr(self.make, "__name__", None) or self.make.func.__name__
        value = f"array{self.value.shape}" if isinstance(self.value, np.ndarray) else self.value
        return f"{made}({self.name}={value!r})"


def refused(make, name, *values, error=ValueError, words=None, **others):
    """A row for each wrong value of the argument `name`, beside right ones of the others."""
    words = words or f"`{name}`"
    return [Row(make, name, value, error, words, others) for value in values]


not_a = partial(refused, error=TypeError)


def number(make, name, *out_of_range, types=("x", None), **others):
    """Rows for a numeric argument: what is no number, NaN, and what is out of its range."""
    return [
        *not_a(make, name, *types, **others),
        *refused(make, name, nan, *out_of_range, **others),
    ]


def integer(make, name, *out_of_range, types=("x", None, 1.5, nan, True), **others):
    return [*not_a(make, name, *types, **others), *refused(make, name, *out_of_range, **others)]


def flag(make, name, **others):
    return not_a(make, name, "x", None, 2, **others)


CONVOLUTIONS = {
    layers.SpectralConv2D: dict(filters=3, kernel_size=3),
    layers.FrobeniusConv2D: dict(filters=3, kernel_size=3),
    layers.SpectralConv1D: dict(filters=3, kernel_size=3),
    layers.SpectralConv2DTranspose: dict(filters=3, kernel_size=3),
    layers.SpectralDepthwiseConv2D: dict(kernel_size=3),
    layers.SpectralConv3D: dict(filters=3, kernel_size=3),
    layers.FrobeniusConv3D: dict(filters=3, kernel_size=3),
    layers.SpectralConv3DTranspose: dict(filters=3, kernel_size=3),
}
TRANSPOSED = (layers.SpectralConv2DTranspose, layers.SpectralConv3DTranspose)
PLAIN_AND_CONSTRAINED = {**CONVOLUTIONS, layers.PadConv2D: dict(filters=3, kernel_size=3)}
OF_LORA = dict(words="vanilla_export")


def of_convolutions():
    for make, others in PLAIN_AND_CONSTRAINED.items():
        counted = "filters" if "filters" in others else "depth_multiplier"
        others_but = {k: v for k, v in others.items() if k != counted}
        yield from integer(make, counted, 0, -1, **others_but)
        too_many = (1, 2, 3, 4) if "3D" in make.__name__ else (1, 2, 3)
        sizes = ("x", None, 0, -1, 1.5, too_many)
        yield from refused(make, "kernel_size", *sizes, **{counted: 3})
        yield from refused(make, "strides", "x", None, 0, -1, too_many, **others)
        yield from refused(make, "padding", "full", None, 1, **others)
        yield from refused(make, "data_format", "last", 3, **others)
    for make, others in CONVOLUTIONS.items():
        yield from refused(make, "dilation_rate", 2, "x", **others)
        yield from number(make, "k_coef_lip", 0, -1, inf, **others)
        if "filters" in others and make not in TRANSPOSED:
            yield from refused(make, "groups", 2, "x", 0, **others)
            yield from refused(make, "lora_rank", 2, **OF_LORA, **others)
    yield from refused(layers.SpectralConv2D, "padding", "causal", filters=3, kernel_size=3)
    yield from refused(layers.SpectralDepthwiseConv2D, "strides", (1, 2), kernel_size=3)
    transposed = partial(refused, layers.SpectralConv2DTranspose, filters=3, kernel_size=3)
    yield from transposed("output_padding", "x", -1, 5)
    yield from transposed("output_padding", 1, strides=2, padding="circular")
    yield from transposed("groups", 2, words="groups")


def of_dense_layers():
    for make in (layers.SpectralDense, layers.FrobeniusDense):
        yield from refused(make, "units", "x", None, 0, -1, 1.5)
        yield from refused(make, "activation", "nope", 3, words="activation", units=3)
        yield from refused(make, "kernel_initializer", "nope", words="initializer", units=3)
        yield from refused(make, "lora_rank", 2, **OF_LORA, units=3)
        yield from refused(make, "nonsense", 1, words="nonsense", units=3)
        yield from number(make, "k_coef_lip", 0, -1, inf, units=3)
    yield from flag(layers.FrobeniusDense, "disjoint_neurons", units=3)
    spectral = layers.SpectralDense
    yield from number(spectral, "eps_spectral", 0, -1, units=3)
    yield from number(spectral, "eps_bjorck", 0, -1, types=("x",), units=3)
    yield from number(spectral, "beta_bjorck", 0, -1, 0.6, types=("x",), units=3)
    yield from integer(spectral, "maxiter_spectral", 0, -1, units=3)
    yield from integer(spectral, "maxiter_bjorck", 0, -1, units=3)
    yield from refused(layers.FrobeniusDense, "eps_bjorck", 1e-3, words="eps_bjorck", units=3)


def of_layers_without_a_kernel():
    for make in (layers.ScaledAveragePooling2D, layers.ScaledL2NormPooling2D):
        yield from refused(make, "pool_size", "x", None, 0, -1, 1.5, (2,), (2, 2, 2))
        yield from refused(make, "strides", "x", 1, (2, 1))
        yield from refused(make, "padding", "same", None, 3, words="padding")
        yield from refused(make, "data_format", "last", 3)
    for make in (layers.ScaledL2NormPooling2D, layers.ScaledGlobalL2NormPooling2D):
        yield from number(make, "eps_grad_sqrt", -1)
    for make in (layers.ScaledAdaptiveAveragePooling2D, layers.ScaledAdaptiveL2NormPooling2D):
        yield from refused(make, "output_size", "x", None, 2, 0, (1, 2), (1,), (1, 1, 1))
    for make in (layers.InvertibleDownSampling, layers.InvertibleUpSampling):
        yield from not_a(make, "pool_size", "x", None, 1.5, (2, 1.5), True)
        yield from refused(make, "pool_size", 0, -1, (2, 2, 2), (2,), (2, 0))
        yield from refused(make, "data_format", "last", 3, pool_size=2)
        yield from number(make, "k_coef_lip", 0, -1, pool_size=2)
    for make in (layers.FirstChannels, layers.PadChannels):
        yield from integer(make, "n", 0, -1)
        yield from refused(make, "data_format", "last", 3, n=2)
        yield from number(make, "k_coef_lip", 0, -1, inf, n=2)
    sorting = (layers.GroupSort, layers.GroupSort2, layers.FullSort)
    centering = (layers.LayerCentering, layers.BatchCentering, layers.BatchLipNorm)
    bent = (layers.Abs, layers.NActivation, layers.LipschitzSpline, layers.Householder)
    for make in (*sorting, *centering, *bent, layers.MaxMin, layers.ScaleBias):
        yield from refused(make, "data_format", "last", 3)
        yield from number(make, "k_coef_lip", 0, -1, inf)
    for make in (
        layers.PReLUlip,
        layers.SoftHuber,
        layers.LipResidual,
        layers.ScaledGlobalAveragePooling2D,
    ):
        yield from number(make, "k_coef_lip", 0, -1, inf)
    yield from integer(layers.GroupSort, "n", 0, -1, types=("x", 1.5, nan, True))
    yield from refused(layers.Householder, "theta_initializer", nan, inf, "nope", [1, 2])
    yield from refused(layers.Householder, "order", 0, 3, "x", None, nan)
    yield from number(layers.Abs, "fraction", -0.1, 1.1)
    yield from number(layers.SoftHuber, "delta", 0, -1, 1e-7, 1e7, inf)
    yield from refused(layers.NActivation, "knots_initializer", "nope")
    yield from integer(layers.LipschitzSpline, "knots", 0, -1, 4)
    yield from number(layers.LipschitzSpline, "radius", 0, -1, inf)
    yield from refused(layers.LipschitzSpline, "slopes_initializer", "nope")
    for make in (layers.ScaledGlobalAveragePooling2D, layers.ScaledGlobalL2NormPooling2D):
        yield from flag(make, "keepdims")
    for make in (*centering, layers.ScaleBias):
        yield from flag(make, "use_bias")
    for name in ("centering", "normalize"):
        yield from flag(layers.BatchLipNorm, name)
    yield from not_a(layers.LayerCentering, "axis", "x", 1.5, (1, "x"), True)
    for make in (layers.BatchCentering, layers.BatchLipNorm):
        yield from number(make, "momentum", -0.1, 1, 2)
    yield from number(layers.BatchLipNorm, "epsilon", 0, -1, inf)
    yield from number(layers.ScaleBias, "scalar", inf)


OUT_OF_RANGE = dict(
    alpha=[-1],
    min_margin=[0, -1, inf],
    tau=[0, -1, inf],
    temperature=[0, -1],
    penalty=[0, -1],
    max_margin=[0, inf],
    alpha_margin=[-0.1, inf],
    offset=[-0.1, inf],
    radius=[-0.1, inf],
    lipschitz=[0, -1, inf],
    beta=[-0.1, inf],
    soft_hinge_tau=[-1, inf],
    alpha_mean=[-0.1, 1],
)


def of_losses():
    for make in ALL_LOSSES:
        names, needed = parameters_of(make), needed_by(make)
        for name in sorted(set(names) & set(OUT_OF_RANGE)):
            others = {k: v for k, v in needed.items() if k != name}
            yield from number(make, name, *OUT_OF_RANGE[name], **others)
        if "multi_gpu" in names:
            yield from not_a(make, "multi_gpu", "x", 1, 20.0, **needed)
        yield from refused(make, "reduction", "average", 3, **needed)
    yield from refused(losses.MulticlassSoftHKR, "alpha", 0.0)
    yield from number(losses.GloRo, "trades", -0.1, inf, types=("x",), radius=1.0)
    for make in (losses.HingeMarginAuto, losses.MulticlassHKRauto):
        yield from refused(make, "max_margin", 0.5)
    one_hot, scores = np.eye(3, dtype="float32"), np.zeros((3, 3), "float32")
    for make in (losses.hinge_margin, losses.multiclass_hinge):
        yield from number(make, "min_margin", 0, -1, inf, y_true=one_hot, y_pred=scores)
    for make in (losses.formulas.hkr, losses.formulas.multiclass_hkr):
        yield from number(make, "alpha", -1, y_true=one_hot, y_pred=scores)
    yield from number(losses.alpha_from_torchlip, "alpha", -0.1, 1.5, inf)
    labels = np.array(["cat"])
    yield from not_a(losses.process_labels_for_multi_gpu, "labels", labels, None, "x")
    yield from refused(losses.process_labels_for_multi_gpu, "labels", 3)


def of_metrics():
    accuracies = metrics.CategoricalProvableRobustAccuracy, metrics.BinaryProvableRobustAccuracy
    radii = metrics.CategoricalProvableAvgRobustness, metrics.BinaryProvableAvgRobustness
    for make in accuracies:
        yield from number(make, "epsilon", -0.1, inf)
    for make in (*accuracies, *radii):
        yield from number(make, "lip_const", 0, -1, inf)
    for make in radii:
        yield from flag(make, "negative_robustness")
    for make in (accuracies[0], radii[0]):
        yield from flag(make, "disjoint_neurons")
    for make in (metrics.KR, metrics.MulticlassKR):
        yield from integer(make, "num_classes", 0, -1, types=("x", 1.5, nan))
    for make in (metrics.Certificate_Multiclass, metrics.Certificate_Binary):
        yield from not_a(make, "model", "x", 3, layers.SpectralDense(3), words="`model`")
        yield from not_a(make, "name", 1.0)
    yield from number(metrics.CertifiedRobustAccuracy, "radius", -0.1, inf)


def of_callbacks():
    yield from flag(callbacks.CondenseCallback, "on_epoch")
    yield from flag(callbacks.CondenseCallback, "on_batch")
    schedule = dict(param_name="alpha", fp=[1.0, 2.0], xp=[0, 1])
    yield from not_a(callbacks.LossParamScheduler, "param_name", None, 3, fp=[1], xp=[0])
    yield from not_a(callbacks.LossParamLog, "param_name", None, 3)
    for name in ("fp", "xp"):
        others = {key: value for key, value in schedule.items() if key != name}
        make = callbacks.LossParamScheduler
        yield from not_a(make, name, "x", None, 3, ["a", "b"], **others)
        yield from refused(make, name, [], [1], [nan, 1], [0, inf], **others)
    yield from refused(make, "xp", [1, 1], [1, 0], words="increasing", param_name="a", fp=[1, 2])
    yield from integer(make, "step", -1, types=("x", 1.5, nan, True), **schedule)
    yield from refused(make, "interpolation", "cubic", None, 3, **schedule)
    zero = dict(param_name="a", xp=[0, 1], interpolation="geometric")
    yield from refused(make, "fp", [0, 1], [1, -1], words="positive", **zero)
    yield from integer(callbacks.LossParamLog, "rate", 0, -1, param_name="alpha")
    monitor = dict(monitored_layers=["dense"], logdir="logs")
    make = callbacks.MonitorCallback
    yield from not_a(make, "monitored_layers", "dense", None, 3, [3], [], logdir="logs")
    yield from not_a(make, "logdir", None, 3, monitored_layers=["dense"])
    yield from refused(make, "target", "bias", None, **monitor)
    yield from refused(make, "what", "min", None, **monitor)
    yield from flag(make, "on_batch", **monitor)


def of_regularizers_and_the_like():
    for make in (regularizers.Lorth2D, regularizers.LorthRegularizer):
        yield from not_a(make, "kernel_shape", "x", 3, (3, 3, 1.5, 2))
        yield from refused(make, "kernel_shape", (3, 3), (3, 3, 2), words="OrthDense")
        yield from refused(make, "kernel_shape", (4, 4, 2, 3), words="odd kernels")
        yield from refused(make, "kernel_shape", (3, 3, 1, 12), stride=4, words="Impossible RO")
        yield from refused(make, "kernel_shape", (3, 3, 1, 30), stride=5, words="Impossible CO")
        yield from integer(make, "stride", 0, -1)
        yield from flag(make, "conv_transpose")
    yield from refused(regularizers.LorthRegularizer, "dim", 1, 3, "x", None, words="only 2D")
    yield from number(regularizers.LorthRegularizer, "lambda_lorth", -1, inf)
    yield from number(regularizers.OrthDenseRegularizer, "lambda_orth", -1, inf)
    initializer = initializers.SpectralInitializer
    yield from refused(initializer, "base_initializer", "nope", None, words="initializer")
    yield from flag(initializer, "depthwise")
    for make in (initializer, constraints.SpectralConstraint):
        yield from number(make, "k_coef_lip", 0, -1, inf)
        yield from refused(make, "eps_spectral", 0, -1, nan)
        yield from refused(make, "eps_bjorck", 0, -1, nan)
        yield from refused(make, "beta_bjorck", 0, 0.6, nan)
    centered = initializers.CenteredInitializer
    yield from refused(centered, "base_initializer", "nope", None, words="initializer")
    for drawn in (initializer(), centered()):
        for shape in ((3,), (3, 0), 3, None):
            yield Row(drawn.__call__, "shape", shape, ValueError, "`shape`", {})
        yield Row(drawn.__call__, "dtype", "int32", ValueError, "`dtype`", dict(shape=(3, 3)))
    yield from number(constraints.WeightClipConstraint, "c", 0, -1, inf)
    yield from number(constraints.FrobeniusConstraint, "eps", -1, inf)
    yield from number(constraints.AutoWeightClipConstraint, "scale", 0, -1, inf)


def of_models_and_tools():
    dense = layers.SpectralDense(3)
    yield from number(lip.Sequential, "k_coef_lip", 0, -1, inf)
    yield from not_a(lip.Sequential, "layers", 3, dense)
    yield from refused(lip.Sequential, "layers", [3], words="keras.Layer")
    for make, others in (
        (lip.LossVariableSequential, {}),
        (lip.LossVariableModel, dict(zip(("inputs", "outputs"), graph(), strict=True))),
    ):
        yield from flag(make, "optim_margin", **others)
    ends = dict(zip(("inputs", "outputs"), graph(), strict=True))
    for make in (lip.Model, lip.LossVariableModel):
        yield from not_a(make, "k_coef_lip", 2.0, words="has no argument `k_coef_lip`", **ends)
    yield from not_a(lip.vanillaModel, "model", "x", None, dense, words="`model`")
    estimate = partial(utils.evaluate_lip_const, network())
    x = np.ones((2, 4))
    for name in ("eps", "epsilon_noise"):
        yield from number(estimate, name, 0, -1, inf, x=x)
    yield from number(estimate, "step_size", -1, inf, x=x)
    yield from number(estimate, "expected_value", -1, types=("x",), x=x)
    yield from integer(estimate, "seed", -1, types=("x", 1.5), x=x)
    for name in ("num_noisy_samples", "num_iterations"):
        yield from integer(estimate, name, 0, -1, x=x)
    yield from flag(estimate, "disjoint_neurons", x=x)
    yield from flag(estimate, "double_attack", x=x)
    yield from refused(estimate, "evaluation_type", "noise", [], ["x"], None, 3, x=x)
    yield from refused(estimate, "input_shape", None, "x", 4, (4,), (0, 4))
    few = np.ones((0, 4)), np.ones((2, 3)), np.ones((2, 4, 1)), np.ones(4), x * nan
    yield from refused(estimate, "x", *few, np.array(["a"]))
    yield from not_a(utils.evaluate_lip_const, "model", "x", None, dense, x=x, words="`model`")
    first = partial(utils.evaluate_lip_const_gen, network())
    yield from not_a(first, "generator", 3, words="`generator`")
    yield from refused(first, "generator", [], [()], [None], words="`generator`")
    sv = lip.compute_layer_sv
    yield from not_a(sv.compute_layer_sv, "layer", "x", None, network(), words="`layer`")
    yield from not_a(sv.compute_model_sv, "model", "x", None, dense, words="`model`")
    rules = ("x", {"SpectralDense": len}, {layers.SpectralDense: 3})
    yield from not_a(sv.compute_layer_sv, "supplementary_type2sv", *rules, layer=dense)


SAMPLES = np.full((2, 4), 0.5)


def of_falsify():
    falsify, domain = partial(verify.falsify, network()), verify.ball(SAMPLES, 0.1)
    right = dict(x=SAMPLES, labels=[0, 1], domain=domain)

    def but(name):
        return {key: value for key, value in right.items() if key != name}

    labels = ([0, 3], [0, -1], [0, 0.5], [0, nan], [0], "ab", None, np.ones((2, 2)))
    yield from refused(falsify, "labels", *labels, **but("labels"))
    yield from refused(falsify, "x", "x", np.ones((2, 5)), np.ones((0, 4)), **but("x"))
    yield from refused(falsify, "x", SAMPLES[:1], words="`domain`", **but("x"))
    yield from not_a(falsify, "domain", "x", None, 0.1, SAMPLES, **but("domain"))
    wide = verify.ball(np.full((2, 5), 0.5), 0.1)
    yield from refused(falsify, "domain", wide, domain[:1], **but("domain"))
    for name in ("seed", "steps", "restarts"):
        yield from integer(falsify, name, -1, types=("x", 1.5), **right)
    yield from refused(falsify, "time_limit", "x", 0, -1, **right)


def of_other_questions():
    model, ends = network(), keras.Input((4,))
    two_outputs = keras.Model(ends, [keras.layers.Dense(3)(ends), ends])
    image = keras.Sequential([keras.Input((4,)), keras.layers.Reshape((2, 2))])
    domain = verify.ball(SAMPLES, 0.1)
    written = dict(path="x.vnnlib", x=SAMPLES[0], eps=0.1)
    for make, others in (
        (verify.falsify, dict(x=SAMPLES, labels=[0, 1], domain=domain)),
        (verify.to_vnnlib, dict(label=0, **written)),
    ):
        yield from not_a(make, "model", "x", None, layers.SpectralDense(3), **others)
        yield from refused(make, "model", two_outputs, words="2 outputs", **others)
        yield from refused(make, "model", image, words="a classifier", **others)
        yield from refused(make, "model", lip.Sequential(), words="Give it an `Input`", **others)
    for make in (verify.prove, verify.bounds):
        yield from not_a(make, "domain", "x", None, 0.1, SAMPLES, model=model)
    yield from not_a(verify.decide, "property", "x", None, domain, model=model)
    asked = dict(model=model, property=Property(4, 3, ()))
    yield from refused(verify.decide, "time_limit", "x", 0, -1, **asked)
    yield from integer(verify.decide, "seed", -1, types=("x", 1.5), **asked)
    labels = ("x", None, 3, -1, 0.5, nan, True, [0])
    yield from refused(verify.to_vnnlib, "label", *labels, model=model, **written)
    ranges = (3, (0.0,), ("a", "b"), (np.zeros(3), 1.0), (1.0, 0.0), (0.0, 0.4))
    yield from refused(verify.ball, "clip", *ranges, x=SAMPLES, eps=0.1)
    yield from not_a(figures.curve_figure, "curves", "x", None)


def graph():
    inputs = keras.Input((4,))
    return inputs, layers.SpectralDense(3)(inputs)


def network():
    return lip.Model(*graph())


ARGUMENTS = [
    *of_dense_layers(),
    *of_convolutions(),
    *of_layers_without_a_kernel(),
    *of_losses(),
    *of_metrics(),
    *of_callbacks(),
    *of_regularizers_and_the_like(),
    *of_models_and_tools(),
    *of_falsify(),
    *of_other_questions(),
]


@pytest.mark.parametrize("row", ARGUMENTS, ids=str)
def test_a_wrong_argument_is_named(row):
    with pytest.raises(row.error, match=re.escape(row.words)) as caught:
        row.make(**row.others, **{row.name: row.value})
    came = [row.value, *row.value] if isinstance(row.value, tuple) else [row.value]
    if isinstance(row.value, str | float | int | tuple | None):
        told = [*map(str, came), f" {type(row.value).__name__}", "shape"]
        assert any(one in str(caught.value) for one in told)
