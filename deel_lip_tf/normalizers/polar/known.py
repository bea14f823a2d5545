"""Kernels that are known to be orthogonal: they are, number by number, what a retraction left.

A Gram matrix would say it of any kernel, and take half as long as a retraction. To compare is one
pass over the numbers, and no assignment can go unnoticed.
"""

import contextlib
import contextvars
import types
from collections.abc import Iterator, Mapping
from typing import Any

from keras import ops

from deel_lip_tf.normalizers.numerics.arithmetic import safe_divide
from deel_lip_tf.normalizers.polar.inverse_root import KNOWN_ERROR

_NONE: Mapping[int, Any] = types.MappingProxyType({})
_KNOWN: contextvars.ContextVar[Mapping] = contextvars.ContextVar("known", default=_NONE)


class KnownKernel:
    """What the last retraction of a large kernel left, with TensorFlow; it is no weight.

    Args:
        kernel: the raw kernel, a variable.
    """

    def __init__(self, kernel):
        import tensorflow as tf

        self._numbers = tf.Variable(tf.zeros(kernel.shape, kernel.dtype), trainable=False)
        self._is_orthogonal = tf.Variable(False, trainable=False)

    def remember(self, kernel, is_orthogonal) -> None:
        """That a kernel, as it is stored, is orthogonal up to `KNOWN_ERROR`, or not known to be."""
        self._numbers.assign(kernel)
        self._is_orthogonal.assign(is_orthogonal)

    def is_known(self, kernel):
        """Whether these numbers are the ones, and were orthogonal."""
        return ops.logical_and(self._is_orthogonal, ops.all(ops.equal(kernel, self._numbers)))


@contextlib.contextmanager
def known_kernels(kernels: Mapping[int, KnownKernel]) -> Iterator[None]:
    """Retractions tell these, by `id(layer)`, what they leave."""
    token = _KNOWN.set(kernels)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def known_kernel(layer) -> KnownKernel | None:
    """The one that the retraction of a layer's kernel is to tell, if any."""
    return _KNOWN.get().get(id(layer))


def factor_of_known(matrix):
    """The polar factor of a matrix that is known to be a multiple of it, up to `KNOWN_ERROR`.

    All that is missing is the multiple: the mean square of the singular values. All of these may be
    smaller than the largest one, by `KNOWN_ERROR`: the norm of the result is at most 1, too.
    """
    square = ops.sum(ops.square(matrix)) / min(matrix.shape)
    # Half as much again for rounding, of which a large matrix in float32 leaves 1e-6 to 3e-6.
    return matrix * safe_divide(1, ops.sqrt(square * (1 + 3 * KNOWN_ERROR)))
