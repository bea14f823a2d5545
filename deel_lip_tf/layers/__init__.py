"""Layers with a known Lipschitz constant."""

from deel_lip_tf._lazy import public_names
from deel_lip_tf.layers.activations import (
    Abs,
    FullSort,
    GroupSort,
    GroupSort2,
    Householder,
    LipschitzSpline,
    MaxMin,
    NActivation,
    PReLUlip,
    SoftHuber,
)
from deel_lip_tf.layers.base import Condensable, LipschitzLayer
from deel_lip_tf.layers.blocks.linear import LiResConv2D, LiResDense
from deel_lip_tf.layers.blocks.lipnext import LipNeXtBlock
from deel_lip_tf.layers.blocks.potential import CPLConv2D, CPLDense, SLLConv2D, SLLDense
from deel_lip_tf.layers.blocks.recurrent import SpectralSimpleRNN
from deel_lip_tf.layers.blocks.recurrent_convolution import AOCConvRNN2D
from deel_lip_tf.layers.centering import LayerCentering, ScaleBias
from deel_lip_tf.layers.channels import FirstChannels, PadChannels
from deel_lip_tf.layers.convolution.direct import (
    AOLConv2D,
    FrobeniusConv2D,
    SpectralConv1D,
    SpectralConv2D,
    SpectralDepthwiseConv2D,
)
from deel_lip_tf.layers.convolution.orthogonal import (
    AOCConv1D,
    AOCConv2D,
    AOCConv2DTranspose,
    BCOPConv2D,
)
from deel_lip_tf.layers.convolution.transposed import SpectralConv2DTranspose
from deel_lip_tf.layers.convolution.unconstrained import PadConv2D
from deel_lip_tf.layers.convolution.volumes import (
    FrobeniusConv3D,
    SpectralConv3D,
    SpectralConv3DTranspose,
)
from deel_lip_tf.layers.dense import AOLDense, FrobeniusDense, SpectralDense
from deel_lip_tf.layers.normalization import BatchCentering, BatchLipNorm
from deel_lip_tf.layers.pooling import (
    ScaledAdaptiveAveragePooling2D,
    ScaledAdaptiveL2NormPooling2D,
    ScaledAveragePooling2D,
    ScaledGlobalAveragePooling2D,
    ScaledGlobalL2NormPooling2D,
    ScaledL2NormPooling2D,
)
from deel_lip_tf.layers.resampling import InvertibleDownSampling, InvertibleUpSampling
from deel_lip_tf.layers.residual import LipResidual
from deel_lip_tf.layers.shift import SpatialShift2D

# PyTorch's names; the order of the channels is the same.
PixelUnshuffle, PixelShuffle = InvertibleDownSampling, InvertibleUpSampling

__all__ = [
    "AOCConv1D",
    "AOCConv2D",
    "AOCConv2DTranspose",
    "AOCConvRNN2D",
    "AOLConv2D",
    "AOLDense",
    "Abs",
    "BCOPConv2D",
    "BatchCentering",
    "BatchLipNorm",
    "CPLConv2D",
    "CPLDense",
    "Condensable",
    "FirstChannels",
    "FrobeniusConv2D",
    "FrobeniusConv3D",
    "FrobeniusDense",
    "FullSort",
    "GroupSort",
    "GroupSort2",
    "Householder",
    "InvertibleDownSampling",
    "InvertibleUpSampling",
    "LayerCentering",
    "LiResConv2D",
    "LiResDense",
    "LipNeXtBlock",
    "LipResidual",
    "LipschitzLayer",
    "LipschitzSpline",
    "MaxMin",
    "NActivation",
    "PReLUlip",
    "PadChannels",
    "PadConv2D",
    "PixelShuffle",
    "PixelUnshuffle",
    "SLLConv2D",
    "SLLDense",
    "ScaleBias",
    "ScaledAdaptiveAveragePooling2D",
    "ScaledAdaptiveL2NormPooling2D",
    "ScaledAveragePooling2D",
    "ScaledGlobalAveragePooling2D",
    "ScaledGlobalL2NormPooling2D",
    "ScaledL2NormPooling2D",
    "SoftHuber",
    "SpatialShift2D",
    "SpectralConv1D",
    "SpectralConv2D",
    "SpectralConv2DTranspose",
    "SpectralConv3D",
    "SpectralConv3DTranspose",
    "SpectralDense",
    "SpectralDepthwiseConv2D",
    "SpectralSimpleRNN",
]

__dir__ = public_names(__name__)

_OF_TORCHLIP = {
    "FrobeniusConv2d": "FrobeniusConv2D",
    "FrobeniusLinear": "FrobeniusDense",
    "HouseHolder": "Householder",
    "LPReLU": "PReLUlip",
    "LayerCentering2d": "LayerCentering",
    "PadConv2d": "PadConv2D",
    "ScaledAdaptativeL2NormPool2d": "ScaledAdaptiveL2NormPooling2D",
    "ScaledAdaptiveAvgPool2d": "ScaledAdaptiveAveragePooling2D",
    "ScaledAvgPool2d": "ScaledAveragePooling2D",
    "ScaledL2NormPool2d": "ScaledL2NormPooling2D",
    "SpectralConv1d": "SpectralConv1D",
    "SpectralConv2d": "SpectralConv2D",
    "SpectralConvTranspose2d": "SpectralConv2DTranspose",
    "SpectralLinear": "SpectralDense",
}


def __getattr__(name: str):
    hint = f": deel-torchlip's {name} is {_OF_TORCHLIP[name]} here" if name in _OF_TORCHLIP else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
