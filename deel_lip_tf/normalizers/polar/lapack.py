"""The orthogonal matrix nearest to a kernel whose numbers are at hand: by LAPACK, without a graph.

For what happens once, as an initial kernel does: to trace and compile the iteration takes seconds,
to compute with its numbers milliseconds.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

# Kernels nearer to orthogonal than this, relatively, take a few steps of Björck, which are cheaper
# than a decomposition: `||R||` goes to 3/4 ||R||**2 + 1/4 ||R||**3 in each, to rounding in six.
_NEAR, _STEPS = 0.5, 6

_is_asked_for = contextvars.ContextVar("is_asked_for", default=False)


@contextlib.contextmanager
def by_lapack() -> Iterator[None]:
    """Where polar factors of numbers at hand are computed by NumPy: no gradient reaches them.

    Those of tensors that are being traced are computed as outside of it.
    """
    token = _is_asked_for.set(True)
    try:
        yield
    finally:
        _is_asked_for.reset(token)


def numbers_at_hand(tensor) -> np.ndarray | None:
    """The numbers of a tensor inside of `by_lapack`.

    Returns:
        `None` outside of it, of a tensor that is being traced, and of one whose numbers are on
        other machines.
    """
    if not _is_asked_for.get() or keras.backend.is_keras_tensor(tensor):
        return None
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        is_here = not tf.is_symbolic_tensor(tensor)
    elif backend == "jax":
        import jax

        is_traced = isinstance(tensor, jax.core.Tracer)
        is_here = not is_traced and getattr(tensor, "is_fully_addressable", True)
    else:
        is_here = getattr(getattr(tensor, "device", None), "type", None) != "meta"
    return ops.convert_to_numpy(tensor) if is_here else None


def exact_factor(matrix: np.ndarray) -> np.ndarray:
    """The polar factor: singular values 1 up to rounding and at most 1; 0 where the rank ends.

    Args:
        matrix: (..., rows, columns), float32 or float64; each matrix by itself.

    Returns:
        An array of the same shape and type, not a number where a matrix is not finite.
    """
    if matrix.shape[-2] < matrix.shape[-1]:
        return np.swapaxes(exact_factor(np.swapaxes(matrix, -1, -2)), -1, -2)
    largest = np.max(np.abs(matrix), axis=(-2, -1), keepdims=True)
    is_finite = np.isfinite(largest)
    is_usable = is_finite & (largest > 0)
    scaled = np.divide(matrix, largest, out=np.zeros_like(matrix), where=is_usable)
    factor, excess = _isometry(scaled)
    slack = 1 - 8 * np.finfo(matrix.dtype).eps
    bounded = factor * (slack / np.sqrt(1 + excess)).astype(matrix.dtype)
    return np.where(is_finite, bounded, matrix.dtype.type(np.nan))


def _isometry(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factor to rounding, of a finite matrix with entries of at most 1.

    Returns:
        `(Q, excess)`: the norm of `Q'Q` is at most `1 + excess`.
    """
    columns = matrix.shape[-1]
    identity = np.eye(columns, dtype=matrix.dtype)
    rounding = 8 * np.finfo(matrix.dtype).eps * np.sqrt(columns)
    for _ in range(_STEPS):
        gram = np.swapaxes(matrix, -1, -2) @ matrix
        center = np.trace(gram, axis1=-2, axis2=-1)[..., None, None] / columns
        radius = np.linalg.norm(gram - center * identity, axis=(-2, -1), keepdims=True)
        if not np.all(radius < _NEAR * center):
            break
        matrix = matrix / np.sqrt(center)
        if np.all(radius <= rounding * center):
            return matrix, radius / center
        matrix = matrix @ (1.5 * identity - 0.5 * gram / center)
    return _decomposed(matrix)


def _decomposed(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    smallest = values[..., :1] * (max(matrix.shape[-2:]) * np.finfo(matrix.dtype).eps)
    factor = (left * (values > smallest)[..., None, :]) @ right
    # With `P = Q'Q`, an eigenvalue p has p**2 - p <= ||P**2 - P||, hence p <= 1 + ||P**2 - P||.
    gram = np.swapaxes(factor, -1, -2) @ factor
    return factor, np.linalg.norm(gram @ gram - gram, axis=(-2, -1), keepdims=True)
