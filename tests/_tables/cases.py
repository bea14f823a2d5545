"""The tables: one row for each layer, and every test of the family runs over it."""

from dataclasses import dataclass, field

import keras

from deel_lip_tf import layers
from deel_lip_tf.normalizers import AOC, AOL, BRO, Cayley, LipNeXt, OperatorNorm


@dataclass(frozen=True)
class Case:
    """A layer class, its arguments, and the shape of one input."""

    cls: type
    kwargs: dict = field(default_factory=dict)
    shape: tuple = (8,)

    def make(self, **more):
        return self.cls(**{**self.kwargs, **more})

    @property
    def linear_shape(self):
        """Shape of what one matrix acts on: a dense layer acts on the last axis alone."""
        return self.shape[-1:] if issubclass(self.cls, keras.layers.Dense) else self.shape

    def __str__(self):
        arguments = ",".join(f"{k}={v}" for k, v in self.kwargs.items())
        return f"{self.cls.__name__}({arguments}){'x'.join(map(str, self.shape))}"


IMAGE = (6, 5, 3)
VOLUME = (3, 4, 3, 2)
SEQUENCE = (9, 3)
PADDINGS = ("same", "valid", "circular", "symmetric", "reflect", "replicate")

DENSE = [
    Case(layers.SpectralDense, dict(units=4)),
    Case(layers.SpectralDense, dict(units=12)),
    Case(layers.SpectralDense, dict(units=4, eps_bjorck=None)),
    Case(layers.SpectralDense, dict(units=4, use_bias=False), (3, 8)),
    Case(layers.SpectralDense, dict(units=4, beta_bjorck=0.3, maxiter_bjorck=40)),
    Case(layers.FrobeniusDense, dict(units=4)),
    Case(layers.FrobeniusDense, dict(units=4, disjoint_neurons=False)),
    Case(layers.AOLDense, dict(units=4)),
    Case(layers.AOLDense, dict(units=12)),
    *[
        Case(layers.SpectralDense, dict(units=units, parametrization=method))
        for units in (4, 12)
        for method in (BRO(), Cayley())
    ],
    Case(layers.LiResDense, dict(units=8, depth=4)),
    Case(layers.SpectralDense, dict(units=4, parametrization=OperatorNorm())),
    Case(layers.SpectralDense, dict(units=4, parametrization=OperatorNorm(True, True, 0.4))),
]
CONVOLUTIONS = [
    *[Case(layers.AOLConv2D, dict(filters=4, kernel_size=3, padding=p), IMAGE) for p in PADDINGS],
    Case(layers.AOLConv2D, dict(filters=40, kernel_size=(2, 3), strides=2), IMAGE),
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
    *[
        Case(layers.LiResConv2D, dict(filters=3, kernel_size=3, depth=2, padding=p), IMAGE)
        for p in PADDINGS
    ],
    Case(layers.LiResConv2D, dict(filters=3, kernel_size=(1, 5), learns_gamma=False), IMAGE),
    Case(layers.SpectralConv2D, dict(filters=4, kernel_size=3, gain="measured"), IMAGE),
    Case(
        layers.SpectralConv2D,
        dict(filters=4, kernel_size=(2, 5), strides=(2, 1), padding="reflect", gain="measured"),
        IMAGE,
    ),
    Case(
        layers.SpectralConv2D,
        dict(filters=9, kernel_size=4, strides=3, padding="circular", gain="measured"),
        IMAGE,
    ),
    Case(
        layers.SpectralConv2D, dict(filters=4, kernel_size=3, parametrization=OperatorNorm()), IMAGE
    ),
    Case(layers.FrobeniusConv2D, dict(filters=4, kernel_size=3), IMAGE),
    Case(
        layers.FrobeniusConv2D, dict(filters=4, kernel_size=3, strides=2, padding="reflect"), IMAGE
    ),
]
SEQUENCES = [
    Case(
        layers.SpectralConv1D,
        dict(filters=4, kernel_size=3, padding="causal", strides=2, parametrization="at_most"),
        SEQUENCE,
    ),
    *[
        Case(layers.SpectralConv1D, dict(filters=4, kernel_size=3, padding=p), SEQUENCE)
        for p in (*PADDINGS, "causal")
    ],
    Case(
        layers.SpectralConv1D, dict(filters=9, kernel_size=5, strides=2, padding="causal"), (7, 2)
    ),
    Case(layers.SpectralConv1D, dict(filters=4, kernel_size=4, strides=3), SEQUENCE),
    Case(
        layers.SpectralConv1D,
        dict(filters=4, kernel_size=3, padding="causal", parametrization=AOL()),
        SEQUENCE,
    ),
]
DEPTHWISE = [
    *[
        Case(layers.SpectralDepthwiseConv2D, dict(kernel_size=3, padding=p), IMAGE)
        for p in PADDINGS
    ],
    Case(layers.SpectralDepthwiseConv2D, dict(kernel_size=3, depth_multiplier=9), IMAGE),
    Case(
        layers.SpectralDepthwiseConv2D,
        dict(kernel_size=(2, 3), strides=2, depth_multiplier=2, padding="circular"),
        IMAGE,
    ),
    Case(
        layers.SpectralDepthwiseConv2D,
        dict(kernel_size=3, depth_multiplier=2, eps_bjorck=None),
        IMAGE,
    ),
    Case(
        layers.SpectralDepthwiseConv2D,
        dict(kernel_size=3, depth_multiplier=2, gain="measured"),
        IMAGE,
    ),
    Case(
        layers.SpectralDepthwiseConv2D,
        dict(kernel_size=3, depth_multiplier=2, parametrization=AOL()),
        IMAGE,
    ),
]
TRANSPOSED = [
    *[
        Case(
            layers.SpectralConv2DTranspose,
            dict(filters=2, kernel_size=k, strides=s, padding=p),
            (4, 3, 5),
        )
        for p in PADDINGS[2:]
        for k, s in ((3, 1), (5, 2), ((2, 3), (3, 2)))
    ],
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
    Case(
        layers.SpectralConv2DTranspose,
        dict(filters=2, kernel_size=5, strides=2, padding="valid", gain="measured"),
        IMAGE,
    ),
    Case(
        layers.SpectralConv2DTranspose,
        dict(filters=2, kernel_size=3, strides=2, parametrization=AOL()),
        IMAGE,
    ),
]
# Several raw weights each.
FACTORED = [
    *[Case(layers.AOCConv2D, dict(filters=4, kernel_size=3, padding=p), IMAGE) for p in PADDINGS],
    Case(layers.AOCConv2D, dict(filters=30, kernel_size=(3, 4), strides=2), IMAGE),
    Case(layers.AOCConv2D, dict(filters=4, kernel_size=(2, 5), strides=(2, 1)), IMAGE),
    Case(layers.AOCConv2D, dict(filters=6, kernel_size=3, groups=3, dilation_rate=2), IMAGE),
    Case(
        layers.AOCConv2D,
        dict(filters=3, kernel_size=(3, 2), dilation_rate=(1, 2), padding="circular"),
        IMAGE,
    ),
    Case(layers.AOCConv1D, dict(filters=4, kernel_size=3, padding="causal"), SEQUENCE),
    Case(layers.BCOPConv2D, dict(filters=4, kernel_size=(4, 2), strides=(2, 1)), IMAGE),
    Case(layers.AOCConv2DTranspose, dict(filters=2, kernel_size=3, strides=2), IMAGE),
    Case(
        layers.AOCConv2DTranspose,
        dict(filters=4, kernel_size=(3, 2), strides=(1, 2), padding="circular"),
        IMAGE,
    ),
    Case(
        layers.SpectralConv2D,
        dict(filters=4, kernel_size=3, parametrization=AOC(), dilation_rate=2, padding="reflect"),
        IMAGE,
    ),
    Case(layers.LipNeXtBlock, dict(filters=8, activation="linear"), (3, 4, 8)),
    Case(
        layers.LipNeXtBlock,
        dict(filters=3, kernel_size=(5, 1), share=0.25, padding="same", activation="linear"),
        (6, 3, 4),
    ),
    Case(
        layers.SpectralConv1D,
        dict(filters=4, kernel_size=3, parametrization=LipNeXt(0.4), dilation_rate=2),
        SEQUENCE,
    ),
]
VOLUMES = [
    *[
        Case(layers.SpectralConv3D, dict(filters=3, kernel_size=(2, 3, 2), padding=p), VOLUME)
        for p in PADDINGS
    ],
    Case(layers.SpectralConv3D, dict(filters=20, kernel_size=2, strides=(2, 1, 2)), VOLUME),
    Case(layers.SpectralConv3D, dict(filters=2, kernel_size=2, parametrization=AOL()), VOLUME),
    Case(layers.FrobeniusConv3D, dict(filters=3, kernel_size=3, strides=2), VOLUME),
    *[
        Case(
            layers.SpectralConv3DTranspose,
            dict(filters=2, kernel_size=k, strides=s, padding=p),
            (2, 2, 3, 3),
        )
        for k, s, p in ((2, 2, "same"), (3, 2, "valid"), ((2, 3, 1), 1, "reflect"))
    ],
]
CONSTRAINED = DENSE + CONVOLUTIONS + SEQUENCES + DEPTHWISE + TRANSPOSED + FACTORED + VOLUMES

POOLINGS = [
    Case(layers.ScaledAveragePooling2D, dict(pool_size=2), (6, 4, 3)),
    Case(layers.ScaledAveragePooling2D, dict(pool_size=(2, 3), strides=(2, 3)), (6, 7, 2)),
    Case(layers.ScaledL2NormPooling2D, dict(pool_size=2), (6, 4, 3)),
    Case(layers.ScaledL2NormPooling2D, dict(pool_size=(3, 2)), (6, 4, 3)),
    Case(layers.ScaledGlobalAveragePooling2D, {}, (6, 5, 3)),
    Case(layers.ScaledGlobalAveragePooling2D, dict(keepdims=True), (6, 5, 3)),
    Case(layers.ScaledGlobalL2NormPooling2D, {}, (6, 5, 3)),
    Case(layers.ScaledGlobalL2NormPooling2D, dict(keepdims=True), (6, 5, 3)),
    Case(layers.ScaledAdaptiveAveragePooling2D, {}, (6, 5, 3)),
    Case(layers.ScaledAdaptiveL2NormPooling2D, dict(output_size=1), (6, 5, 3)),
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
    Case(layers.Householder, dict(order=2)),
    Case(layers.Householder, dict(order=2, theta_initializer="random_normal"), (4, 3, 6)),
    Case(layers.Abs),
    Case(layers.Abs, dict(fraction=0.5), (4, 3, 6)),
    Case(layers.SoftHuber),
    Case(layers.SoftHuber, dict(delta=2.0), (4, 3)),
    Case(layers.NActivation),
    Case(layers.NActivation, dict(knots_initializer="random_normal"), (4, 3, 6)),
    Case(layers.LipschitzSpline),
    Case(
        layers.LipschitzSpline,
        dict(knots=5, radius=1.5, slopes_initializer="random_normal"),
        (4, 3, 6),
    ),
    Case(layers.PReLUlip),
    Case(layers.PReLUlip, dict(alpha_initializer="random_normal", shared_axes=[1, 2]), (4, 3, 6)),
]
RESAMPLINGS = [
    Case(layers.InvertibleDownSampling, dict(pool_size=2), (6, 4, 3)),
    Case(layers.InvertibleDownSampling, dict(pool_size=(3, 2)), (6, 4, 3)),
    Case(layers.InvertibleUpSampling, dict(pool_size=2), (3, 2, 12)),
    Case(layers.InvertibleUpSampling, dict(pool_size=(3, 2)), (3, 2, 12)),
    Case(layers.SpatialShift2D, dict(share=0.25), (3, 2, 4)),
    Case(layers.SpatialShift2D, dict(shift=2, share=0.2, padding="zero"), (3, 2, 6)),
]
CHANNELS = [
    Case(layers.FirstChannels, dict(n=3)),
    Case(layers.FirstChannels, dict(n=2), IMAGE),
    Case(layers.PadChannels, dict(n=11)),
    Case(layers.PadChannels, dict(n=4), IMAGE),
]
NORMALIZATIONS = [
    Case(layers.LayerCentering, {}, IMAGE),
    Case(layers.LayerCentering, dict(axis=(-1, 1)), IMAGE),
    Case(layers.LayerCentering, dict(axis=-1, use_bias=False)),
    Case(layers.LayerCentering, {}, SEQUENCE),
    Case(layers.BatchCentering, {}, IMAGE),
    Case(layers.BatchCentering, dict(use_bias=False)),
    Case(layers.BatchLipNorm, {}, IMAGE),
    Case(layers.ScaleBias, {}, IMAGE),
    Case(layers.ScaleBias, dict(scalar=-0.5, use_bias=False)),
]
# Their constant is `k_coef_lip` times a factor of their own, see test_normalization.py.
SCALED = [
    Case(layers.BatchLipNorm, dict(normalize=True), IMAGE),
    Case(layers.BatchLipNorm, dict(normalize=True, centering=False, use_bias=False)),
    Case(layers.ScaleBias, dict(scalar=3.0), SEQUENCE),
]
POTENTIALS = [
    *[
        Case(cls, arguments)
        for cls in (layers.SLLDense, layers.CPLDense)
        for arguments in ({}, dict(hidden=3), dict(hidden=20, use_bias=False))
    ],
    *[
        Case(cls, dict(kernel_size=3, **arguments), IMAGE)
        for cls in (layers.SLLConv2D, layers.CPLConv2D)
        for arguments in ({}, dict(hidden=7), dict(hidden=5, padding="circular"))
    ],
]
RECURRENT = [
    Case(layers.SpectralSimpleRNN, dict(units=4), SEQUENCE),
    Case(
        layers.SpectralSimpleRNN,
        dict(units=6, activation=None, return_sequences=True, go_backwards=True, unroll=True),
        (5, 3),
    ),
    Case(
        layers.AOCConvRNN2D,
        dict(filters=2, kernel_size=3, padding="circular", return_sequences=True, unroll=True),
        (3, 4, 4, 2),
    ),
]
UNCONSTRAINED = POOLINGS + ACTIVATIONS + RESAMPLINGS + CHANNELS + NORMALIZATIONS + POTENTIALS
LAYERS = CONSTRAINED + UNCONSTRAINED + SCALED + RECURRENT
