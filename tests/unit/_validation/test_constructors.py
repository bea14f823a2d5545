"""Arguments as deel-torchlip names them: the error names the class that was called, and Keras's."""

import keras
import pytest

from deel_lip_tf import layers

L = layers
ROWS = [
    (L.SpectralDense, (), dict(in_features=3, out_features=4), "`out_features` is `units`"),
    (L.SpectralDense, (3, 4), {}, "`activation` of SpectralDense.*activation=4"),
    (L.SpectralDense, (3, 4), dict(bias=False), "`bias` is `use_bias`"),
    (L.FrobeniusDense, (64, 10), dict(disjoint_neurons=True), "`activation` of FrobeniusDense"),
    (L.SpectralConv1D, (), dict(in_channels=3, out_channels=4, kernel_size=3), "leave `in_ch"),
    (L.SpectralConv2D, (4, 3), dict(stride=2), "`stride` is `strides`"),
    (L.SpectralConv2D, (4, 3), dict(padding_mode="circular"), '`padding`, e.g. padding="circular"'),
    (L.SpectralConv2D, (4, 3), dict(dilation=1), "leave `dilation` out"),
    (L.FrobeniusConv2D, (), dict(out_channels=3, kernel_size=3), "`out_channels` is `filters`"),
    (L.SpectralConv2DTranspose, (), dict(in_channels=3, out_channels=4), "`filters`"),
    (L.PadConv2D, (4, 3), dict(padding_mode="symmetric"), "`padding`"),
    (L.ScaledAveragePooling2D, (), dict(kernel_size=2, ceil_mode=True), "`pool_size`"),
    (L.ScaledL2NormPooling2D, (), dict(kernel_size=2), "`pool_size`"),
    (L.InvertibleDownSampling, (), dict(kernel_size=2), "`pool_size`"),
    (L.InvertibleUpSampling, (), dict(kernel_size=2), "`pool_size`"),
    (L.GroupSort, (), dict(group_size=2), "`group_size` is `n`"),
    (L.MaxMin, (), dict(dim=1), "`data_format`"),
    (L.PReLUlip, (), dict(num_parameters=3, init=0.2), "`init` is `alpha_initializer`"),
    (L.Householder, (), dict(channels=4), "leave `channels` out"),
    (L.LayerCentering, (), dict(num_features=3, dim=(-2, -1)), "`dim` is `axis`"),
    (L.BatchCentering, (), dict(num_features=3), "leave `num_features` out"),
    (L.BatchLipNorm, (), dict(num_features=3), "leave `num_features` out"),
    # what Python itself would say of a base class that nobody has heard of
    (L.SpectralDense, (), {}, "missing a required argument: 'units'"),
    (L.SpectralConv2D, (4,), {}, "missing a required argument: 'kernel_size'"),
    (L.SpectralConv2DTranspose, (4,), {}, "missing a required argument: 'kernel_size'"),
    (L.SpectralDepthwiseConv2D, (), {}, "missing a required argument: 'kernel_size'"),
    (L.PadConv2D, (4,), {}, "missing a required argument: 'kernel_size'"),
    (L.InvertibleUpSampling, (), {}, "missing a required argument: 'pool_size'"),
]


@pytest.mark.parametrize(("cls", "values", "keywords", "words"), ROWS)
def test_the_error_names_the_class_and_what_to_write(cls, values, keywords, words):
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        cls(*values, **keywords)
    assert cls.__name__ in str(caught.value) and "__init__" not in str(caught.value)
    assert "Received: " in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (L.SpectralDense, (4,)),
        (L.FrobeniusDense, (4,)),
        (L.SpectralConv1D, (4, 3)),
        (L.SpectralConv2D, (4, 3)),
        (L.FrobeniusConv2D, (4, 3)),
        (L.SpectralConv2DTranspose, (4, 3)),
        (L.SpectralDepthwiseConv2D, (3,)),
        (L.PadConv2D, (4, 3)),
    ],
)
def test_a_class_is_no_activation(cls, values):
    with pytest.raises(TypeError, match=rf"`activation` of {cls.__name__}.*GroupSort2\(\)"):
        cls(*values, activation=L.GroupSort2)
    assert isinstance(cls(*values, activation=L.GroupSort2()).activation, L.GroupSort2)


def test_arguments_of_a_class_of_the_user_are_its_own():
    class Mine(L.SpectralDense):
        def __init__(self, units, stride=1, **kwargs):
            super().__init__(units, **kwargs)
            self.stride = stride

    class Mixed(keras.layers.Layer, L.LipschitzLayer):
        def __init__(self, dim=2, **kwargs):
            super().__init__(**kwargs)
            self.dim = dim

    assert Mine(4, stride=2).stride == 2 and Mixed(dim=3).dim == 3
    with pytest.raises(TypeError, match="Mine has no argument `bias`"):
        Mine(4, bias=True)


def test_the_names_of_classes():
    for name in ("SpectralLinear", "SpectralConv2d", "HouseHolder", "ScaledL2NormPool2d"):
        with pytest.raises(AttributeError, match=f"deel-torchlip's {name} is "):
            getattr(layers, name)
    assert all(hasattr(layers, name) for name in layers._OF_TORCHLIP.values())
    assert not hasattr(layers, "SpectralNothing")
