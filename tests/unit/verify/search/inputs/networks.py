"""Small networks as programs, and oracles of them that share no code with what is tested."""

from fractions import Fraction

import numpy as np

from deel_lip_tf.semantics.ir.elementwise import prelu, relu
from deel_lip_tf.semantics.ir.primitives import Conv, MatMul, Reshape, Scale, Sum
from deel_lip_tf.semantics.ir.program import Builder, Program
from deel_lip_tf.verify.specification.property import Conjunction, Inequality, Linear, Property


def finished(builder, output):
    """The program of what a builder holds."""
    return Program(tuple(builder.nodes), output, ())


def dense(sizes, seed=0, scale=1.0, function=None, dyadic=False):
    """A dense network; `dyadic` weights are multiples of 1/4."""
    rng = np.random.default_rng(seed)
    builder = Builder((sizes[0],))
    index = 0
    for depth, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        kernel = scale * rng.normal(size=(before, after)) / np.sqrt(before)
        bias = 0.3 * rng.normal(size=after)
        if dyadic:
            kernel, bias = np.round(4 * kernel) / 4, np.round(4 * bias) / 4
        index = builder.affine(index, MatMul(kernel), bias)
        if depth < len(sizes) - 2:
            index = builder.function(index, function or relu())
    return finished(builder, index)


def residual(seed=0):
    """`x + relu(...)`, twice, with leaky and steep slopes on the left of 0."""
    rng = np.random.default_rng(seed)
    builder = Builder((3,))
    index = builder.affine(0, MatMul(rng.normal(size=(3, 6))), rng.normal(size=6))
    for slopes in (np.linspace(-0.5, 2.0, 6), np.full(6, 0.1)):
        branch = builder.affine(index, MatMul(rng.normal(size=(6, 6)) / 2), rng.normal(size=6))
        branch = builder.function(branch, prelu(slopes))
        index = builder.affine([index, branch], Sum((Scale(), Scale(-1.5))))
    return finished(builder, builder.affine(index, MatMul(rng.normal(size=(6, 2)))))


def convolutional(seed=0):
    """A convolution over zeros, a ReLU, and a dense layer."""
    rng = np.random.default_rng(seed)
    builder = Builder((4,))
    image = builder.affine(0, Reshape((2, 2, 1)))
    kernel = rng.normal(size=(2, 2, 1, 1, 3))
    convolution = Conv(kernel, (1, 1), (1, 1), ((0, 1), (1, 0)), (2, 2))
    image = builder.affine(image, convolution, rng.normal(size=3))
    flat = builder.affine(builder.function(image, relu()), Reshape((12,)))
    return finished(builder, builder.affine(flat, MatMul(rng.normal(size=(12, 2)))))


def inequality(terms, constant, is_strict=False):
    """`sum(terms) + constant <= 0`, terms by ("X" or "Y", index)."""
    linear = Linear({key: Fraction(value) for key, value in terms.items()}, Fraction(constant))
    return Inequality(linear, is_strict)


def conjunction(lower, upper, weights, offsets, is_strict=None):
    """A box, and rows of the outputs that are at most 0, exactly as the numbers are."""
    lower, upper, weights = (np.asarray(part, np.float64) for part in (lower, upper, weights))
    strict = np.zeros(len(weights), bool) if is_strict is None else np.asarray(is_strict)
    exact = [inequality({("X", i): -1}, low) for i, low in enumerate(lower)]
    exact += [inequality({("X", i): 1}, -Fraction(high)) for i, high in enumerate(upper)]
    for row, offset, flag in zip(weights, offsets, strict, strict=True):
        terms = {("Y", i): weight for i, weight in enumerate(row) if weight}
        exact.append(inequality(terms, offset, flag))
    offsets = np.asarray(offsets, np.float64)
    return Conjunction(
        lower, upper, weights.reshape(-1, weights.shape[-1]), offsets, strict, tuple(exact)
    )


def asked(*conjunctions):
    """The property of some conjunctions."""
    first = conjunctions[0]
    return Property(len(first.lower), first.weights.shape[1], conjunctions)


def values_at(program, x):
    """Outputs at points in float64, by matrices that are read off the primitives one by one."""
    from deel_lip_tf.semantics.ir.arrays import NUMPY

    nodes = [np.asarray(x, np.float64).reshape(-1, *program.input_shape)]
    for node in program.nodes[1:]:
        parents = [nodes[parent] for parent in node.parents]
        if hasattr(node, "map"):
            value = node.map.apply(NUMPY, parents)
            nodes.append(value if node.bias is None else value + node.bias)
        else:
            slope = node.function.arguments[0]
            nodes.append(np.where(parents[0] > 0, parents[0], slope * parents[0]))
    return nodes[program.output].reshape(len(nodes[0]), -1)


def exact_extremes(program, lower, upper):
    """Smallest and largest value of a network of one input and one output, as fractions.

    A function of straight pieces is known by its values at its kinks, in rational numbers.
    """
    knots = [Fraction(lower), Fraction(upper)]
    values = [[knot] for knot in knots]  # of the layer, at each knot
    for node in program.nodes[1:]:
        if hasattr(node, "map"):
            kernel, bias = node.map.matrix, np.ravel(node.bias)
            values = [_affine(row, kernel, bias) for row in values]
            continue
        knots, values = _with_kinks(knots, values)
        values = [[max(value, Fraction(0)) for value in row] for row in values]
    outputs = [row[0] for row in values]
    return min(outputs), max(outputs)


def _affine(row, kernel, bias):
    return [
        sum((v * Fraction(k) for v, k in zip(row, column, strict=True)), Fraction(b))
        for column, b in zip(kernel.T, bias, strict=True)
    ]


def _with_kinks(knots, values):
    found = dict(zip(knots, values, strict=True))
    for i in range(len(knots) - 1):
        (a, b), (left, right) = knots[i : i + 2], values[i : i + 2]
        for x, y in zip(left, right, strict=True):
            if x * y < 0:
                share = x / (x - y)
                pairs = zip(left, right, strict=True)
                found[a + share * (b - a)] = [p + share * (q - p) for p, q in pairs]
    order = sorted(found)
    return order, [found[knot] for knot in order]
