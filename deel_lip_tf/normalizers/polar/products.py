"""Products of matrices that are known to be symmetric, for little more than half their price."""

import keras
import numpy as np
from keras import ops

from deel_lip_tf.normalizers.polar.tf_graphs import noinline

# Below this many columns one product is faster than its parts.
SMALLEST_SPLIT = 384
_BLOCKS = 4


def transposed(matrix):
    """The matrices in the last two axes, transposed."""
    return ops.swapaxes(matrix, -1, -2)


def for_tall(function, matrix):
    """`function(matrix)`, by the transposed matrix where that has fewer columns."""
    if matrix.shape[-2] >= matrix.shape[-1]:
        return function(matrix)
    return transposed(function(transposed(matrix)))


def size(tensor, axis: int):
    """The length of an axis as a scalar of the type of `tensor`, known now or when it runs."""
    return ops.cast(ops.shape(tensor)[axis], tensor.dtype)


def identity_like(square):
    """The identity (n, n) of the size of the matrices `square` (..., n, n)."""
    return ops.eye(ops.shape(square)[-1], dtype=square.dtype)


def shifted(square, by):
    """`square + by I` of matrices (..., n, n), for tensors `by` (..., 1, 1).

    The same numbers as by an identity matrix, which TensorFlow would make of twenty operations.
    """
    if keras.backend.backend() != "tensorflow":
        return square + by * identity_like(square)
    import tensorflow as tf

    diagonal = tf.linalg.diag_part(square) + tf.squeeze(by, -1)
    return tf.linalg.set_diag(square, diagonal)


def norm(matrix):
    """The Frobenius norms (..., 1, 1), where nobody asks for their gradient."""
    if keras.backend.backend() == "tensorflow" and len(matrix.shape) == 2:
        import tensorflow as tf

        # The same bits in one pass, without a matrix of squares.
        return tf.reshape(tf.sqrt(2 * tf.nn.l2_loss(matrix)), (1, 1))
    return ops.sqrt(ops.sum(ops.square(matrix), axis=(-2, -1), keepdims=True))


def gram(matrix, is_large: bool, is_wide: bool = False):
    """`X' X` of `matrix` (..., rows, columns), or `X X'` of a wide one; see `symmetric_product`."""
    pair = (matrix, transposed(matrix)) if is_wide else (transposed(matrix), matrix)
    return symmetric_product(*pair, is_large)


def symmetric_product(left, right, is_large: bool):
    """`left @ right` of matrices (..., n, m) and (..., m, n), where the product is symmetric.

    No TensorFlow kernel exploits the symmetry, so the blocks on and below the diagonal are
    computed and the others copied: 5/8 of the operations with 4 x 4 blocks.

    Args:
        left: the first factor.
        right: the second one.
        is_large: whether to do so, which pays from `SMALLEST_SPLIT` columns on; the shape may not
            be known yet.
    """
    if not is_large:
        return ops.matmul(left, right)
    return noinline(_from_blocks, left, right, is_plain=True)


def _from_blocks(left, right):
    starts = ops.shape(right)[-1] * np.arange(_BLOCKS + 1, dtype="int32") // _BLOCKS
    sizes = starts[1:] - starts[:-1]
    # Block column i, from the diagonal on. TensorFlow takes rows without copying them; a product of
    # few rows takes it as long as one of twice as many, and one of few columns does not.
    strips = [
        ops.matmul(left[..., starts[i] :, :], block)
        for i, block in enumerate(_parts(right, sizes, -1))
    ]
    blocks = [_parts(strip, sizes[i:], -2) for i, strip in enumerate(strips)]
    rows = [
        ops.concatenate(
            [*(blocks[j][i - j] for j in range(i + 1)), transposed(strip[..., sizes[i] :, :])],
            axis=-1,
        )
        for i, strip in enumerate(strips)
    ]
    return ops.concatenate(rows, axis=-2)


def _parts(tensor, sizes, axis: int) -> list:
    """Blocks of these sizes: one operation, where each slice would be ten."""
    if keras.backend.backend() != "tensorflow":
        return ops.split(tensor, np.cumsum(sizes)[:-1].tolist(), axis)
    import tensorflow as tf

    return tf.split(tensor, sizes, axis)


def symmetric_part(matrix):
    """`(M + M') / 2`."""
    return 0.5 * (matrix + transposed(matrix))
