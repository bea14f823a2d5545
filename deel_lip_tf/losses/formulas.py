"""The losses as pure functions: labels and scores in, one value per sample out.

Every function takes `(y_true, y_pred)` in Keras's order and returns a tensor of shape `(B,)` whose
mean over the batch is the loss. Shapes: `(B,)`, `(B, 1)` or `(B, C)`, the same for both arguments.

Notation: `f` scores (logits), `S = [y > 0]` the positives, `s = 2S - 1` their sign, `m` the margin.
Labels in {0, 1}, {-1, +1}, integers and booleans therefore give the same value (the cross-entropies
over classes excepted, which read probabilities). Everything is computed in float32 at least. A NaN
label is refused where its value can be seen, and makes the loss NaN where it cannot, in a traced
step, so that `keras.callbacks.TerminateOnNaN` stops there.

`m` is the gap between two class logits: each score is asked to be `m/2` away from zero on its own
side, so that a positive and a negative score are `m` apart.
"""

import math
from typing import Any

from keras import ops

from deel_lip_tf._validation.scalars import Rule, number
from deel_lip_tf.distribute import replicas
from deel_lip_tf.losses.crossentropy_formulas import (  # noqa: F401 - part of this interface
    emma,
    gloro,
    logit_annealing,
    offset_crossentropy,
    tau_binary_crossentropy,
    tau_categorical_crossentropy,
    tau_sparse_categorical_crossentropy,
)
from deel_lip_tf.losses.labels import (
    aligned,
    balanced,
    positives,
    process_labels_for_multi_gpu,  # noqa: F401 - part of this module's own interface
    several_classes,
    true_class,
    true_score,
)
from deel_lip_tf.losses.parameters import parameter_or_tensor

Tensor = Any


def kr(
    y_true: Tensor, y_pred: Tensor, multi_gpu: bool = False, sample_weight: Tensor | None = None
) -> Tensor:
    """Kantorovich-Rubinstein difference, positive sign (a quantity to maximise).

    The mean over the batch is `mean_c(E[f_c | y = c] - E[f_c | y != c])`, a lower bound of the
    Wasserstein-1 distance between the classes for 1-Lipschitz scores. One value per sample is
    `B mean_c f_c (S / n_c - (1 - S) / (B - n_c))`.

    Args:
        y_true: labels, or with `multi_gpu` the result of `process_labels_for_multi_gpu`.
        y_pred: scores of the same shape.
        multi_gpu: whether the labels already carry the weights of the global batch.
        sample_weight: `(B,)` weights `w` that the values will be multiplied by: `n_c` and `B - n_c`
            are then sums of weights, so that the mean of `w` times the values is the difference of
            weighted means, and weights that are the same within each class change nothing. Not for
            `multi_gpu`.

    Returns:
        `(B,)` values. A class absent from the batch contributes 0 to its half of the difference.

    Source: Serrurier et al., arXiv:2006.06520.
    """
    labels, scores = aligned(y_true, y_pred)
    if sample_weight is not None:
        sample_weight = ops.cast(sample_weight, scores.dtype)
    weights = labels if multi_gpu else balanced(positives(labels), sample_weight)
    return ops.mean(scores * weights, axis=-1)


def hinge_margin(y_true: Tensor, y_pred: Tensor, min_margin: float = 1.0) -> Tensor:
    """Hinge `mean_c relu(m/2 - s f)`: zero once every score is `m/2` on its side.

    Args:
        y_true: labels `(B,)`, `(B, 1)` or `(B, C)`; `s = +1` where they are positive, else -1.
        y_pred: scores `f`, of the same shape.
        min_margin: `m > 0`, the gap between the scores of the two classes.

    Returns:
        One value per sample, shape `(B,)`.

    Raises:
        ValueError: if the shapes differ, or `min_margin` is not positive and finite.

    Example:
        >>> values = lip.losses.hinge_margin(np.array([1.0, 0.0]), np.array([0.25, -3.0]))
        >>> print(np.asarray(values))
        [0.25 0.  ]
    """
    min_margin = parameter_or_tensor("min_margin", min_margin)
    labels, scores = aligned(y_true, y_pred)
    sign = 2 * positives(labels) - 1
    return ops.mean(ops.relu(min_margin / 2 - sign * scores), axis=-1)


def multiclass_hinge(
    y_true: Tensor, y_pred: Tensor, min_margin: float = 1.0, soft_hinge_tau: float = 0.0
) -> Tensor:
    """Hinge with the one positive class weighted as much as the `C - 1` negative ones.

    `mean_c w relu(m/2 - s f)` with `w = C - 1` on positives and 1 on negatives. With
    `soft_hinge_tau > 0`: `relu(m/2 - f_y) + sum_{j != y} p_j relu(m/2 + f_j)` where
    `p = softmax_{j != y}(soft_hinge_tau f)`, which looks at the most threatening classes.

    Args:
        y_true: one-hot labels `(B, C)`; positive entries are the class.
        y_pred: scores `f`, of the same shape.
        min_margin: `m > 0`, the gap between class logits.
        soft_hinge_tau: sharpness of the weights of the negatives; 0 for equal ones.

    Returns:
        One value per sample, shape `(B,)`.

    Raises:
        ValueError: with a single column, where the weight `C - 1` of the positives would be 0; if
            a parameter is out of range.

    Example:
        >>> y_true, y_pred = np.array([[1.0, 0.0, 0.0]]), np.array([[0.25, -1.0, 0.0]])
        >>> print(np.round(lip.losses.multiclass_hinge(y_true, y_pred), 4))  # (2 * 0.25 + 0.5) / 3
        [0.3333]
        >>> sharp = lip.losses.multiclass_hinge(y_true, y_pred, soft_hinge_tau=50.0)
        >>> print(np.round(sharp, 4))  # 0.25 + 0.5: of the others, the most threatening alone
        [0.75]
    """
    min_margin = parameter_or_tensor("min_margin", min_margin)
    soft_hinge_tau = parameter_or_tensor("soft_hinge_tau", soft_hinge_tau)
    labels, scores = aligned(y_true, y_pred)
    several_classes(scores, "`HingeMargin` or `HKR`")
    positive = positives(labels)
    hinges = ops.relu(min_margin / 2 - (2 * positive - 1) * scores)
    others = ops.cast(ops.shape(scores)[-1], scores.dtype) - 1
    plain = ops.mean(hinges * (1 + (others - 1) * positive), axis=-1)
    tau = ops.convert_to_tensor(soft_hinge_tau, dtype=scores.dtype)
    soft = ops.sum(hinges * _threats(scores, positive, tau), axis=-1)
    return ops.where(tau > 0, soft, plain)


def _threats(scores: Tensor, positive: Tensor, sharpness: Tensor) -> Tensor:
    """Returns weights 1 on positives and `softmax_{j != y}(sharpness f)` on negatives."""
    # finite, so that a row without negatives gives a softmax that is discarded, not NaN
    negatives = ops.softmax(ops.where(positive > 0, -1e30, sharpness * scores), axis=-1)
    return positive + (1 - positive) * negatives


def hinge_margin_auto(
    y_true: Tensor, y_pred: Tensor, margins: Tensor, alpha_margin: float = 0.1
) -> Tensor:
    """Hinge with a margin per output: `mean_c relu(theta_c/2 - s f) - alpha_margin sum_c theta_c`.

    The second term, the same for every sample, rewards large margins. `margins` has shape `(C,)`.
    """
    return hinge_margin(y_true, y_pred, margins) - alpha_margin * ops.sum(margins)


def multiclass_hinge_auto(
    y_true: Tensor,
    y_pred: Tensor,
    margins: Tensor,
    alpha_margin: float = 0.1,
    soft_hinge_tau: float = 0.0,
) -> Tensor:
    """`multiclass_hinge` with the margin `theta_y` of the true class, which it rewards.

    Minus `alpha_margin` times the mean of `theta_c` over the classes that the batch contains.
    Exactly one class per sample: the one with the largest label. `margins` has shape `(C,)`.
    """
    labels, scores = aligned(y_true, y_pred)
    true = ops.cast(true_class(labels), scores.dtype)
    margins = ops.cast(margins, scores.dtype)
    own = ops.sum(true * margins, axis=-1, keepdims=True)
    present = ops.max(true, axis=0, initial=0)  # of an empty batch: none
    present = replicas.somewhere(present)
    mean = ops.divide_no_nan(ops.sum(present * margins), ops.sum(present))
    return multiclass_hinge(true, scores, own, soft_hinge_tau) - alpha_margin * mean


def regularized(kr_value: Tensor, hinge: Tensor, alpha: float) -> Tensor:
    """Returns `-KR + alpha hinge`, and the hinge alone where `alpha` is infinite."""
    alpha = ops.convert_to_tensor(parameter_or_tensor("alpha", alpha), dtype=hinge.dtype)
    only_hinge = ops.isinf(alpha)
    # inf * 0 is NaN, so infinity never multiplies anything
    kr_weight = ops.where(only_hinge, ops.zeros_like(alpha), ops.ones_like(alpha))
    hinge_weight = ops.where(only_hinge, ops.ones_like(alpha), alpha)
    return hinge_weight * hinge - kr_weight * kr_value


def hkr(
    y_true: Tensor,
    y_pred: Tensor,
    alpha: float,
    min_margin: float = 1.0,
    multi_gpu: bool = False,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Hinge-regularised Kantorovich-Rubinstein: `-kr + alpha hinge_margin`.

    `alpha = inf` is the hinge alone, `alpha = 0` is exactly `-kr`. Source: arXiv:2006.06520.
    """
    hinge = hinge_margin(y_true, y_pred, min_margin)
    return regularized(kr(y_true, y_pred, multi_gpu, sample_weight), hinge, alpha)


def multiclass_hkr(
    y_true: Tensor,
    y_pred: Tensor,
    alpha: float = 10.0,
    min_margin: float = 1.0,
    multi_gpu: bool = False,
    soft_hinge_tau: float = 0.0,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Multiclass form: `-kr + alpha multiclass_hinge`, with the same meaning of `alpha`."""
    hinge = multiclass_hinge(y_true, y_pred, min_margin, soft_hinge_tau)
    return regularized(kr(y_true, y_pred, multi_gpu, sample_weight), hinge, alpha)


def multi_margin(y_true: Tensor, y_pred: Tensor, min_margin: float = 1.0) -> Tensor:
    """Multi-margin hinge `mean_c [c != y] relu(m - f_y + f_c)`: the full margin `m` to each class.

    Exactly one class per sample: the one with the largest label.
    """
    min_margin = parameter_or_tensor("min_margin", min_margin)
    labels, scores = aligned(y_true, y_pred)
    several_classes(scores, "`HingeMargin`")
    true = true_class(labels)
    gaps = ops.expand_dims(true_score(scores, true), -1) - scores
    hinges = ops.relu(min_margin - gaps)
    return ops.mean(ops.where(true, ops.zeros_like(hinges), hinges), axis=-1)


def categorical_margin(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Gap `f_y - max_{j != y} f_j` between the true class and the best other one.

    The true class is the one with the largest label, so smoothed labels are welcome.
    """
    labels, scores = aligned(y_true, y_pred)
    several_classes(scores, "the binary loss or metric")
    true = true_class(labels)
    others = ops.where(true, ops.full_like(scores, -math.inf), scores)
    # with an initial value, because an empty batch, as of one replica among several, has no maximum
    runner_up = ops.max(others, axis=-1, initial=-math.inf)
    return true_score(scores, true) - runner_up


def categorical_hinge(y_true: Tensor, y_pred: Tensor, min_margin: float = 1.0) -> Tensor:
    """Hinge `relu(m - (f_y - max_{j != y} f_j))` of the gap to the runner-up: the full margin."""
    min_margin = parameter_or_tensor("min_margin", min_margin)
    return ops.relu(min_margin - categorical_margin(y_true, y_pred))


def lse_hkr(
    y_true: Tensor,
    y_pred: Tensor,
    alpha: float = math.inf,
    temperature: float = 1.0,
    penalty: float = 1.0,
    min_margin: float = 1.0,
) -> Tensor:
    """HKR of the true score against a smooth maximum of the others; no batch statistics.

    With `z = temperature f`, `t = log(C - 1) / (penalty m/2)` and
    `l = logsumexp_{j != y}(t z_j) / t`, which lies in `[max, max + penalty m/2]`:
    `-(z_y - l) + alpha (relu(m/2 - z_y) + relu(m/2 + l))`. With two classes `l` is the other score.
    """
    labels, scores = aligned(y_true, y_pred)
    several_classes(scores, "`HKR`")
    scores = temperature * scores
    true = true_class(labels)
    others = ops.cast(ops.shape(scores)[-1] - 1, scores.dtype)
    # with a single other class every sharpness gives that score; log(1) = 0 would divide by zero
    sharpness = ops.log(ops.maximum(others, 2.0)) / (penalty * min_margin / 2)
    hidden = ops.where(true, ops.full_like(scores, -math.inf), sharpness * scores)
    rival = ops.logsumexp(hidden, axis=-1) / sharpness
    own = true_score(scores, true)
    half = min_margin / 2
    return regularized(own - rival, ops.relu(half - own) + ops.relu(half + rival), alpha)


def soft_sharpness(running_mean: Tensor, temperature: float, min_margin: float) -> Tensor:
    """Sharpness `clip(temperature m / clip(mu, m, 20000), .005, 250)` of `multiclass_soft_hkr`.

    `mu` is the running mean of `|f|`: as the scores grow, the softmax keeps its contrast.
    """
    typical = ops.clip(running_mean, min_margin, 20000.0)
    return ops.stop_gradient(ops.clip(temperature * min_margin / typical, 0.005, 250.0))


def multiclass_soft_hkr(
    y_true: Tensor,
    y_pred: Tensor,
    sharpness: Tensor,
    alpha: float = 10.0,
    min_margin: float = 1.0,
) -> Tensor:
    """`sum_c w (relu(m/2 - s f) - s f / alpha)`, `w = 1` for the true class, softmax elsewhere.

    `w_j = softmax_{j != y}(sharpness f)` looks at the most threatening classes. The hinge has
    weight 1 here and the other term `1 / alpha`; `alpha = inf` is the hinge alone.
    """
    labels, scores = aligned(y_true, y_pred)
    several_classes(scores, "`HKR`")
    positive = positives(labels)
    signed = (2 * positive - 1) * scores
    weights = _threats(scores, positive, sharpness)
    terms = ops.relu(min_margin / 2 - signed) - signed / alpha
    return ops.sum(weights * terms, axis=-1)


def alpha_from_torchlip(alpha: float) -> float:
    """Translates deel-torchlip's `alpha` in [0, 1] into this library's, in [0, inf].

    deel-torchlip minimises `(1 - a)(-KR) + a hinge`, this library `-KR + alpha hinge`, so
    `alpha = a / (1 - a)` and the losses differ by the factor `1 - a` only; `a = 1` gives infinity,
    the hinge alone in both.

    Args:
        alpha: deel-torchlip's, the weight of the hinge.

    Returns:
        The `alpha` of this library, a Python float in [0, inf].

    Raises:
        TypeError: if `alpha` is not a number.
        ValueError: if `alpha` is outside [0, 1].

    Example:
        >>> [lip.losses.alpha_from_torchlip(a) for a in (0.0, 0.5, 0.75, 1.0)]
        [0.0, 1.0, 3.0, inf]
    """
    rule = (
        "in [0, 1], the convention of deel-torchlip (a larger value is in this library's already)"
    )
    alpha = number("alpha", alpha, Rule(lambda value: 0 <= value <= 1, rule))
    return math.inf if alpha == 1 else alpha / (1 - alpha)
