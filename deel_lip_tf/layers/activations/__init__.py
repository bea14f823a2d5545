"""Activations that are 1-Lipschitz, most of them preserving the norm of gradients."""

from deel_lip_tf.layers.activations.elementwise import Abs, PReLUlip, SoftHuber
from deel_lip_tf.layers.activations.householder import Householder
from deel_lip_tf.layers.activations.learned import LipschitzSpline, NActivation
from deel_lip_tf.layers.activations.sorting import FullSort, GroupSort, GroupSort2, MaxMin

__all__ = ["Abs", "FullSort", "GroupSort", "GroupSort2", "Householder", "LipschitzSpline"]
__all__ += ["MaxMin", "NActivation", "PReLUlip", "SoftHuber"]
