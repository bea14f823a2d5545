"""The iteration to the orthogonal matrix nearest to a kernel: as many steps as the kernel needs.

With `R = X'X - cI` the error that is left of a kernel `X`, each step multiplies `X` by a polynomial
of `R`, until a bound of `||R||` is small enough.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import ops

from deel_lip_tf.normalizers.numerics.arithmetic import unit_scale
from deel_lip_tf.normalizers.numerics.norm_bounds import gram_norm_bound, unit_roundoff
from deel_lip_tf.normalizers.polar.cubics import BJORCK_STEP, SMALLEST_RATIO, minimax_cubic
from deel_lip_tf.normalizers.polar.products import gram, norm, shifted, size, symmetric_product
from deel_lip_tf.normalizers.polar.tf_graphs import noinline

# Relative error `||R||_F / c` below which the series of `(I + R/c)**(-1/2)` is used: it converges
# below 1.
_SERIES_FROM = 0.9

# The cubic nearest to 1 on `[l, u]` takes `u` to about `l / u`. Below this it would lose the large
# singular values in the rounding of the Gram matrix, for hardly more growth of the small ones.
_SMALLEST_END = 0.02

# Squarings for the first scaling of a kernel far from orthogonal. Singular values need only end in
# (0, 1]; a bound that is too large by a few per cent costs a fraction of one step.
_SCALING_SQUARINGS = 2

# A tall kernel is multiplied once for several steps on its Gram matrix. Rounding of the Gram matrix
# hurts while the smallest singular values are far below 1: then the kernel is multiplied early.
_STEPS_ON_GRAM, _FIRST_STEPS_ON_GRAM = 6, 2

# Steps on the Gram matrix end here; the last one is taken on the kernel itself.
_LAST_STEP_FROM = 0.05


class Iterate(NamedTuple):
    """A kernel on its way; all but the first two (..., 1, 1).

    Attributes:
        matrix: `X` (..., rows, columns).
        error: `R = X'X - cI` (..., columns, columns).
        center: `c`.
        radius: bound on the norm of `R`: the squares of the singular values are in `c +- radius`.
        lower: where the singular values are assumed to begin, as long as `radius` cannot tell.
        upper: bound on the singular values.
    """

    matrix: Any
    error: Any
    center: Any
    radius: Any
    lower: Any
    upper: Any


@dataclass(frozen=True)
class PolarOptions:
    """What is known before there are numbers: a computation is traced once for each of these.

    Attributes:
        eps: how far below 1 a singular value may end.
        maximum: largest number of steps.
        is_large: whether there are so many columns that symmetric products are worth splitting.
        is_known: whether what is retracted will be known by its numbers.
        is_wide: whether a large matrix has fewer rows than columns, and its Gram matrix is `XX'`:
            for the first step of a retraction alone.
    """

    eps: float
    maximum: int
    is_large: bool
    is_known: bool = False
    is_wide: bool = False


class StoppingRule(NamedTuple):
    """Where the iteration stops.

    Attributes:
        accepted: largest `radius / center` of a kernel that is left as it is.
        reached: largest one after a step.
        is_tall: whether there are at least twice as many rows as columns.
        options: of the computation.
    """

    accepted: Any
    reached: Any
    is_tall: Any
    options: PolarOptions


def rounding_of(matrix):
    """What is left of `||R||_F` where only rounding is left."""
    return 16 * unit_roundoff(matrix) * ops.sqrt(size(matrix, -1))


def with_gram(matrix, options: PolarOptions, lower=None, upper=None) -> Iterate:
    """The iterate of a matrix whose singular values are thought to be in `[lower, upper]`."""
    error, center, radius = _spread(gram(matrix, options.is_large, options.is_wide))
    if lower is None:
        return Iterate(matrix, error, center, radius, center, center)
    # Squares in [lower**2, upper**2] have a radius of at most this: if they do not, the smallest
    # singular values were overestimated.
    largest = ops.sqrt(size(error, -1)) * (upper**2 - lower**2)
    lower = ops.where(radius > largest + rounding_of(matrix), SMALLEST_RATIO, lower)
    return Iterate(matrix, error, center, radius, lower, upper)


def _spread(gram_matrix) -> tuple:
    """`(R, c, r)`: the Gram matrix less `cI`, its mean eigenvalue, the Frobenius norm of `R`."""
    diagonal = ops.diagonal(gram_matrix, axis1=-2, axis2=-1)
    center = ops.expand_dims(ops.mean(diagonal, axis=-1, keepdims=True), -1)
    error = shifted(gram_matrix, -center)
    return error, center, norm(error)


def is_moderate(now: Iterate):
    """Whether eighth powers of the singular values neither overflow nor underflow in float32."""
    return (now.center > 1e-4) & (now.center < 1e4)


def orthogonalised(start: Iterate, stopping: StoppingRule):
    """Steps until each matrix is near enough, then the division that makes its norm at most 1."""
    # False where the Gram matrix overflowed, too. Never the negation of the opposite: TensorFlow
    # takes `not (a < b)` for `a >= b`, which it is not for NaN.
    is_near = (start.radius < _SERIES_FROM * start.center) & is_moderate(start)
    start = Iterate(
        *ops.cond(
            ops.all(is_near),
            lambda: tuple(start),
            lambda: _choose(is_near, start, _rescaled(start, stopping)),
        )
    )
    is_accepted = start.radius <= stopping.accepted * start.center
    tolerance = ops.where(is_accepted, stopping.accepted, stopping.reached)
    tolerance = ops.cast(tolerance, start.matrix.dtype)

    def is_unfinished(taken, *state):
        now = Iterate(*state)
        is_left = ops.any(now.radius > tolerance * now.center)
        return ops.logical_and(taken < stopping.options.maximum, is_left)

    def step(taken, *state):
        taken, now = _step(taken, Iterate(*state), tolerance, stopping)
        return taken, *now

    _, *state = ops.while_loop(is_unfinished, step, (0, *start))
    return _divided(Iterate(*state), stopping)


def polish(now: Iterate, stopping: StoppingRule):
    """An orthogonal matrix made more so by `I - R / 2c`.

    Its values hardly need it. But without it, small changes off the manifold would pass unchanged,
    where the polar factor, and the gradient, remove them. Below rounding there are none.
    """

    def more_orthogonal():
        one = ops.ones_like(now.center)
        polynomial = shifted(-(0.5 * now.error / now.center), one) * ops.rsqrt(now.center)
        ratio = now.radius / now.center
        matrix = ops.matmul(now.matrix, polynomial)
        # (1 + e) (1 - e/2)**2 = 1 - 3/4 e**2 + e**3 / 4
        radius = 0.75 * ratio**2 + 0.25 * ratio**3
        return _scaled(now._replace(matrix=matrix, center=one, radius=radius))

    if not stopping.options.is_large:
        return more_orthogonal()
    is_rounding = ops.all(now.radius <= stopping.reached * now.center)
    return ops.cond(is_rounding, lambda: _scaled(now), more_orthogonal)


def _scaled(end: Iterate):
    """The matrix divided by the bound of its norm."""
    slack = 1 - 8 * unit_roundoff(end.matrix)
    return end.matrix * ops.divide_no_nan(slack, ops.sqrt(end.center + end.radius))


def _divided(end: Iterate, stopping: StoppingRule):
    """The matrix with norm at most 1, whether or not it is orthogonal."""
    divided = _scaled(end)
    is_orthogonal = end.radius <= stopping.accepted * end.center

    def last_cubic():
        # Bjorck's step maps [0, 2] into [-1, 1]: no singular value is above 1, whatever is left.
        a, b = BJORCK_STEP
        polynomial = shifted(b * end.error, a + b * end.center)
        return ops.where(is_orthogonal, divided, ops.matmul(end.matrix, polynomial))

    return ops.cond(ops.all(is_orthogonal), lambda: divided, last_cubic)


def _rescaled(start: Iterate, stopping: StoppingRule) -> Iterate:
    """The matrix with norm at most 1, whatever its scale."""
    start = Iterate(
        *ops.cond(
            ops.all(is_moderate(start)),
            lambda: tuple(start),
            lambda: tuple(with_gram(unit_scale(start.matrix, axis=(-2, -1)), stopping.options)),
        )
    )
    square = gram_norm_bound(shifted(start.error, start.center), _SCALING_SQUARINGS)
    square = square * (1 + 16 * unit_roundoff(square))
    matrix = ops.divide_no_nan(start.matrix, ops.sqrt(square))
    error, center, radius = (ops.divide_no_nan(x, square) for x in start[1:4])
    # A random matrix has singular values between `sqrt(rows) -+ sqrt(columns)`, up to a factor.
    rows, columns = ops.sqrt(size(matrix, -2)), ops.sqrt(size(matrix, -1))
    expected = (rows - columns) / (rows + columns)
    lower = ops.where(stopping.is_tall, ops.ones_like(center) * expected, SMALLEST_RATIO)
    return Iterate(matrix, error, center, radius, lower, ops.ones_like(center))


def _choose(condition, ours: tuple, theirs: tuple) -> tuple:
    """`ours` where the condition (..., 1, 1) holds, else `theirs`, for each tensor of a tuple."""
    return tuple(ops.where(condition, a, b) for a, b in zip(ours, theirs, strict=True))


def is_tall(matrix):
    """Whether there are at least twice as many rows as columns."""
    return size(matrix, -2) >= 2 * size(matrix, -1)


def _step(taken, now: Iterate, tolerance, stopping: StoppingRule) -> tuple:
    """One polynomial step on the kernel, or several on its Gram matrix and then on the kernel."""
    is_last = ops.all(now.radius <= _LAST_STEP_FROM * now.center)
    taken, *state = ops.cond(
        ops.logical_or(is_last, ops.logical_not(stopping.is_tall)),
        lambda: (taken + 1, *_step_on_kernel(now, tolerance, stopping)),
        lambda: _steps_on_gram(taken, now, stopping),
    )
    return taken, Iterate(*state)


def _step_on_kernel(now: Iterate, tolerance, stopping: StoppingRule) -> Iterate:
    is_finished = now.radius <= tolerance * now.center
    polynomial, predicted, lower, upper = _next_polynomial(now, is_finished, stopping.options)
    matrix = ops.matmul(now.matrix, polynomial)
    center = ops.where(is_finished, now.center, ops.ones_like(now.center))
    known = Iterate(matrix, now.error, center, predicted, lower, upper)
    is_known = predicted <= tolerance * center
    # A step that is known to be the last one needs no Gram matrix to prove it.
    return Iterate(
        *ops.cond(
            ops.all(is_known),
            lambda: tuple(known),
            lambda: _choose(is_known, known, with_gram(matrix, stopping.options, lower, upper)),
        )
    )


def _steps_on_gram(taken, now: Iterate, stopping: StoppingRule) -> tuple:
    def is_finished(count, now):
        is_accurate = now.radius < _SERIES_FROM * now.center
        limit = ops.where(is_accurate, _STEPS_ON_GRAM, _FIRST_STEPS_ON_GRAM)
        limit = ops.cast(limit, "int32")  # Keras's integers are int64 where its floats are float64
        return ops.logical_or(count >= limit, now.radius <= _LAST_STEP_FROM * now.center)

    def is_unfinished(count, product, *state):
        is_left = ops.logical_not(ops.all(is_finished(count, Iterate(*state))))
        return ops.logical_and(taken + count < stopping.options.maximum, is_left)

    def step(count, product, *state):
        now = Iterate(*state)
        factor, _, lower, upper = _next_polynomial(now, is_finished(count, now), stopping.options)
        squares = shifted(now.error, now.center)
        squares = symmetric_product(squares, factor, stopping.options.is_large)
        squares = symmetric_product(factor, squares, stopping.options.is_large)
        product = ops.matmul(product, factor)
        return count + 1, product, now.matrix, *_spread(squares), lower, upper

    start = shifted(ops.zeros_like(now.error), ops.ones_like(now.center))
    count, product, *state = ops.while_loop(is_unfinished, step, (0, start, *now))
    end = Iterate(*state)
    matrix = ops.matmul(now.matrix, product)
    return taken + count, *with_gram(matrix, stopping.options, end.lower, end.upper)


def _next_polynomial(now: Iterate, is_finished, options: PolarOptions) -> tuple:
    return noinline(_polynomial, *now[1:], is_finished, settings=(options,))


def _polynomial(error, center, radius, lower, upper, is_finished, options: PolarOptions) -> tuple:
    """The polynomial of `R` that the kernel is multiplied by next.

    The series of `(cI + R)**(-1/2)` up to `R**2` where `radius < 0.9 c`; elsewhere the cubic that
    is nearest to 1 on `[lower, upper]`; the identity where `is_finished`.

    Returns:
        `(polynomial, predicted, lower, upper)`: the matrix; a bound on the norm of the next `R`,
        with 1 for its center (infinite where none is known); the ends of the next interval.
    """
    ratio = ops.divide_no_nan(radius, center)
    is_series = ratio < _SERIES_FROM
    is_squared = is_series & ~is_finished
    square = ops.cond(
        ops.any(is_squared),
        lambda: symmetric_product(error, error, options.is_large),
        lambda: ops.zeros_like(error),
    )
    predicted = ops.where(is_series, _second_order(ratio, square, center), float("inf"))

    (a, b), low, high = _cubic(center, radius, lower, upper)
    root = ops.divide_no_nan(1, ops.sqrt(center))
    constant = ops.where(is_series, root, a + b * center)
    linear = ops.where(is_series, -root * ops.divide_no_nan(0.5, center), b)
    quadratic = ops.where(is_squared, root * ops.divide_no_nan(0.375, center**2), 0)
    # The series takes squares in [0.1, 1.9] to values in [0.5, 1.2].
    low, high = ops.where(is_series, 0.5, low), ops.where(is_series, 1.2, high)
    stay = (ops.ones_like(center), ops.zeros_like(center), radius, lower, upper)
    constant, linear, *bounds = _choose(is_finished, stay, (constant, linear, predicted, low, high))
    return shifted(linear * error, constant) + quadratic * square, *bounds


def _second_order(ratio, square, center):
    """Bound on the norm of the next `R`, where the series goes up to `square = R**2`."""
    # ||R||_2 <= ||R**2||_F ** (1/2)
    ratio = ops.minimum(ratio, ops.divide_no_nan(ops.sqrt(norm(square)), center))
    # (1 + e) (1 - e/2 + 3/8 e**2)**2 = 1 + 5/8 e**3 - 15/64 e**4 + 9/64 e**5
    return (5 / 8 + ratio * (15 / 64 + ratio * 9 / 64)) * ratio**3


def _cubic(center, radius, lower, upper) -> tuple:
    """`((a, b), lower, upper)`: the cubic `a x + b x**3`, and the interval it leads to."""
    lower = ops.maximum(lower, ops.sqrt(ops.maximum(center - radius, 0)))
    upper = ops.minimum(upper, ops.sqrt(center + radius))
    end = ops.maximum(lower, _SMALLEST_END * upper)
    a, b, delta = minimax_cubic(end, upper)
    return (a, b), ops.where(lower < end, lower * (a + b * lower**2), 1 - delta), 1 + delta
