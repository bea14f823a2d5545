"""Keras's layers by what they do at inference: the lists behind every table.

Each table that says something of a kind of layers takes its types from here, so that a layer that
is added is known everywhere.
"""

from keras import layers

__all__ = [
    "AVERAGE_POOLINGS",
    "CONVOLUTIONS",
    "GLOBAL_AVERAGES",
    "GLOBAL_MAXIMA",
    "IDENTITIES",
    "MAX_POOLINGS",
    "MOVES",
    "TRANSPOSED_CONVOLUTIONS",
    "UP_SAMPLINGS",
]

CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
TRANSPOSED_CONVOLUTIONS = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)

# Noise and dropout do nothing at inference.
IDENTITIES = (
    layers.InputLayer,
    layers.Identity,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
)

# Every entry of the input is in the output once or not at all; the other entries are 0.
MOVES = (
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
)

UP_SAMPLINGS = (layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)

MAX_POOLINGS = (layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)

GLOBAL_MAXIMA = (
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)

AVERAGE_POOLINGS = (
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
)

GLOBAL_AVERAGES = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
