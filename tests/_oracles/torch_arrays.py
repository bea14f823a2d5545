"""Tensors of PyTorch that tests read as arrays, as they read those of TensorFlow and JAX.

`torch` refuses where a tensor requires a gradient, and knows less of NumPy 2 than NumPy asks. What
the library itself reads goes on being refused: users have no such help.
"""

import sys

import torch

_as_array = torch.Tensor.__array__


def _array(self, dtype=None, copy=None):
    caller = sys._getframe(1).f_globals["__name__"]
    if not caller.startswith("deel_lip_tf"):
        self = self.detach().float() if self.dtype == torch.bfloat16 else self.detach()
    array = _as_array(self)
    return array if dtype is None else array.astype(dtype)


torch.Tensor.__array__ = _array
torch.Tensor.__array_wrap__ = lambda self, array, context=None, return_scalar=False: array
