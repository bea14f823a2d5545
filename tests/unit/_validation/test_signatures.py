"""What `help` and notebooks show of a class of layers is what its constructor takes."""

import inspect

import keras
import pytest
import tensorflow as tf

from deel_lip_tf import constraints, initializers, layers, losses, regularizers
from tests._tables.cases import LAYERS, Case

KINDS = [getattr(layers, name) for name in layers.__all__]
KINDS = {kind for kind in KINDS if issubclass(kind, keras.layers.Layer)}
CASES = {case.cls: case for case in reversed(LAYERS)}
CASES |= {layers.PadConv2D: Case(layers.PadConv2D, dict(filters=2, kernel_size=3))}
CASES |= {layers.LipResidual: Case(layers.LipResidual)}


def shown(kind):
    return inspect.signature(kind).parameters


def by_name(kind):
    return sorted(kind, key=lambda one: one.__name__)


def test_every_public_layer_has_a_row():
    assert set(CASES) >= KINDS


@pytest.mark.parametrize("kind", by_name(KINDS), ids=lambda kind: kind.__name__)
def test_nothing_is_left_to_stars(kind):
    assert {"name", "dtype", "trainable"} <= set(shown(kind))
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    assert [one for one in shown(kind).values() if one.kind in stars] == []


@pytest.mark.parametrize("kind", by_name(KINDS), ids=lambda kind: kind.__name__)
def test_every_argument_is_one_with_this_default(kind):
    """Given by name, each makes the layer that is made without it."""
    arguments = {"name": "one", **{k: v for k, v in CASES[kind].kwargs.items() if k in NEEDED}}
    usual = kind(**arguments).get_config()
    for name, one in shown(kind).items():
        if name not in arguments:
            made = kind(**arguments, **{name: one.default}).get_config()
            assert (name, made) == (name, usual)


@pytest.mark.parametrize("kind", by_name(KINDS), ids=lambda kind: kind.__name__)
def test_every_argument_of_the_layer_is_shown(kind):
    """What a layer writes down is what it can be made of, except what it has no bound for."""
    unbounded = {"lora_rank", "lora_alpha", "quantization_config", "groups", "dilation_rate"}
    config = kind(**CASES[kind].kwargs).get_config()
    assert set(config) - set(shown(kind)) <= unbounded


NEEDED = ("units", "filters", "kernel_size", "pool_size", "n")


def test_positions_and_defaults_of_a_convolution():
    assert str(inspect.signature(layers.SpectralConv2D)) == (
        "(filters: int, kernel_size, strides=1, padding: str = 'same', data_format=None, "
        "dilation_rate=(1, 1), groups=1, activation=None, use_bias=True, "
        "kernel_initializer=SpectralInitializer(), bias_initializer='zeros', "
        "kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None, "
        "kernel_constraint=None, bias_constraint=None, *, k_coef_lip: float = 1.0, "
        "parametrization=None, eps_spectral=0.001, eps_bjorck=0.001, beta_bjorck=0.5, "
        "maxiter_spectral=10, maxiter_bjorck=15, gain='counted', trainable=True, dtype=None, "
        "autocast=True, name=None)"
    )


def test_a_subclass_shows_its_own_arguments_too():
    class Doubled(layers.SpectralDense):
        def __init__(self, units, *, factor=2.0, **kwargs):
            super().__init__(units, **kwargs)
            self.factor = factor

    names = list(shown(Doubled))
    assert names[:2] == ["units", "factor"]
    assert {"activation", "k_coef_lip", "eps_bjorck", "name"} <= set(names)


def test_a_layer_itself_is_called_as_a_layer():
    called = inspect.signature(layers.SpectralDense(2))
    assert "units" not in called.parameters
    assert not hasattr(layers.SpectralDense(2), "__signature__")


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (initializers.SpectralInitializer(), "SpectralInitializer()"),
        (
            initializers.SpectralInitializer(k_coef_lip=2.0, depthwise=True),
            "SpectralInitializer(k_coef_lip=2.0, depthwise=True)",
        ),
        (initializers.CenteredInitializer(), "CenteredInitializer()"),
        (initializers.IBPInitializer(seed=3), "IBPInitializer(seed=3)"),
        (initializers.ResidualInitializer(seed=3), "ResidualInitializer(seed=3)"),
        (constraints.WeightClipConstraint(c=1.0), "WeightClipConstraint(c=1.0)"),
        (constraints.SpectralConstraint(), "SpectralConstraint()"),
        (regularizers.LorthRegularizer(stride=2), "LorthRegularizer(stride=2)"),
        (losses.HKR(alpha=10), "HKR(alpha=10.0, min_margin=1.0)"),
        (losses.KR(name="kr", reduction="sum"), "KR(name='kr', reduction='sum')"),
        (losses.TauCategoricalCrossentropy(0.1), "TauCategoricalCrossentropy(tau=0.1)"),
        (
            losses.MulticlassHKR(multi_gpu=True, dtype="float64"),
            "MulticlassHKR(dtype='float64', multi_gpu=True, alpha=10.0, min_margin=1.0, "
            "soft_hinge_tau=0.0)",
        ),
    ],
    ids=str,
)
def test_what_has_parameters_prints_as_it_is_made(made, text):
    assert repr(made) == text


def test_a_loss_prints_its_parameters_as_they_are_now_and_while_it_is_traced():
    loss = losses.HKR(alpha=10.0)
    loss.alpha = 0.5
    assert repr(loss) == "HKR(alpha=0.5, min_margin=1.0)"
    texts = []

    @tf.function
    def traced():
        texts.append(repr(loss))

    traced()
    assert len(texts) == 1 and "HKR" in texts[0]
