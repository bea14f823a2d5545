"""Layers with a known Lipschitz constant."""

from deel_lip_tf.layers.activations import (
    FullSort,
    GroupSort,
    GroupSort2,
    Householder,
    MaxMin,
    PReLUlip,
)
from deel_lip_tf.layers.base import Condensable, LipschitzLayer
from deel_lip_tf.layers.convolutional import (
    FrobeniusConv2D,
    SpectralConv2D,
    SpectralConv2DTranspose,
)
from deel_lip_tf.layers.dense import FrobeniusDense, SpectralDense
from deel_lip_tf.layers.pooling import (
    ScaledAveragePooling2D,
    ScaledGlobalAveragePooling2D,
    ScaledGlobalL2NormPooling2D,
    ScaledL2NormPooling2D,
)
from deel_lip_tf.layers.resampling import InvertibleDownSampling, InvertibleUpSampling

__all__ = [
    "Condensable",
    "FrobeniusConv2D",
    "FrobeniusDense",
    "FullSort",
    "GroupSort",
    "GroupSort2",
    "Householder",
    "InvertibleDownSampling",
    "InvertibleUpSampling",
    "LipschitzLayer",
    "MaxMin",
    "PReLUlip",
    "ScaledAveragePooling2D",
    "ScaledGlobalAveragePooling2D",
    "ScaledGlobalL2NormPooling2D",
    "ScaledL2NormPooling2D",
    "SpectralConv2D",
    "SpectralConv2DTranspose",
    "SpectralDense",
]
