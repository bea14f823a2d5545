"""Data that does not fit, and steps out of order: the error says what came and what would fit.

Shapes for layers, labels and scores for losses and metrics, models for certificates and callbacks.
Never a raw error of TensorFlow or NumPy, and never a silent NaN.
"""

import math
import re
from functools import partial

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import callbacks, layers, losses, metrics, regularizers, utils
from deel_lip_tf.compute_layer_sv import compute_layer_sv, compute_model_sv
from tests._tables.all_losses import ALL_LOSSES, OF_ANY_LABELS, needed_by

CONVOLUTIONS = [
    partial(layers.SpectralConv2D, 3, 3),
    partial(layers.SpectralConv2D, 3, 3, padding="reflect"),
    partial(layers.SpectralConv2D, 3, 3, padding="circular"),
    partial(layers.FrobeniusConv2D, 3, 3),
    partial(layers.SpectralConv2DTranspose, 3, 3),
    partial(layers.SpectralConv2DTranspose, 3, 3, padding="circular"),
    partial(layers.SpectralDepthwiseConv2D, 3),
    partial(layers.PadConv2D, 3, 3),
    partial(layers.PadConv2D, 3, 3, padding="reflect"),
]


def of_shapes():
    """A layer, the shape of a batch it cannot take, and words of the error."""
    for make in CONVOLUTIONS:
        yield from [(make, shape, "ndim=") for shape in ((3,), (2, 5), (2, 5, 5))]
        yield make, (2, 5, 5, 3, 1), "4 axes"
        yield make, (2, 5, 5, 0), "channels"
        yield make, (2, 0, 5, 3), "at least 1 x 1"
    sequence = partial(layers.SpectralConv1D, 3, 3)
    yield from [(sequence, (2, 5), "ndim="), (sequence, (2, 5, 5, 3), "3 axes")]
    yield from [(sequence, (2, 0, 3), "at least 1"), (sequence, (2, 5, 0), "channels")]
    yield partial(layers.SpectralConv2D, 3, 3, padding="valid"), (2, 2, 9, 3), "(2, 2, 9, 3)"
    first = partial(layers.SpectralConv2D, 3, 3, data_format="channels_first")
    yield from [(first, (2, 0, 5, 5), "channels"), (first, (2, 3, 0, 5), "at least 1 x 1")]
    for make in (layers.SpectralDense, layers.FrobeniusDense):
        yield from [(partial(make, 3), shape, "min_ndim=2") for shape in ((), (3,))]
        yield partial(make, 3), (2, 0), "channels"
    for make in (layers.ScaledAveragePooling2D, layers.ScaledL2NormPooling2D):
        yield from [(make, shape, "ndim=4") for shape in ((2, 5), (2, 5, 5), (2, 5, 5, 3, 1))]
        yield from [(make, shape, "at least 2 x 2") for shape in ((2, 1, 9, 3), (2, 0, 0, 3))]
    adaptive = layers.ScaledAdaptiveAveragePooling2D, layers.ScaledAdaptiveL2NormPooling2D
    for make in (
        layers.ScaledGlobalAveragePooling2D,
        layers.ScaledGlobalL2NormPooling2D,
        *adaptive,
    ):
        yield from [(make, (2, 5, 5), "ndim=4"), (make, (2, 0, 5, 3), "at least 1 x 1")]
    yield from of_shapes_of_activations()


def of_shapes_of_activations():
    down, up = partial(layers.InvertibleDownSampling, 2), partial(layers.InvertibleUpSampling, 2)
    yield from [(make, shape, "four axes") for make in (down, up) for shape in ((2, 4), (2, 4, 4))]
    yield from [(down, (2, 5, 4, 1), "rows"), (down, (2, 4, 1, 1), "columns")]
    yield from [(down, (2, 0, 4, 1), "rows"), (up, (2, 4, 4, 6), "number of channels")]
    sorting = (layers.GroupSort2, layers.FullSort, layers.MaxMin, layers.Householder)
    centering = (layers.LayerCentering, layers.BatchCentering, layers.BatchLipNorm)
    bent = (layers.Abs, layers.NActivation, layers.LipschitzSpline)
    for make in (*sorting, *bent, *centering[1:], layers.ScaleBias):
        yield from [(make, shape, "batch axis") for shape in ((), (3,))]
        yield make, (2, 0), "channels"
    yield partial(layers.GroupSort2, data_format="channels_first"), (4,), "batch axis"
    yield partial(layers.GroupSort2, data_format="channels_first"), (2, 3, 4, 4), "divisor"
    yield from [(make, (2, 7), "divisor") for make in (layers.GroupSort2, layers.Householder)]
    yield partial(layers.GroupSort, 5), (2, 8), "divisor"
    yield partial(layers.FirstChannels, 5), (2, 4), "PadChannels(5)"
    yield partial(layers.PadChannels, 3), (2, 4), "FirstChannels(3)"
    for axis in (0, -2, 5, (1, 1), (), (1, -1)):
        yield partial(layers.LayerCentering, axis=axis), (2, 4), "`axis`"
    yield layers.LayerCentering, (2, 4), "axis=-1"
    yield layers.LipResidual, (2, 4), "list of two inputs"
    yield partial(layers.SpectralDense, 4, activation=layers.MaxMin()), (2, 4), "shape"


def id_of(case):
    if isinstance(case, partial):
        return case.func.__name__
    return getattr(case, "__name__", str(case))


@pytest.mark.parametrize(("make", "shape", "words"), [*of_shapes()], ids=id_of)
def test_a_wrong_shape_is_named(make, shape, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()(np.ones(shape, "float32"))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (partial(layers.SpectralDense, 3), (None,)),
        (partial(layers.SpectralConv2D, 3, 3), (5, 5, None)),
        (layers.GroupSort2, (None,)),
        (layers.MaxMin, (5, None)),
        (layers.BatchCentering, (None,)),
    ],
    ids=id_of,
)
def test_an_unknown_number_of_channels_is_named(make, shape):
    with pytest.raises(ValueError, match=r"channel|dimension.*input"):
        make()(keras.Input(shape))


ONE_HOT, SCORES = np.eye(3, dtype="float32")[[0, 1, 2, 0]], np.ones((4, 3), "float32")
NAMES = np.array(["cat", "dog", "cat", "dog"])
BINARY = np.array([0.0, 1, 0, 1])
MULTICLASS = [
    *(losses.MulticlassHinge, losses.MulticlassHKR, losses.MultiMargin, losses.CategoricalHinge),
    *(losses.MulticlassHingeAuto, losses.MulticlassHKRauto, losses.MulticlassSoftHKR),
    *(losses.LseHKR, losses.TauCategoricalCrossentropy, *OF_ANY_LABELS),
]
MARGINS = (metrics.CategoricalProvableRobustAccuracy, metrics.CategoricalProvableAvgRobustness)
SIGNS = (metrics.BinaryProvableRobustAccuracy, metrics.BinaryProvableAvgRobustness)
SPARSE = losses.TauSparseCategoricalCrossentropy


def of_labels():
    """A loss or metric, labels and scores that it cannot take, and words of the error."""
    for make in ALL_LOSSES:
        yield make, NAMES, SCORES, "`y_true` must be an array or a tensor of numbers"
        yield make, None, SCORES, "`y_true` must be"
        yield make, BINARY, None, "`y_pred` must be"
        yield make, ONE_HOT[:, :2], SCORES, "SparseCategorical" if make is not SPARSE else "index"
        yield make, ONE_HOT[:, None], SCORES[:, None], "`y_pred` must have shape"
        yield make, 1.0, 1.0, "`y_pred` must have shape"
    for make in [loss for loss in ALL_LOSSES if loss is not SPARSE]:
        if make not in OF_ANY_LABELS:
            yield make, np.array([0, 1, 2, 0]), SCORES, "to_categorical"
        yield make, ONE_HOT[:1], SCORES, "same shape"
    for make in OF_ANY_LABELS:
        yield make, np.array([0, 1]), SCORES, "same shape"
    for make in (*MULTICLASS, SPARSE):
        yield make, BINARY[:, None], BINARY[:, None], "at least two columns"
    yield SPARSE, ONE_HOT, SCORES, "use `TauCategoricalCrossentropy`"
    yield SPARSE, BINARY, BINARY, "one class index per row"
    for make in (*MARGINS, *SIGNS, metrics.KR, metrics.MulticlassKR):
        yield make, NAMES, SCORES, "`y_true` must be an array or a tensor of numbers"
        yield make, ONE_HOT[:, :2], SCORES, "same shape"
        yield make, ONE_HOT[:, None], SCORES[:, None], "`y_pred` must have shape"
    for make in MARGINS:
        yield from [(make, BINARY, scores, "`Binary`") for scores in (BINARY, BINARY[:, None])]
        yield make, BINARY[:3], SCORES, "same shape"
    yield metrics.MulticlassKR, np.array([0, 1, 2, 0]), SCORES, "to_categorical"
    yield partial(metrics.KR, num_classes=4), ONE_HOT, SCORES, "number of columns"
    yield partial(metrics.Certificate_Multiclass), ONE_HOT, SCORES, "no model to certify"


def made(make):
    is_loss = isinstance(make, type) and issubclass(make, losses.ParametricLoss)
    return make(**needed_by(make)) if is_loss else make()


@pytest.mark.parametrize(("make", "y_true", "y_pred", "words"), [*of_labels()], ids=id_of)
def test_labels_and_scores_that_do_not_fit_are_named(make, y_true, y_pred, words):
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        made(make)(y_true, y_pred)


@pytest.mark.parametrize("make", [*MARGINS, *SIGNS, metrics.KR, metrics.MulticlassKR])
@pytest.mark.parametrize("weights", [np.ones(3), np.ones((4, 3)), "x", np.ones((4, 1, 1))])
def test_sample_weights_that_do_not_fit_are_named(make, weights):
    with pytest.raises((ValueError, TypeError), match="`sample_weight` must"):
        make().update_state(ONE_HOT, SCORES, weights)


UNFIT_FOR_CERTIFICATES = [
    (metrics.Certificate_Multiclass, [layers.SpectralDense(1)], "Certificate_Binary"),
    (metrics.Certificate_Binary, [layers.SpectralDense(3)], "Certificate_Multiclass"),
    (metrics.Certificate_Multiclass, [layers.SpectralDense(3, "softmax")], "logits"),
    (metrics.Certificate_Multiclass, [keras.layers.LayerNormalization()], "No Lipschitz bound"),
]


@pytest.mark.parametrize(("make", "stack", "words"), UNFIT_FOR_CERTIFICATES, ids=id_of)
def test_models_that_have_no_certificate_are_named(make, stack, words):
    with pytest.raises(ValueError, match=words):
        make(keras.Sequential([keras.Input((4,)), *stack]))


def two_ended(inputs, outputs):
    one = [keras.Input((4,)) for _ in range(inputs)]
    joined = keras.layers.Average()(one) if inputs > 1 else one[0]
    return keras.Model(one, [layers.SpectralDense(2)(joined) for _ in range(outputs)])


class FromDeelLip(keras.layers.Layer, layers.LipschitzLayer):
    """Forgets to initialize its factor."""

    def call(self, inputs):
        return inputs * self._get_coef()


class OwnCall(keras.Model):
    def call(self, inputs):
        return inputs


OTHER_MISTAKES = [
    (lambda: layers.SpectralDense(*[3, None, True] + [None] * 8, 2.0), TypeError, "k_coef_lip=1"),
    (
        lambda: layers.SpectralConv2D(3, 3, 1, "same", None, data_format="channels_last"),
        TypeError,
        "`data_format` by position and by keyword",
    ),
    (lambda: FromDeelLip()(np.ones((1, 3))), ValueError, "_init_lip_coef"),
    (lambda: layers.SpectralDense(3).effective_kernel(), ValueError, "build the layer"),
    (lambda: layers.SpectralDense(3).set_klip_factor("x"), TypeError, "k_coef_lip"),
    (lambda: layers.GroupSort2().set_klip_factor(0), ValueError, "k_coef_lip"),
    (lambda: layers.SpectralDense(4).enable_lora(2), ValueError, "vanilla_export"),
    (lambda: two_ended(1, 1).layers[-1].quantize("int8"), ValueError, "No bound or cert"),
    (lambda: layers.LipResidual()([np.ones((2, 3)), np.ones((2, 4))]), ValueError, "same shape"),
    (lambda: lip.Model(), TypeError, r"subclass keras\.Model"),
    (lambda: lip.Model(keras.Input((3,))), TypeError, "`outputs`"),
    (lambda: lip.Sequential().pop(), ValueError, "no layer to remove"),
    (lambda: lip.Sequential([keras.layers.ReLU()], k_coef_lip=2.0), ValueError, "can carry it"),
    (lambda: lip.vanillaModel(OwnCall()), ValueError, "functional API"),
    (
        lambda: compute_layer_sv(lip.Sequential([keras.Input((4,)), layers.SpectralDense(3)])),
        TypeError,
        "compute_model_sv",
    ),
    (lambda: compute_layer_sv(layers.SpectralDense(3)), ValueError, "build"),
    (lambda: compute_model_sv(lip.Sequential([layers.SpectralDense(3)])), ValueError, "build"),
    (lambda: utils.evaluate_lip_const(two_ended(2, 1), np.ones((1, 4))), ValueError, "2 inputs"),
    (lambda: utils.evaluate_lip_const(two_ended(1, 2), np.ones((1, 4))), ValueError, "2 outputs"),
    (lambda: utils.l2_normalize("x"), TypeError, "`tensor`"),
    (lambda: setattr(losses.HKR(1.0), "alpha", -1.0), ValueError, "`alpha`"),
    (lambda: setattr(losses.HKR(1.0), "min_margin", math.nan), ValueError, "`min_margin`"),
    (lambda: losses.MulticlassHKR(1.0, 1.0, 20.0), TypeError, "by keyword"),
    (lambda: setattr(losses.HKRauto(1.0, 1.0, 2.0), "min_margin", 3), ValueError, "max_margin=2"),
    (lambda: setattr(losses.HingeMarginAuto(2.0), "max_margin", 1), ValueError, "min_margin=2"),
    (
        lambda: lip.Sequential([keras.Input((4,)), layers.SpectralDense(3)]).compile(
            "sgd", {"out": losses.MulticlassHKR}
        ),
        ValueError,
        "`loss` must not be a dictionary",
    ),
    (lambda: regularizers.Lorth2D().alphaNormSpectral, ValueError, "set_kernel_shape"),
    (lambda: regularizers.LorthRegularizer()(None), TypeError, "must be a tensor"),
    (lambda: regularizers.LorthRegularizer()(np.ones((3, 3))), ValueError, "OrthDense"),
    (lambda: regularizers.LorthRegularizer()(np.ones((4, 4, 2, 3))), ValueError, "odd kernels"),
    (
        lambda: regularizers.LorthRegularizer((3, 3, 2, 3))(np.ones((3, 3, 2, 4))),
        ValueError,
        "kernel_shape",
    ),
    (lambda: regularizers.OrthDenseRegularizer()(np.ones(3)), ValueError, "two axes"),
    (lambda: regularizers.OrthDenseRegularizer()("x"), TypeError, "must be a tensor"),
    (lambda: regularizers.Lorth(2), TypeError, "abstract"),
]


@pytest.mark.parametrize(("mistake", "error", "words"), OTHER_MISTAKES)
def test_other_mistakes_are_named(mistake, error, words):
    with pytest.raises(error, match=words):
        mistake()


UNFIT_IN_TRAINING = [
    (lambda d: callbacks.LossParamScheduler("beta", [1.0], [0]), "`param_name`.*'beta'"),
    (lambda d: callbacks.LossParamScheduler("multi_gpu", [1.0], [0]), "can be assigned"),
    (lambda d: callbacks.LossParamScheduler("alpha", [1, -1], [0, 9]), "`alpha` must be"),
    (lambda d: callbacks.LossParamLog("tau"), "`param_name`.*'tau'"),
    (lambda d: callbacks.LossParamLog("call"), "`param_name`.*'call'"),
    (lambda d: callbacks.LossParamLog("name"), "`param_name`.*'name'"),
    (lambda d: callbacks.MonitorCallback(["nowhere"], d), "'nowhere'.*'first'"),
    (lambda d: callbacks.MonitorCallback(["sort"], d), "'sort' has no `kernel`"),
    (lambda d: callbacks.MonitorCallback(["plain"], d, "wbar"), "'plain' has no `wbar`"),
    (lambda d: callbacks.MonitorCallback(["first"], d / "file"), "`logdir` must be a folder"),
    (lambda d: callbacks.CondenseCallback(), "a `condense` method"),
]


@pytest.mark.parametrize(("make", "words"), UNFIT_IN_TRAINING)
def test_a_callback_that_does_not_fit_the_model_is_refused_when_training_begins(
    make, words, tmp_path
):
    (tmp_path / "file").touch()
    stack = [layers.SpectralDense(4, name="first"), layers.GroupSort2(name="sort")]
    plain = keras.layers.Dense(3, name="plain")
    model = keras.Sequential([keras.Input((4,)), *stack, plain])
    model.compile("sgd", losses.MulticlassHKR())
    with pytest.raises(ValueError, match=words):
        model.fit(np.ones((4, 4)), ONE_HOT, callbacks=[make(tmp_path)], verbose=0)
