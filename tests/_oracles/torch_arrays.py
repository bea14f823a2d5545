"""Tensors of PyTorch that tests read as arrays and numbers, as those of TensorFlow and JAX.

`torch` refuses where a tensor requires a gradient, or warns, and knows less of NumPy 2 than NumPy
asks. What the library itself reads goes on being refused: users have no such help.
"""

import sys

import torch

_as_array, _as_float = torch.Tensor.__array__, torch.Tensor.__float__


def _readable(tensor):
    """The tensor itself, where a function of the library called what called this one."""
    if sys._getframe(2).f_globals["__name__"].startswith("deel_lip_tf"):
        return tensor
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _array(self, dtype=None, copy=None):
    array = _as_array(_readable(self))
    return array if dtype is None else array.astype(dtype)


torch.Tensor.__array__ = _array
torch.Tensor.__array_wrap__ = lambda self, array, context=None, return_scalar=False: array
torch.Tensor.__float__ = lambda self: _as_float(_readable(self))
