"""Cross-entropies as pure functions, as in `formulas`: with a temperature, an offset, margins.

Those for certified training look at the gaps `f_j - f_y` between the other classes and the true
one: with a temperature `T` and `l = T logsumexp_{j != y}((f_j - f_y) / T)`, the smooth gap of the
runner-up, the cross-entropy is `T CE(softmax(f / T)) = T softplus(l / T)`, and the probability of
the true class `sigmoid(-l / T)`. In this form nothing cancels where the true class has almost all
the probability, or almost none, and nothing overflows at small temperatures.
"""

import math
from typing import Any

from keras import ops

from deel_lip_tf._validation.arrays import check_finite, numeric
from deel_lip_tf.losses.labels import (
    aligned,
    floating,
    may_be_nan,
    one_class_each,
    positives,
    several_classes,
    true_class,
    true_score,
)
from deel_lip_tf.losses.parameters import parameter_or_tensor

Tensor = Any


def tau_categorical_crossentropy(y_true: Tensor, y_pred: Tensor, tau: float) -> Tensor:
    """Cross-entropy `CE(y, softmax(tau f)) / tau` with one-hot (or smoothed) probabilities `y`.

    The division keeps the gradient's scale independent of the temperature. As `tau` grows the
    loss tends to `max_j f_j - f_y`. Source: Béthune et al., arXiv:2104.05097.
    """
    tau = parameter_or_tensor("tau", tau)
    labels, scores = aligned(y_true, y_pred)
    several_classes(scores, "`TauBinaryCrossentropy`")
    return -ops.sum(labels * ops.log_softmax(tau * scores, axis=-1), axis=-1) / tau


def tau_sparse_categorical_crossentropy(y_true: Tensor, y_pred: Tensor, tau: float) -> Tensor:
    """`tau_categorical_crossentropy` for class indices of shape `(B,)` or `(B, 1)`.

    Raises:
        ValueError: if the labels are not one index per row of a `(B, C)` tensor of scores.
    """
    tau = parameter_or_tensor("tau", tau)
    scores = floating(numeric("y_pred", y_pred))
    labels = ops.convert_to_tensor(numeric("y_true", y_true))
    shape = tuple(labels.shape)
    if len(scores.shape) != 2 or not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise ValueError(
            "`y_true` must hold one class index per row, shape (batch,) or (batch, 1), and "
            "`y_pred` must have shape (batch, classes): for one-hot labels use "
            f"`TauCategoricalCrossentropy`. Received: y_true.shape={shape}, "
            f"y_pred.shape={tuple(scores.shape)}."
        )
    several_classes(scores, "`TauBinaryCrossentropy`")
    check_finite("y_true", labels)
    flat = ops.reshape(labels, (-1,))
    indices = ops.cast(flat, "int32")
    if may_be_nan(labels):
        is_finite = ops.isfinite(flat)
        indices = ops.where(is_finite, indices, 0)
        scores = ops.where(is_finite[:, None], scores, ops.full_like(scores, math.nan))
    losses = ops.sparse_categorical_crossentropy(indices, tau * scores, from_logits=True)
    return losses / tau


def tau_binary_crossentropy(y_true: Tensor, y_pred: Tensor, tau: float) -> Tensor:
    """Binary cross-entropy `mean_c BCE([y > 0], sigmoid(tau f)) / tau`, one value per sample."""
    tau = parameter_or_tensor("tau", tau)
    labels, scores = aligned(y_true, y_pred)
    sign = 2 * positives(labels) - 1
    return ops.mean(ops.softplus(-sign * tau * scores), axis=-1) / tau


def _tensors(dtype: str, **parameters: Any) -> list:
    """The parameters, checked by their names, as tensors."""
    return [ops.cast(parameter_or_tensor(*pair), dtype) for pair in parameters.items()]


def _smooth_runner_up(gaps: Tensor, true: Tensor, temperature: Tensor) -> Tensor:
    """`T logsumexp_{j != y}(gap_j / T)`, between the maximum and `T log(C - 1)` above it."""
    hidden = ops.where(true, ops.full_like(gaps, -math.inf), gaps)
    # of an empty batch there is no maximum, and of -inf alone no difference
    largest = ops.max(hidden, axis=-1, keepdims=True, initial=-math.inf)
    largest = ops.stop_gradient(ops.where(ops.isfinite(largest), largest, 0.0))
    smooth = ops.logsumexp((hidden - largest) / temperature, axis=-1)
    return largest[:, 0] + temperature * smooth


def _annealed(gaps: Tensor, true: Tensor, temperature: Tensor, beta: Tensor) -> Tensor:
    """`(1 - p)^beta T CE`, with `p` the probability of the true class among gaps over `T`."""
    temperature = ops.maximum(temperature, 2e-38)  # below, float32 divides by 0
    runner_up = _smooth_runner_up(gaps, true, temperature)
    exponent = runner_up / temperature
    # softplus(u) is u to the last bit of float64 above 40, also where u overflows
    crossentropy = temperature * ops.softplus(ops.minimum(exponent, 40.0))
    crossentropy = ops.where(exponent > 40.0, runner_up, crossentropy)
    # log(1 - p) is finite in these limits; below them the cross-entropy is under 1e-43
    log_error = ops.log_sigmoid(ops.clip(exponent, -100.0, 100.0))
    return ops.exp(beta * log_error) * crossentropy


def offset_crossentropy(
    y_true: Tensor, y_pred: Tensor, offset: float, temperature: float
) -> Tensor:
    """Cross-entropy `T CE(y, softmax((f - offset 1_y) / T))` of logits that owe an offset.

    Args:
        y_true: class indices `(B,)` or `(B, 1)`, or one-hot rows `(B, C)`.
        y_pred: logits `f`, `(B, C)` with `C >= 2`.
        offset: what is taken from the logit of the true class, at least 0.
        temperature: `T > 0`.

    Returns:
        One value per sample, shape `(B,)`. NaN where a label is an index of no class.

    Source: Prach and Lampert, arXiv:2208.03160.
    """
    return logit_annealing(y_true, y_pred, offset, temperature, 0.0)


def logit_annealing(
    y_true: Tensor, y_pred: Tensor, offset: float, temperature: float, beta: float
) -> Tensor:
    """`-T (1 - p)^beta log p`, `p = softmax_y((f - offset 1_y) / T)`, with the whole gradient.

    Arguments and result as `offset_crossentropy`, which is the case `beta = 0`; `beta >= 0`.
    Source: Lai et al., arXiv:2505.15174.
    """
    true, scores = one_class_each(y_true, y_pred)
    offset, temperature, beta = _tensors(
        scores.dtype, offset=offset, temperature=temperature, beta=beta
    )
    gaps = scores - ops.expand_dims(true_score(scores, true) - offset, -1)
    return _annealed(gaps, true, temperature, beta)


def emma(
    y_true: Tensor,
    y_pred: Tensor,
    radius: float,
    divisors: Tensor,
    offset: float = 0.0,
    temperature: float = 1.0,
    beta: float = 0.0,
) -> Tensor:
    """`logit_annealing` of logits that every other class has raised by what it may gain.

    `z_j = f_j - f_y + r_j radius D_yj` with `r_j = clip((f_y - f_j) / (radius D_yj), 0.01, 1)`, of
    which no gradient is taken: it flows through `D`. A class that the ball reaches ties with the
    true one, `z_j = 0`, and is not shown as nearer than that.

    Args:
        y_true: class indices `(B,)` or `(B, 1)`, or one-hot rows `(B, C)`.
        y_pred: logits `f`, `(B, C)` with `C >= 2`.
        radius: of the ball in which the labels are to be certified, at least 0.
        divisors: Lipschitz constants `D_ij` of the gaps `f_i - f_j`: `(C, C)`, or one for all.
        offset: as `logit_annealing`; 0 and `beta = 0` is the cross-entropy.
        temperature: as `logit_annealing`.
        beta: as `logit_annealing`.

    Returns:
        One value per sample, shape `(B,)`. NaN where a label is an index of no class.

    Source: Hu et al., arXiv:2301.12549; with offset and annealing Lai et al., arXiv:2505.15174.
    """
    true, scores = one_class_each(y_true, y_pred)
    radius, offset, temperature, beta = _tensors(
        scores.dtype, radius=radius, offset=offset, temperature=temperature, beta=beta
    )
    gaps = scores - ops.expand_dims(true_score(scores, true), -1)
    reach = radius * _of_row(
        ops.convert_to_tensor(divisors, scores.dtype), ops.argmax(true, axis=-1)
    )
    least = ops.convert_to_tensor(0.01, scores.dtype)
    ratio = ops.clip(-gaps / ops.maximum(reach, 1e-8), least, 1.0)
    return _annealed(gaps + ops.stop_gradient(ratio) * reach + offset, true, temperature, beta)


def gloro(
    y_true: Tensor, y_pred: Tensor, radius: float, divisors: Tensor, trades: float | None = None
) -> Tensor:
    """Cross-entropy with one more class, which wins wherever the prediction is not certified.

    The logit of that class is `b = max_{j != c}(f_j + radius D_cj)`, with `c` the predicted class.
    Without `trades` the value is `-log softmax_y([f, b])`; with it `-log softmax_y(f)` plus
    `trades` times the divergence `KL(softmax(f) || softmax([f, b]))`, which is
    `softplus(b - logsumexp f)`.

    Args:
        y_true: class indices `(B,)` or `(B, 1)`, or one-hot rows `(B, C)`.
        y_pred: logits `f`, `(B, C)` with `C >= 2`.
        radius: of the ball in which the labels are to be certified, at least 0.
        divisors: Lipschitz constants `D_ij` of the gaps `f_i - f_j`: `(C, C)`, or one for all.
        trades: weight of the divergence, at least 0, or `None`.

    Returns:
        One value per sample, shape `(B,)`. NaN where a label is an index of no class.

    Source: Leino et al., arXiv:2102.08452.
    """
    true, scores = one_class_each(y_true, y_pred)
    (radius,) = _tensors(scores.dtype, radius=radius)
    predicted = true_class(scores)
    reach = radius * _of_row(
        ops.convert_to_tensor(divisors, scores.dtype), ops.argmax(scores, axis=-1)
    )
    rivals = ops.where(predicted, ops.full_like(scores, -math.inf), scores + reach)
    bottom = ops.max(rivals, axis=-1, initial=-math.inf)
    own = ops.expand_dims(true_score(scores, true), -1)
    if trades is not None:
        (weight,) = _tensors(scores.dtype, trades=trades)
        divergence = ops.softplus(bottom - ops.logsumexp(scores, axis=-1))
        return ops.softplus(_smooth_runner_up(scores - own, true, 1.0)) + weight * divergence
    gaps = ops.concatenate([scores, bottom[:, None]], axis=-1) - own
    true = ops.concatenate([true, ops.zeros_like(true[:, :1])], axis=-1)
    return ops.softplus(_smooth_runner_up(gaps, true, 1.0))


def _of_row(divisors: Tensor, classes: Tensor) -> Tensor:
    """The constants of the gaps between a class of each row and all: `(B, C)`, or the only one."""
    return ops.take(divisors, classes, axis=0) if len(divisors.shape) == 2 else divisors
