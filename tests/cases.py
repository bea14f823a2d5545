"""The tables: one row for each layer, and every test of the family runs over it."""

from dataclasses import dataclass, field

from deel_lip_tf import layers


@dataclass(frozen=True)
class Case:
    """A layer class, its arguments, and the shape of one input."""

    cls: type
    kwargs: dict = field(default_factory=dict)
    shape: tuple = (8,)

    def make(self, **more):
        return self.cls(**{**self.kwargs, **more})

    def __str__(self):
        arguments = ",".join(f"{k}={v}" for k, v in self.kwargs.items())
        return f"{self.cls.__name__}({arguments}){'x'.join(map(str, self.shape))}"


IMAGE = (6, 5, 3)
PADDINGS = ("same", "valid", "circular", "symmetric", "reflect", "replicate")

DENSE = [
    Case(layers.SpectralDense, dict(units=4)),
    Case(layers.SpectralDense, dict(units=12)),
    Case(layers.SpectralDense, dict(units=4, eps_bjorck=None)),
    Case(layers.SpectralDense, dict(units=4, use_bias=False), (3, 8)),
    Case(layers.SpectralDense, dict(units=4, beta_bjorck=0.3, maxiter_bjorck=40)),
    Case(layers.FrobeniusDense, dict(units=4)),
    Case(layers.FrobeniusDense, dict(units=4, disjoint_neurons=False)),
]
CONVOLUTIONS = [
    *[
        Case(layers.SpectralConv2D, dict(filters=4, kernel_size=3, padding=p), IMAGE)
        for p in PADDINGS
    ],
    Case(layers.SpectralConv2D, dict(filters=30, kernel_size=3), IMAGE),
    Case(layers.SpectralConv2D, dict(filters=4, kernel_size=(2, 5), strides=(2, 1)), IMAGE),
    Case(layers.SpectralConv2D, dict(filters=4, kernel_size=3, eps_bjorck=None), IMAGE),
    Case(
        layers.SpectralConv2D, dict(filters=4, kernel_size=7, strides=3, padding="circular"), IMAGE
    ),
    Case(layers.FrobeniusConv2D, dict(filters=4, kernel_size=3), IMAGE),
    Case(
        layers.FrobeniusConv2D, dict(filters=4, kernel_size=3, strides=2, padding="reflect"), IMAGE
    ),
]
TRANSPOSED = [
    Case(layers.SpectralConv2DTranspose, dict(filters=4, kernel_size=3), IMAGE),
    Case(layers.SpectralConv2DTranspose, dict(filters=2, kernel_size=3, strides=2), IMAGE),
    Case(
        layers.SpectralConv2DTranspose,
        dict(filters=2, kernel_size=5, strides=2, padding="valid"),
        IMAGE,
    ),
    Case(
        layers.SpectralConv2DTranspose, dict(filters=2, kernel_size=(2, 3), strides=(3, 2)), IMAGE
    ),
    Case(
        layers.SpectralConv2DTranspose,
        dict(filters=2, kernel_size=3, strides=2, output_padding=1),
        IMAGE,
    ),
]
CONSTRAINED = DENSE + CONVOLUTIONS + TRANSPOSED

POOLINGS = [
    Case(layers.ScaledAveragePooling2D, dict(pool_size=2), (6, 4, 3)),
    Case(layers.ScaledAveragePooling2D, dict(pool_size=(2, 3), strides=(2, 3)), (6, 7, 2)),
    Case(layers.ScaledL2NormPooling2D, dict(pool_size=2), (6, 4, 3)),
    Case(layers.ScaledL2NormPooling2D, dict(pool_size=(3, 2)), (6, 4, 3)),
    Case(layers.ScaledGlobalAveragePooling2D, {}, (6, 5, 3)),
    Case(layers.ScaledGlobalAveragePooling2D, dict(keepdims=True), (6, 5, 3)),
    Case(layers.ScaledGlobalL2NormPooling2D, {}, (6, 5, 3)),
    Case(layers.ScaledGlobalL2NormPooling2D, dict(keepdims=True), (6, 5, 3)),
]
ACTIVATIONS = [
    Case(layers.GroupSort, dict(n=4)),
    Case(layers.GroupSort, dict(n=3), (4, 4, 6)),
    Case(layers.GroupSort),
    Case(layers.GroupSort2, {}, (4, 3, 6)),
    Case(layers.GroupSort2),
    Case(layers.FullSort),
    Case(layers.MaxMin),
    Case(layers.MaxMin, {}, (4, 3, 6)),
    Case(layers.Householder),
    Case(layers.Householder, dict(theta_initializer="random_normal"), (4, 3, 6)),
    Case(layers.PReLUlip),
    Case(layers.PReLUlip, dict(alpha_initializer="random_normal", shared_axes=[1, 2]), (4, 3, 6)),
]
RESAMPLINGS = [
    Case(layers.InvertibleDownSampling, dict(pool_size=2), (6, 4, 3)),
    Case(layers.InvertibleDownSampling, dict(pool_size=(3, 2)), (6, 4, 3)),
    Case(layers.InvertibleUpSampling, dict(pool_size=2), (3, 2, 12)),
    Case(layers.InvertibleUpSampling, dict(pool_size=(3, 2)), (3, 2, 12)),
]
UNCONSTRAINED = POOLINGS + ACTIVATIONS + RESAMPLINGS
LAYERS = CONSTRAINED + UNCONSTRAINED
