"""Divisions and roots that stay finite, value and gradient, where the textbook formula does not."""

import keras
from keras import ops


def safe_divide(numerator, denominator):
    """`numerator / denominator`, and 0 where the denominator is 0 (value and gradient).

    Args:
        numerator: tensor.
        denominator: tensor of a shape that broadcasts with it.

    Returns:
        A tensor of the shape that both broadcast to.

    Example:
        >>> x, y = np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.0, 0.0])
        >>> print(np.asarray(lip.normalizers.safe_divide(x, y)))
        [0.5 0.  0. ]
    """
    is_zero = ops.equal(denominator, 0)
    quotient = numerator / ops.where(is_zero, ops.ones_like(denominator), denominator)
    return ops.where(is_zero, ops.zeros_like(quotient), quotient)


def safe_sqrt(x):
    """The square root of `x >= 0`, exact, with gradient 0 instead of infinity at 0.

    Args:
        x: tensor without negative entries, of any shape.

    Returns:
        A tensor of the same shape.

    Example:
        >>> print(np.asarray(lip.normalizers.safe_sqrt(np.array([0.0, 4.0, 9.0]))))
        [0. 2. 3.]
    """
    if keras.backend.is_keras_tensor(x):
        return _sqrt_in_plain_operations(x)
    return _sqrt_with_gradient(x)


@ops.custom_gradient
def _sqrt_with_gradient(x):
    def gradient(*arguments, upstream=None):
        # TensorFlow passes the upstream gradient by name, the others by position.
        upstream = arguments[0] if upstream is None else upstream
        # Not the root from below, whose own gradient is infinite at 0: this one is differentiated
        # again where somebody penalizes a gradient.
        return safe_divide(0.5 * upstream, _sqrt_in_plain_operations(x))

    return ops.sqrt(x), gradient


def _sqrt_in_plain_operations(x):
    """The same for a graph that Keras records: a custom gradient cannot be saved with it."""
    # Both branches of a `where` are differentiated: the inner one keeps the root away from 0.
    positive = x > 0
    root = ops.sqrt(ops.where(positive, x, ops.ones_like(x)))
    return ops.where(positive, root, ops.zeros_like(x))


def frobenius_norm(x, axis=None, keepdims=False):
    """`sqrt(sum(x**2))` over `axis`, with gradient 0 at 0.

    Args:
        x: tensor with entries whose squares do not overflow.
        axis: an axis or several; all by default.
        keepdims: whether the axes stay, with size 1; False by default.

    Returns:
        A tensor without the axes, or with size 1 there; a scalar where all are summed over.

    Example:
        >>> x = np.array([[3.0, 1.0], [4.0, 0.0]])
        >>> round(float(lip.normalizers.frobenius_norm(x)), 4)  # sqrt(26)
        5.099
        >>> print(np.asarray(lip.normalizers.frobenius_norm(x, axis=0)))
        [5. 1.]
    """
    return safe_sqrt(ops.sum(ops.square(x), axis=axis, keepdims=keepdims))


def unit_scale(x, axis=None):
    """`x` divided by its largest absolute entry, so that squares neither overflow nor underflow."""
    # A positive factor: whatever follows divides by a norm, so it needs no gradient.
    return safe_divide(x, ops.stop_gradient(ops.max(ops.abs(x), axis=axis, keepdims=True)))
