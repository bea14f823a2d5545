"""Programs that are chains: local Lipschitz constants by one matrix inequality for all layers."""

import math
from collections.abc import Sequence

import numpy as np

from deel_lip_tf._rounding import UP, product_up
from deel_lip_tf.bounds.chains import Matrix
from deel_lip_tf.bounds.sectors import sector_bound
from deel_lip_tf.semantics.ir.arrays import NUMPY
from deel_lip_tf.semantics.ir.primitives import Conv, Diagonal, MatMul, Scale
from deel_lip_tf.semantics.ir.program import Affine, Elementwise, Node, Program
from deel_lip_tf.verify.activations import derivative_of
from deel_lip_tf.verify.graphs import once
from deel_lip_tf.verify.propagation.gradients import Ends

_LARGEST = 2**22  # entries of a matrix that is written out
_FLOPS = 2e9  # for each sample: some tenths of a second
# What copies no entry: an image of the identity is a number of the kernel, or a product with one.
_WRITTEN_OUT = (Conv, Diagonal, MatMul, Scale)


def chain_constants(program: Program, intervals: list[Ends]) -> np.ndarray:
    """(n,) proven constants in the Euclidean norm, given intervals of all nodes on convex sets.

    Infinite where the program is no chain of matrices and functions of single entries, or where it
    would cost too much.
    """
    count = len(intervals[0][0])
    if (chain := _chain(program)) is None:
        return np.full(count, math.inf)
    matrices, functions = chain
    ends = []
    for node in functions:
        low, high = derivative_of(node.function).on(*intervals[node.parents[0]])
        ends.append((low.reshape(count, -1), high.reshape(count, -1)))
    bounds = [sector_bound(matrices, [(a[i], b[i]) for a, b in ends]) for i in range(count)]
    return np.array([product_up(bound, UP) for bound in bounds])


@once
def _chain(program: Program) -> tuple[list[Matrix], list[Elementwise]] | None:
    """The matrices of a chain, and the functions between them; None where it is none."""
    matrices, functions = [Matrix.of(np.eye(math.prod(program.input_shape)))], list[Elementwise]()
    for index in _path(program):
        node, size = program.nodes[index], math.prod(program.nodes[index].shape)
        if isinstance(node, Elementwise):
            functions.append(node)
            matrices.append(Matrix.of(np.eye(size)))
        elif (matrix := _matrix(program, node)) is not None:
            matrices[-1] = matrix.after(matrices[-1])
        else:
            return None
    sizes = [matrix.numbers.shape for matrix in matrices]
    return (matrices, functions) if functions and _flops(sizes) <= _FLOPS else None


def _path(program: Program) -> list[int]:
    """The nodes after the input, where each reads the one before; none of other programs."""
    path, index = list[int](), program.output
    while index > 0:
        path.append(index)
        parents = program.nodes[index].parents
        if len(parents) != 1:
            return []
        (index,) = parents
    return path[::-1]


def _matrix(program: Program, node: Node) -> Matrix | None:
    """What an affine node multiplies by; None where it sums up, or is too large."""
    if not isinstance(node, Affine) or not (node.map.is_exact or type(node.map) in _WRITTEN_OUT):
        return None
    (parent,) = node.parents
    shape = program.nodes[parent].shape
    size, outputs = math.prod(shape), math.prod(node.shape)
    if size * outputs > _LARGEST:
        return None
    image = node.map.apply(NUMPY, [np.eye(size).reshape(size, *shape)])
    return Matrix.of(np.asarray(image).reshape(size, outputs).T)


def _flops(sizes: Sequence[tuple[int, int]]) -> float:
    """How many operations the bound of one sample takes, at most."""
    layers = sum(4.0 * n * m * (n + m) + 10.0 * n**3 for n, m in sizes)
    outputs = sum(float(n) for n, _ in sizes)
    return 2.0 * layers + 4.0 * outputs**2 * (outputs + sizes[0][1])
