"""Kernels that are known to be orthogonal: they are, number by number, what a retraction left.

A Gram matrix would say it of any kernel, and take half as long as a retraction. To compare is one
pass over the numbers, and no assignment can go unnoticed.
"""

import contextlib
import contextvars
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from keras import ops

from deel_lip_tf.normalizers.numerics.arithmetic import safe_divide
from deel_lip_tf.normalizers.polar.inverse_root import KNOWN_ERROR
from deel_lip_tf.normalizers.polar.products import norm

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


class KnownInStep(NamedTuple):
    """What a step knows of a kernel as it begins: tensors of the graph of this step.

    Attributes:
        kernel: to be told by the retraction at the end.
        is_known: whether the kernel is known to be a multiple of an orthogonal one.
        multiple: which one it then is: the mean square of its singular values, under the root.
    """

    kernel: KnownKernel
    is_known: Any
    multiple: Any


def known_in_step(known: KnownKernel, kernel) -> KnownInStep:
    """What is known of a kernel (rows, columns), a tensor."""
    return KnownInStep(known, known.is_known(kernel), mean_singular_value(kernel))


def mean_singular_value(matrix):
    """The mean square of the singular values of a matrix, under the root."""
    return norm(matrix)[0, 0] / min(matrix.shape) ** 0.5


@contextlib.contextmanager
def known_kernels(kernels: Mapping[int, KnownInStep]) -> Iterator[None]:
    """Layers and retractions find what is known, by `id(layer)`."""
    token = _KNOWN.set(kernels)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def known_kernel(layer) -> KnownInStep | None:
    """What the step that is traced knows of a layer's kernel, if it asks."""
    return _KNOWN.get().get(id(layer))


def factor_of_known(matrix, multiple=None, gain: float = 1.0):
    """`gain` times the polar factor of a matrix that is known to be a multiple of it.

    All that is missing is the multiple. All singular values may be smaller than the largest one, by
    `KNOWN_ERROR`: the norm of the result is at most `gain`, too.

    Args:
        matrix: (rows, columns).
        multiple: its `mean_singular_value`, computed here by default.
        gain: positive.
    """
    multiple = mean_singular_value(matrix) if multiple is None else multiple
    # Half as much again for rounding, of which a large matrix in float32 leaves 1e-6 to 3e-6.
    return matrix * (gain * safe_divide(1, multiple * (1 + 1.5 * KNOWN_ERROR)))
