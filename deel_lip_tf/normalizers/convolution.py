"""A convolution as an operator: how padding and stride reuse a pixel, axis by axis.

A convolution multiplies its kernel, flattened to a matrix, with every patch of the image. If no
pixel lies in more than `m` patches, `||conv(x)||**2 <= ||kernel||**2 * m * ||x||**2`. `m` is the
product of one count per axis, and each count is made, not approximated: closed forms are wrong
somewhere (for reflected padding on small images, say).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

ZERO = -1
EXTENDING = ("circular", "symmetric", "reflect", "replicate")
PADDINGS = ("same", "valid", *EXTENDING)


def padding_amounts(
    size: int | None, kernel_size: int, stride: int, padding: str
) -> tuple[int, int]:
    """Elements added `(before, after)` one axis.

    `"same"` follows TensorFlow: as many outputs as `ceil(size / stride)`, the odd zero at the end.
    `"causal"` (of sequences) puts zeros in front only. The extending paddings add
    `kernel_size - 1` in all, whatever the stride; neither depends on `size`.

    Args:
        size: length of the axis; None, where it is not known, except with `"same"`.
        kernel_size: of the kernel along this axis, with its dilation written out.
        stride: along this axis.
        padding: one of `PADDINGS`, or `"causal"`.

    Returns:
        `(before, after)`, two numbers of elements.

    Raises:
        ValueError: `size` is None with `"same"`.

    Example:
        >>> for padding in ("valid", "same", "causal", "circular"):
        ...     print(lip.normalizers.padding_amounts(8, 4, 1, padding), padding)
        (0, 0) valid
        (1, 2) same
        (3, 0) causal
        (1, 2) circular
    """
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return kernel_size - 1, 0
    if padding == "same":
        if size is None:
            raise ValueError('`size` must be known with padding="same". Received: size=None.')
        total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
        return total // 2, total - total // 2
    return (kernel_size - 1) // 2, kernel_size // 2


def padded_indices(size, before: int, after: int, mode: str, xp=np):
    """For each element of the padded axis, the index it is copied from (`ZERO` for a zero).

    Args:
        size: length of the axis; a scalar tensor where it is only known at run time.
        before: number of elements added in front.
        after: number of elements added behind.
        mode: `"circular"` (`c d | a b c d | a b`), `"symmetric"` (`b a | a b c d | d c`),
            `"reflect"` (`c b | a b c d | c b`), `"replicate"` (`a a | a b c d | d d`), or any other
            name for zeros. Paddings longer than the axis go round, or to and fro, repeatedly.
        xp: `numpy`, or `keras.ops` for a tensor `size`.

    Returns:
        An array (or tensor) of `before + size + after` integers.

    Example:
        >>> for mode in ("circular", "symmetric", "reflect", "replicate", "zeros"):
        ...     print(lip.normalizers.padded_indices(4, 2, 2, mode), mode)
        [2 3 0 1 2 3 0 1] circular
        [1 0 0 1 2 3 3 2] symmetric
        [2 1 0 1 2 3 2 1] reflect
        [0 0 0 1 2 3 3 3] replicate
        [-1 -1  0  1  2  3 -1 -1] zeros
    """
    index = xp.arange(-before, size + after)
    if mode == "circular":
        return index % size
    if mode == "symmetric":
        index = index % (2 * size)
        return xp.minimum(index, 2 * size - 1 - index)
    if mode == "reflect":
        period = xp.maximum(2 * (size - 1), 1)
        index = index % period
        return xp.minimum(index, period - index)
    if mode == "replicate":
        return xp.clip(index, 0, size - 1)
    return xp.where((index >= 0) & (index < size), index, ZERO)


def most_copies(size: int | None, added: tuple[int, int], padding: str) -> int:
    """How often an element of an axis occurs in the padded one; the worst size, of `None`, is 1."""
    if padding not in EXTENDING:
        return 1
    return int(np.bincount(padded_indices(size or 1, *added, padding)).max())


def common_steps(
    sizes: Sequence[int | None], strides: Sequence[int], padding: str
) -> tuple[int, ...]:
    """For each axis, what the distances between any two patches are multiples of: the stride.

    On a ring of another length than a multiple of it, the last patch may be at any distance of the
    first one.
    """
    if padding != "circular":
        return tuple(strides)
    pairs = zip(sizes, strides, strict=True)
    return tuple(s if size is not None and size % s == 0 else 1 for size, s in pairs)


@lru_cache(maxsize=4096)
def max_duplication(size: int | None, kernel_size: int, stride: int, padding: str) -> int:
    """The largest number of patches that one element of an axis belongs to.

    An element that a padding repeats inside one patch counts as often as it appears there.

    Args:
        size: length of the axis; `None` for the largest count over all lengths.
        kernel_size: length of the kernel on this axis.
        stride: step of the patches on this axis.
        padding: one of `PADDINGS`, or `"causal"`.

    Returns:
        The number `m` of this axis: the norm of the operation is at most the square root of the
        product over the axes, times the norm of the flattened kernel.

    Example:
        >>> for stride, padding in ((1, "same"), (2, "same"), (1, "replicate")):
        ...     print(lip.normalizers.max_duplication(8, 5, stride, padding), padding)
        5 same
        3 same
        6 replicate
    """
    if size is None:
        # Beyond twice the reach of a patch the two borders no longer meet: the counts then depend
        # on the length only through its remainder modulo the stride.
        lengths = range(1, 4 * (kernel_size + stride))
        return max(max_duplication(n, kernel_size, stride, padding) for n in lengths)
    before, after = padding_amounts(size, kernel_size, stride, padding)
    sources = padded_indices(size, before, after, padding)
    starts = np.arange(0, len(sources) - kernel_size + 1, stride)
    patches = sources[starts[:, None] + np.arange(kernel_size)]
    # An axis shorter than a valid patch has no output; 1 keeps the gain finite.
    return max(int(np.bincount(patches[patches != ZERO], minlength=1).max()), 1)


def transposed_max_duplication(size: int | None, kernel_size: int, stride: int) -> int:
    """The same count for the convolution whose adjoint is a transposed convolution.

    An output element receives from at most `ceil(kernel_size / stride)` of the `size` inputs;
    cropping and `output_padding` can only lower it.

    Args:
        size: length of the input's axis; None where it is not known.
        kernel_size: of the kernel along this axis.
        stride: along this axis.

    Returns:
        The largest number of inputs that one output element receives from.

    Example:
        >>> lip.normalizers.transposed_max_duplication(8, 3, 2)  # two inputs reach one output
        2
        >>> lip.normalizers.transposed_max_duplication(1, 3, 1)  # there is only one
        1
    """
    reach = -(-kernel_size // stride)
    return reach if size is None else min(reach, size)
