"""The orthogonal matrix nearest to a kernel: as many steps as the kernel needs, exact gradient.

With `R = X'X - cI` the error that is left of a kernel `X`, each step multiplies `X` by a polynomial
of `R`. A kernel that an update has moved off the manifold of orthogonal matrices needs a step or
two, and one that is on it needs none: what remains is one Gram matrix, which proves that it is.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import ops

from deel_lip_tf.normalizers.arithmetic import frobenius_norm, safe_divide, unit_scale
from deel_lip_tf.normalizers.branches import as_graph, usually
from deel_lip_tf.normalizers.orthogonal import (
    BJORCK_STEP,
    SMALLEST_RATIO,
    minimax_cubic,
    vector_factor,
)
from deel_lip_tf.normalizers.polar_gradient import differential_adjoint, tangent_projection
from deel_lip_tf.normalizers.products import (
    SMALLEST_SPLIT,
    gram,
    identity_like,
    size,
    symmetric_product,
    transposed,
)
from deel_lip_tf.normalizers.spectral import gram_norm_bound, unit_roundoff

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


class _Iterate(NamedTuple):
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
class _Task:
    """What is known before there are numbers: a computation is traced once for each of these.

    Attributes:
        eps: how far below 1 a singular value may end.
        maximum: largest number of steps.
        is_square: whether there are as many rows as columns.
        is_tall: whether there are at least twice as many.
    """

    eps: float
    maximum: int
    is_square: bool
    is_tall: bool


class _Goal(NamedTuple):
    """When to stop.

    Attributes:
        accepted: largest `radius / center` of a kernel that is left as it is.
        reached: largest one after a step.
        first_order: largest one that a step without `R**2` may leave. The derivative of such a
            step is less exact than its value.
        task: what is to be done.
    """

    accepted: Any
    reached: Any
    first_order: Any
    task: _Task


def nearest_orthogonal(matrix, eps: float, maximum: int):
    """The polar factor of `matrix`: all singular values in `[1 - eps, 1]`, the same directions.

    The norm of the result is at most 1 for every finite matrix: it is divided by a bound in the
    end. The gradient is that of the polar factor, not of the iterations: with `W = Q H`,
    `Q'Q = I`, and `U` the upstream gradient, it is `Q S + (I - QQ') U H**-1` where the
    skew-symmetric `S` solves `HS + SH = Q'U - U'Q`; on the manifold, where `H = cI`, that is the
    tangent projection `(U - Q sym(Q'U)) / c`.

    Args:
        matrix: tensor (..., rows, columns), any finite entries; each matrix by itself.
        eps: how far below 1 a singular value may end. Reached where the smallest singular value is
            at least 1e-4 of the largest; nearer to a singular kernel a direction is brought closer
            to 1 but not all the way. A kernel whose singular values are equal up to a tenth of
            `eps` is taken for orthogonal as it is, and so is its gradient.
        maximum: largest number of steps.

    Returns:
        A tensor of the same shape.

    Source: Higham, Functions of Matrices, 2008, chapter 8 (the polar factor and its conditioning);
    Bjorck and Bowie, 1971 (the series); Grishina et al., 2025, arXiv:2506.10935 (the cubics).
    """
    return _for_tall(_polar_factor, matrix, eps, maximum)


def retracted(matrix, eps: float, maximum: int):
    """`matrix` moved onto the manifold, near enough for `nearest_orthogonal` to leave it there.

    For a kernel after each of its updates: its gradient is a tangent projection from then on, and
    needs no Lyapunov equation. Cheaper than `nearest_orthogonal`, and has no gradient of use.

    Args:
        matrix: as for `nearest_orthogonal`.
        eps: likewise.
        maximum: likewise.
    """
    return _for_tall(_retracted, matrix, eps, maximum)


def _for_tall(function, matrix, eps: float, maximum: int):
    """`function(matrix, task)`, of the transposed matrix where that has fewer columns."""
    rows, columns = matrix.shape[-2:]
    if rows < columns:
        return transposed(_for_tall(function, transposed(matrix), eps, maximum))
    if columns == 1:
        return vector_factor(matrix)
    task = _Task(eps, maximum, rows == columns, rows >= 2 * columns)
    return as_graph(function, matrix, task, is_any_size=columns < SMALLEST_SPLIT)


def _retracted(matrix, task: _Task):
    accepted = ops.maximum(task.eps / 10, _rounding(matrix))
    goal = _Goal(accepted, accepted, accepted, task)
    start = _measured(matrix)
    is_finished = ops.zeros_like(start.center, dtype="bool")
    polynomial, predicted, _, _ = _polynomial(start, is_finished, goal)

    def one_step(*start):
        now = _Iterate(*start)
        one = ops.ones_like(now.center)
        return _scaled(
            now._replace(matrix=ops.matmul(now.matrix, polynomial), center=one, radius=predicted)
        )

    return usually(
        ops.all((predicted <= goal.accepted) & _is_moderate(start)),
        one_step,
        lambda *start: _orthogonalised(_Iterate(*start), goal),
        *start,
    )


def _rounding(matrix):
    """What is left of `||R||_F` where only rounding is left."""
    return 16 * unit_roundoff(matrix) * ops.sqrt(size(matrix, -1))


def _polar_factor(matrix, task: _Task):
    rounding = _rounding(matrix)
    goal = _Goal(ops.maximum(task.eps / 10, rounding), rounding, 0.0, task)

    @ops.custom_gradient
    def factor(matrix):
        # TensorFlow lets what the gradient needs out of the function that is traced, and takes its
        # gradient, times 0, too: in vain, and not a number where a kernel overflows.
        matrix = ops.stop_gradient(matrix)
        start = _measured(matrix)
        center = start.center
        is_orthogonal = (start.radius <= goal.accepted * center) & _is_moderate(start)
        is_orthogonal = ops.all(is_orthogonal)
        outputs = usually(
            is_orthogonal,
            lambda *start: _first_order(_Iterate(*start)),
            lambda *start: _orthogonalised(_Iterate(*start), goal),
            *start,
        )

        def gradient(*arguments, upstream=None):
            # TensorFlow passes the upstream gradient by name, the others by position.
            upstream = arguments[0] if upstream is None else upstream
            return usually(
                is_orthogonal,
                lambda _, factor, upstream: tangent_projection(factor, upstream) / ops.sqrt(center),
                lambda *tensors: differential_adjoint(*tensors, task.is_square),
                matrix,
                outputs,
                upstream,
            )

        return outputs, gradient

    return factor(matrix)


def _measured(matrix, lower=None, upper=None) -> _Iterate:
    error, center, radius = _spread(gram(matrix))
    if lower is None:
        return _Iterate(matrix, error, center, radius, center, center)
    # Squares in [lower**2, upper**2] have a radius of at most this: if they do not, the smallest
    # singular values were overestimated.
    largest = ops.sqrt(size(error, -1)) * (upper**2 - lower**2)
    lower = ops.where(radius > largest + _rounding(matrix), SMALLEST_RATIO, lower)
    return _Iterate(matrix, error, center, radius, lower, upper)


def _spread(gram_matrix) -> tuple:
    """`(R, c, r)`: the Gram matrix less `cI`, its mean eigenvalue, the Frobenius norm of `R`."""
    identity = identity_like(gram_matrix)
    diagonal = ops.where(identity > 0, gram_matrix, 0)
    center = ops.sum(diagonal, axis=(-2, -1), keepdims=True) / size(gram_matrix, -1)
    error = gram_matrix - center * identity
    return error, center, frobenius_norm(error, axis=(-2, -1), keepdims=True)


def _is_moderate(now: _Iterate):
    """Whether eighth powers of the singular values neither overflow nor underflow in float32."""
    return (now.center > 1e-4) & (now.center < 1e4)


def _orthogonalised(start: _Iterate, goal: _Goal):
    """Steps until each matrix is near enough, then the division that makes its norm at most 1."""
    # False where the Gram matrix overflowed, too. Never the negation of the opposite: TensorFlow
    # takes `not (a < b)` for `a >= b`, which it is not for NaN.
    is_near = (start.radius < _SERIES_FROM * start.center) & _is_moderate(start)
    start = _Iterate(
        *ops.cond(
            ops.all(is_near),
            lambda: tuple(start),
            lambda: _choose(is_near, start, _rescaled(start, goal.task)),
        )
    )
    is_accepted = start.radius <= goal.accepted * start.center
    tolerance = ops.where(is_accepted, goal.accepted, goal.reached)
    tolerance = ops.cast(tolerance, start.matrix.dtype)

    def is_unfinished(taken, *state):
        now = _Iterate(*state)
        is_left = ops.any(now.radius > tolerance * now.center)
        return ops.logical_and(taken < goal.task.maximum, is_left)

    def step(taken, *state):
        taken, now = _step(taken, _Iterate(*state), tolerance, goal)
        return taken, *now

    _, *state = ops.while_loop(is_unfinished, step, (0, *start))
    return _divided(_Iterate(*state), goal)


def _first_order(now: _Iterate):
    """An orthogonal matrix made more so by `I - R / 2c`.

    Its values hardly need it. But without it, small changes off the manifold would pass unchanged,
    where the polar factor, and the gradient, remove them.
    """
    identity = identity_like(now.error)
    polynomial = (identity - 0.5 * now.error / now.center) * ops.rsqrt(now.center)
    ratio = now.radius / now.center
    matrix, one = ops.matmul(now.matrix, polynomial), ops.ones_like(ratio)
    # (1 + e) (1 - e/2)**2 = 1 - 3/4 e**2 + e**3 / 4
    radius = 0.75 * ratio**2 + 0.25 * ratio**3
    return _scaled(now._replace(matrix=matrix, center=one, radius=radius))


def _scaled(end: _Iterate):
    """The matrix divided by the bound of its norm."""
    slack = 1 - 8 * unit_roundoff(end.matrix)
    return end.matrix * safe_divide(slack, ops.sqrt(end.center + end.radius))


def _divided(end: _Iterate, goal: _Goal):
    """The matrix with norm at most 1, whether or not it is orthogonal."""
    divided = _scaled(end)
    is_orthogonal = end.radius <= goal.accepted * end.center

    def last_cubic():
        # Bjorck's step maps [0, 2] into [-1, 1]: no singular value is above 1, whatever is left.
        a, b = BJORCK_STEP
        polynomial = (a + b * end.center) * identity_like(end.error) + b * end.error
        return ops.where(is_orthogonal, divided, ops.matmul(end.matrix, polynomial))

    return ops.cond(ops.all(is_orthogonal), lambda: divided, last_cubic)


def _rescaled(start: _Iterate, task: _Task) -> _Iterate:
    """The matrix with norm at most 1, whatever its scale."""
    start = _Iterate(
        *ops.cond(
            ops.all(_is_moderate(start)),
            lambda: tuple(start),
            lambda: tuple(_measured(unit_scale(start.matrix, axis=(-2, -1)))),
        )
    )
    squares = start.error + start.center * identity_like(start.error)
    square = gram_norm_bound(squares, _SCALING_SQUARINGS)
    square = square * (1 + 16 * unit_roundoff(square))
    matrix = safe_divide(start.matrix, ops.sqrt(square))
    error, center, radius = (safe_divide(x, square) for x in start[1:4])
    # A random matrix has singular values between `sqrt(rows) -+ sqrt(columns)`, up to a factor.
    rows, columns = ops.sqrt(size(matrix, -2)), ops.sqrt(size(matrix, -1))
    expected = (rows - columns) / (rows + columns) if task.is_tall else SMALLEST_RATIO
    lower = ops.ones_like(center) * expected
    return _Iterate(matrix, error, center, radius, lower, ops.ones_like(center))


def _choose(condition, ours: tuple, theirs: tuple) -> tuple:
    """`ours` where the condition (..., 1, 1) holds, else `theirs`, for each tensor of a tuple."""
    return tuple(ops.where(condition, a, b) for a, b in zip(ours, theirs, strict=True))


def _step(taken, now: _Iterate, tolerance, goal: _Goal) -> tuple:
    """One polynomial step on the kernel, or several on its Gram matrix and then on the kernel."""
    if not goal.task.is_tall:
        return taken + 1, _step_on_kernel(now, tolerance, goal)
    taken, *state = ops.cond(
        ops.all(now.radius <= _LAST_STEP_FROM * now.center),
        lambda: (taken + 1, *_step_on_kernel(now, tolerance, goal)),
        lambda: _steps_on_gram(taken, now, goal),
    )
    return taken, _Iterate(*state)


def _step_on_kernel(now: _Iterate, tolerance, goal: _Goal) -> _Iterate:
    is_finished = now.radius <= tolerance * now.center
    polynomial, predicted, lower, upper = _polynomial(now, is_finished, goal)
    matrix = ops.matmul(now.matrix, polynomial)
    center = ops.where(is_finished, now.center, ops.ones_like(now.center))
    known = _Iterate(matrix, now.error, center, predicted, lower, upper)
    is_known = predicted <= tolerance * center
    # A step that is known to reach the goal needs no Gram matrix to prove it.
    return _Iterate(
        *ops.cond(
            ops.all(is_known),
            lambda: tuple(known),
            lambda: _choose(is_known, known, _measured(matrix, lower, upper)),
        )
    )


def _steps_on_gram(taken, now: _Iterate, goal: _Goal) -> tuple:
    identity = identity_like(now.error)

    def is_finished(count, now):
        is_accurate = now.radius < _SERIES_FROM * now.center
        limit = ops.where(is_accurate, _STEPS_ON_GRAM, _FIRST_STEPS_ON_GRAM)
        return ops.logical_or(count >= limit, now.radius <= _LAST_STEP_FROM * now.center)

    def is_unfinished(count, product, *state):
        is_left = ops.logical_not(ops.all(is_finished(count, _Iterate(*state))))
        return ops.logical_and(taken + count < goal.task.maximum, is_left)

    def step(count, product, *state):
        now = _Iterate(*state)
        factor, _, lower, upper = _polynomial(now, is_finished(count, now), goal)
        squares = symmetric_product(now.error + now.center * identity, factor)
        squares = symmetric_product(factor, squares)
        product = ops.matmul(product, factor)
        return count + 1, product, now.matrix, *_spread(squares), lower, upper

    start = ops.zeros_like(now.error) + identity
    count, product, *state = ops.while_loop(is_unfinished, step, (0, start, *now))
    end = _Iterate(*state)
    matrix = ops.matmul(now.matrix, product)
    return taken + count, *_measured(matrix, end.lower, end.upper)


def _polynomial(now: _Iterate, is_finished, goal: _Goal) -> tuple:
    """The polynomial of `R` that the kernel is multiplied by next.

    The series of `(cI + R)**(-1/2)` up to `R**2` where `radius < 0.9 c`; elsewhere the cubic that
    is nearest to 1 on `[lower, upper]`; the identity where `is_finished`.

    Returns:
        `(polynomial, predicted, lower, upper)`: the matrix; a bound on the norm of the next `R`,
        with 1 for its center (infinite where none is known); the ends of the next interval.
    """
    error, center = now.error, now.center
    ratio = safe_divide(now.radius, center)
    is_series = ratio < _SERIES_FROM
    # (1 + e) (1 - e/2)**2 = 1 - 3/4 e**2 + e**3 / 4
    first_order = 0.75 * ratio**2 + 0.25 * ratio**3
    is_squared = is_series & ~is_finished & (first_order > goal.first_order)
    square = ops.cond(
        ops.any(is_squared),
        lambda: symmetric_product(error, error),
        lambda: ops.zeros_like(error),
    )
    predicted = ops.where(is_squared, _second_order(ratio, square, center), first_order)
    predicted = ops.where(is_series, predicted, float("inf"))

    (a, b), lower, upper = _cubic(now)
    root = safe_divide(1, ops.sqrt(center))
    constant = ops.where(is_series, root, a + b * center)
    linear = ops.where(is_series, -root * safe_divide(0.5, center), b)
    quadratic = ops.where(is_squared, root * safe_divide(0.375, center**2), 0)
    identity = identity_like(error)
    polynomial = constant * identity + linear * error + quadratic * square
    # The series takes squares in [0.1, 1.9] to values in [0.5, 1.2].
    lower, upper = ops.where(is_series, 0.5, lower), ops.where(is_series, 1.2, upper)
    stay = (identity, now.radius, now.lower, now.upper)
    return _choose(is_finished, stay, (polynomial, predicted, lower, upper))


def _second_order(ratio, square, center):
    """Bound on the norm of the next `R`, where the series goes up to `square = R**2`."""
    # ||R||_2 <= ||R**2||_F ** (1/2)
    norm = ops.sqrt(frobenius_norm(square, axis=(-2, -1), keepdims=True))
    ratio = ops.minimum(ratio, safe_divide(norm, center))
    # (1 + e) (1 - e/2 + 3/8 e**2)**2 = 1 + 5/8 e**3 - 15/64 e**4 + 9/64 e**5
    return (5 / 8 + ratio * (15 / 64 + ratio * 9 / 64)) * ratio**3


def _cubic(now: _Iterate) -> tuple:
    """`((a, b), lower, upper)`: the cubic `a x + b x**3`, and the interval it leads to."""
    lower = ops.maximum(now.lower, ops.sqrt(ops.maximum(now.center - now.radius, 0)))
    upper = ops.minimum(now.upper, ops.sqrt(now.center + now.radius))
    end = ops.maximum(lower, _SMALLEST_END * upper)
    a, b, delta = minimax_cubic(end, upper)
    return (a, b), ops.where(lower < end, lower * (a + b * lower**2), 1 - delta), 1 + delta
