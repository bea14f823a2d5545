"""Names, arguments and return values that users of deel-lip bring with them."""

import importlib
import inspect

import keras
import numpy as np
import pytest
from keras import ops

from deel_lip_tf import normalizers
from tests._oracles.oracles import matrix_of, singular_values, spectral_norm
from tests._oracles.tolerances import SOUND, TIGHT

# Where deel-lip (its release, its Keras 3 branch, its feature branches) has them.
NAMES = {
    "": (
        "Model Sequential vanillaModel LossVariableModel LossVariableSequential __version__ "
        "activations callbacks constraints initializers layers losses metrics normalizers "
        "regularizers utils"
    ),
    "activations": "FullSort GroupSort GroupSort2 Householder MaxMin PReLUlip",
    "callbacks": "CondenseCallback LossParamLog LossParamScheduler MonitorCallback",
    "compute_layer_sv": "compute_layer_sv compute_model_sv",
    "constraints": (
        "AutoWeightClipConstraint FrobeniusConstraint SpectralConstraint WeightClipConstraint"
    ),
    "initializers": "SpectralInitializer",
    "layers": (
        "Condensable FrobeniusConv2D FrobeniusDense FullSort GroupSort GroupSort2 Householder "
        "InvertibleDownSampling InvertibleUpSampling LipschitzLayer MaxMin PReLUlip "
        "ScaledAveragePooling2D ScaledGlobalAveragePooling2D ScaledGlobalL2NormPooling2D "
        "ScaledL2NormPooling2D SpectralConv2D SpectralConv2DTranspose SpectralDense "
        "SpectralDepthwiseConv2D"
    ),
    "layers.activations": "FullSort GroupSort GroupSort2 Householder MaxMin PReLUlip",
    "layers.unconstrained": "PadConv2D",
    "losses": (
        "CategoricalHinge Certificate_Binary Certificate_Multiclass HKR HKRauto HingeMargin "
        "HingeMarginAuto KR MultiMargin MulticlassHKR MulticlassHKRauto MulticlassHinge "
        "MulticlassHingeAuto MulticlassKR MulticlassSoftHKR TauBinaryCrossentropy "
        "TauCategoricalCrossentropy TauSparseCategoricalCrossentropy hinge_margin multiclass_hinge"
    ),
    "metrics": (
        "BinaryProvableAvgRobustness BinaryProvableRobustAccuracy "
        "CategoricalProvableAvgRobustness CategoricalProvableRobustAccuracy"
    ),
    "normalizers": (
        "DEFAULT_BETA_BJORCK DEFAULT_EPS_BJORCK DEFAULT_EPS_SPECTRAL DEFAULT_MAXITER_BJORCK "
        "DEFAULT_MAXITER_SPECTRAL STOP_GRAD_SPECTRAL SWAP_MEMORY bjorck_normalization "
        "get_conv_operators reshaped_kernel_orthogonalization set_stop_grad_spectral "
        "set_swap_memory spectral_normalization spectral_normalization_conv"
    ),
    "regularizers": "Lorth2D LorthRegularizer OrthDenseRegularizer",
    "utils": (
        "evaluate_lip_const evaluate_lip_const_gen l2_normalize process_labels_for_multi_gpu"
    ),
}
EXPECTED = [(module, name) for module, names in NAMES.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), EXPECTED, ids=".".join)
def test_every_name_is_where_it_is_expected(module, name):
    found = importlib.import_module(f"deel_lip_tf.{module}".rstrip("."))
    assert hasattr(found, name)


# First the positional arguments, in deel-lip's order, with its defaults.
SIGNATURES = {
    normalizers.reshaped_kernel_orthogonalization: (
        "kernel, u, adjustment_coef, eps_spectral=0.001, eps_bjorck=0.001, beta=0.5, "
        "maxiter_spectral=10, maxiter_bjorck=15"
    ),
    normalizers.spectral_normalization: "kernel, u=None, eps=0.001, maxiter=10",
    normalizers.bjorck_normalization: "w, eps=0.001, beta=0.5, maxiter=15",
    normalizers.get_conv_operators: "kernel, u_shape, stride=1, conv_first=True, pad_func=None",
    normalizers.spectral_normalization_conv: (
        "kernel, u, stride=1, conv_first=True, pad_func=None, eps=0.001, maxiter=10"
    ),
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_signatures(function):
    parameters = inspect.signature(function).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    assert ", ".join(map(str, plain)) == SIGNATURES[function]


# Random, wide, large, small, of rank one, zero, and with singular values far apart.
KERNELS = {
    "dense": lambda rng: rng.standard_normal((7, 5)),
    "wide": lambda rng: rng.standard_normal((4, 9)),
    "conv": lambda rng: rng.standard_normal((3, 3, 2, 5)),
    "large": lambda rng: 1e6 * rng.standard_normal((7, 5)),
    "small": lambda rng: 1e-6 * rng.standard_normal((7, 5)),
    "rank one": lambda rng: np.outer(rng.standard_normal(7), rng.standard_normal(5)),
    "zero": lambda rng: np.zeros((7, 5)),
    "spread": lambda rng: np.diag([1.0, 0.5, 0.1, 0.02, 0.005]),
}


@pytest.fixture(params=KERNELS)
def kernel(request, rng):
    return KERNELS[request.param](rng).astype("float32")


def flat(tensor):
    array = np.asarray(ops.convert_to_numpy(tensor), np.float64)
    return array.reshape(-1, array.shape[-1])


def test_spectral_normalization(kernel):
    normalized, u, sigma = normalizers.spectral_normalization(kernel, None)
    assert normalized.shape == kernel.shape
    assert tuple(u.shape) == (1, kernel.shape[-1])
    assert tuple(sigma.shape) == (1, 1)
    norm, bound = spectral_norm(flat(kernel)), float(sigma[0, 0])
    assert norm <= bound * SOUND
    assert bound <= norm * 1.002
    assert spectral_norm(flat(normalized)) <= SOUND
    np.testing.assert_allclose(flat(normalized) * bound, flat(kernel), rtol=1e-5, atol=1e-30)


def test_reshaped_kernel_orthogonalization(kernel):
    u = np.ones((1, kernel.shape[-1]), "float32")
    wbar, u, sigma = normalizers.reshaped_kernel_orthogonalization(kernel, u, 0.5)
    assert wbar.shape == kernel.shape
    assert tuple(u.shape) == (1, kernel.shape[-1])
    assert spectral_norm(flat(kernel)) <= float(sigma[0, 0]) * SOUND
    values = singular_values(flat(wbar))
    assert values.max() <= 0.5 * SOUND
    before = singular_values(flat(kernel))
    if before.min() > 1e-4 * before.max():
        np.testing.assert_allclose(values, 0.5, rtol=TIGHT)


def test_without_bjorck_singular_values_stay_apart(rng):
    kernel = rng.standard_normal((7, 5)).astype("float32")
    wbar, _, _ = normalizers.reshaped_kernel_orthogonalization(kernel, None, 1.0, eps_bjorck=None)
    before, after = singular_values(kernel), singular_values(wbar)
    np.testing.assert_allclose(after, before / before.max(), rtol=2e-3)


def test_bjorck_normalization_ends_at_the_polar_factor(rng):
    for matrix in (rng.standard_normal((7, 5)), 100 * rng.standard_normal((4, 6))):
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        found = normalizers.bjorck_normalization(matrix.astype("float32"))
        np.testing.assert_allclose(found, left @ right, atol=2 * TIGHT)


def test_the_vector_converges_to_that_of_the_norm(rng):
    kernel = np.diag([3.0, 1.0, 0.5]) @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    _, u, _ = normalizers.spectral_normalization(kernel.astype("float32"), None, eps=1e-6)
    right = np.linalg.svd(kernel)[2][0]
    np.testing.assert_allclose(np.abs(flat(u)[0] @ right), 1, rtol=1e-5)


def zeros(images):
    return ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))


def wrapped(images):
    images = ops.concatenate([images[:, -1:], images, images[:, :1]], axis=1)
    return ops.concatenate([images[:, :, -1:], images, images[:, :, :1]], axis=2)


def edges(images):
    images = ops.concatenate([images[:, :1], images, images[:, -1:]], axis=1)
    return ops.concatenate([images[:, :, :1], images, images[:, :, -1:]], axis=2)


OPERATORS = [
    (stride, conv_first, pad)
    for stride in (1, 2)
    for conv_first in (True, False)
    for pad in (None, zeros, wrapped, edges)
]


def matrices(stride, conv_first, pad, kernel):
    """Of both operators, by pushing the identity through, image by image."""
    image, output = (6, 4, 2), (6 // stride, 4 // stride, 3)
    shapes = (image, output) if conv_first else (output, image)
    pair = normalizers.get_conv_operators(kernel, (1, *shapes[0]), stride, conv_first, pad)

    def one_by_one(operator):
        return lambda images: np.concatenate([operator(x[None].astype("float32")) for x in images])

    return [
        matrix_of(one_by_one(operator), shape) for operator, shape in zip(pair, shapes, strict=True)
    ]


@pytest.mark.parametrize(("stride", "conv_first", "pad"), OPERATORS)
def test_the_norm_of_a_convolution_is_that_of_its_matrix(stride, conv_first, pad, rng):
    # Positive entries keep the largest singular value apart from the next.
    kernel = rng.random((3, 3, 2, 3)).astype("float32")
    matrix, transposed = matrices(stride, conv_first, pad, kernel)
    np.testing.assert_allclose(matrix, transposed.T, atol=1e-6)
    shape = (1, 6, 4, 2) if conv_first else (1, 6 // stride, 4 // stride, 3)
    u = rng.standard_normal(shape).astype("float32")
    normalized, u, sigma = normalizers.spectral_normalization_conv(
        kernel, u, stride, conv_first, pad, eps=1e-6, maxiter=100
    )
    assert tuple(u.shape) == shape
    np.testing.assert_allclose(sigma, spectral_norm(matrix), rtol=1e-4)
    np.testing.assert_allclose(flat(normalized) * (float(sigma) + 1e-6), flat(kernel), rtol=1e-5)


@pytest.mark.parametrize("conv_first", [True, False])
def test_zero_padding_is_that_of_a_keras_layer(conv_first, rng):
    kernel = rng.standard_normal((3, 2, 2, 3)).astype("float32")
    matrix = matrices(2, conv_first, None, kernel)[0]
    expected = matrix_of(
        lambda x: np.asarray(ops.conv(x.astype("float32"), kernel, strides=2, padding="same")),
        (6, 4, 2),
    )
    np.testing.assert_allclose(matrix, expected if conv_first else expected.T, atol=1e-6)


def test_a_negative_eps_leaves_the_kernel_alone(rng):
    kernel, u = rng.standard_normal((3, 3, 2, 3)), rng.standard_normal((1, 4, 4, 2))
    same = normalizers.spectral_normalization_conv(kernel, u, eps=-1)
    assert same[0] is kernel and same[1] is u and same[2] == 1.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: normalizers.set_stop_grad_spectral("no"), TypeError, "`value`"),
        (lambda: normalizers.set_swap_memory(None), TypeError, "`value`"),
        (lambda: normalizers.spectral_normalization(np.eye(3), None, 0.0), ValueError, "> 0"),
        (lambda: normalizers.bjorck_normalization(np.eye(3), beta=0.7), ValueError, "0.5"),
        (
            lambda: normalizers.reshaped_kernel_orthogonalization(
                np.eye(3), None, 1.0, eps_bjorck=0
            ),
            ValueError,
            "eps_bjorck",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("setter", ["set_stop_grad_spectral", "set_swap_memory"])
def test_switches_without_effect(setter, rng):
    kernel = keras.Variable(rng.standard_normal((4, 3)).astype("float32"))
    before = normalizers.spectral_normalization(kernel, None)
    getattr(normalizers, setter)(False)
    after = normalizers.spectral_normalization(kernel, None)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
