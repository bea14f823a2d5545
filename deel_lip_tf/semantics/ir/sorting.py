"""Sorting as comparisons that do not depend on the values."""


def sorting_network(size: int) -> list[list[tuple[int, int]]]:
    """Batcher's odd-even merge sort: stages of disjoint pairs `i < j`, smaller to the left."""
    stages, p = [], 1
    while p < size:
        k = p
        while k >= 1:
            pairs = [
                (i + j, i + j + k)
                for j in range(k % p, size - k, 2 * k)
                for i in range(min(k, size - j - k))
                if (i + j) // (2 * p) == (i + j + k) // (2 * p)
            ]
            stages += [pairs] if pairs else []
            k //= 2
        p *= 2
    return stages
