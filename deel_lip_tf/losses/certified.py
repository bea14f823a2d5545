"""Losses that look at what a ball around each sample can do: the radius and the constants enter."""

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.losses import formulas
from deel_lip_tf.losses.base import ParametricLoss

MEASURED = "measured"


class _OfGaps(ParametricLoss):
    """Base of losses that need Lipschitz constants of the gaps between logits."""

    def __init__(self, name, reduction, dtype, lipschitz: float | str, **parameters: Any):
        is_measured = isinstance(lipschitz, str) and lipschitz == MEASURED
        numbers: dict[str, Any] = {} if is_measured else {"lipschitz": lipschitz}
        super().__init__(name, reduction, dtype, **parameters, **numbers)
        self._measure: Callable[[], Any] | None = None
        if is_measured:
            self.lipschitz = MEASURED

    def attach(self, measure: Callable[[], Any]) -> None:
        """Sets what measures the constants; `compile` of this library's models does so.

        Args:
            measure: called in each step without arguments, where `lipschitz` is "measured". Returns
                a tensor `(C, C)`, the Lipschitz constants of the gaps `f_i - f_j` of the logits, or
                one for all, `()`, through which gradients flow to the weights: for a plain Keras
                model `lambda: deel_lip_tf.model.gap_constants(model)`.
        """
        self._measure = measure

    def _divisors(self) -> Any:
        if not isinstance(self.lipschitz, str):
            # two logits of jointly L-Lipschitz ones differ by sqrt(2) L at most per unit
            return math.sqrt(2.0) * ops.convert_to_tensor(self.lipschitz)
        if self._measure is None:
            raise ValueError(
                f"{self.name!r} measures the Lipschitz constants of a model, and has none: compile "
                "it in a model of this library, e.g. `deel_lip_tf.Sequential`; or give it a "
                "measure, by `loss.attach(lambda: deel_lip_tf.model.gap_constants(model))`; or "
                f"give `lipschitz` a number. Received: lipschitz={MEASURED!r}."
            )
        return self._measure()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments: floats and strings."""
        return {"lipschitz": self.lipschitz, **super().get_config()}


@register
class EMMA(_OfGaps):
    """Cross-entropy of the logits that the worst point of a ball could have, all classes at once.

    Every other class `j` is raised by what it may gain on the true class `y` within `radius`, but
    at most to the true logit: `z_j = f_j - f_y + r_j radius D_yj`, where
    `r_j = clip((f_y - f_j) / (radius D_yj), 0.01, 1)` and `D_ij` is a Lipschitz constant of the
    gap `f_i - f_j`; the loss is the cross-entropy of `z`. Of a certified sample every `r_j` is 1
    and every `z_j` negative; what is nearer ties with the true logit, `z_j = 0`. No gradient is
    taken of `r`, but all of it of `D`: with measured constants, training makes the network's
    constant smaller where that pays.

    With `offset`, `temperature` and `beta` it is `LogitAnnealing` of `z`: BRONet's loss is
    `EMMA(radius, offset=2.0, temperature=0.75, beta=5.0)`.

    The radius is meant to grow while training, e.g. from 0.1 to 3 times the radius of interest in
    the first half: `LossParamScheduler("radius", fp=[0.1 * r, 3 * r], xp=[0, steps / 2])`.

    Labels: class indices `(B,)` or `(B, 1)`, or one-hot rows `(B, C)` of any coding, of which the
    largest entry is taken. Scores: logits `(B, C)`, `C >= 2`. An index that is no class makes the
    loss NaN.

    Args:
        radius: of the ball, in the units of the model's input: finite, at least 0.
        lipschitz: the L2 Lipschitz constant of the network, logits together, as a number: 1 for
            networks that are 1-Lipschitz by construction. The gap of two logits then has the
            constant `sqrt(2) lipschitz`. Or "measured": the constant of each gap, with the columns
            of a dense head, in each step, from the weights as they are, by `model.gap_constants`,
            which says what it costs. The model is the one that the loss was compiled in last.
        offset: what is taken from the true logit besides: finite, at least 0.
        temperature: `T` of the cross-entropy, positive and finite.
        beta: exponent of the annealing, finite and at least 0: none.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number.
        ValueError: if a parameter is out of range, the scores have a single column, or there is
            nothing to measure the constants of.

    Example:
        >>> y_true, y_pred = np.array([0, 0]), np.array([[3.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
        >>> loss = lip.losses.EMMA(radius=1.0, reduction=None)  # a lead of sqrt(2) is certified
        >>> print(np.round(loss(y_true, y_pred), 4))  # what is out of reach by .5, and ties
        [0.3433 1.0986]
        >>> model = lip.Sequential([keras.Input((2,)), lip.layers.FrobeniusDense(2)])
        >>> loss = lip.losses.EMMA(radius=0.1, lipschitz="measured")
        >>> model.compile(keras.optimizers.SGD(0.5), loss, run_eagerly=True)
        >>> schedule = lip.callbacks.LossParamScheduler("radius", fp=[0.1, 0.5], xp=[0, 8])
        >>> history = model.fit(np.eye(2), np.array([0, 1]), epochs=9, callbacks=[schedule],
        ...                     verbose=0)
        >>> float(loss.radius)
        0.5

    Source: Hu et al., arXiv:2301.12549, and the published code; with annealing Lai et al.,
    arXiv:2505.15174.
    """

    def __init__(
        self,
        radius: float,
        lipschitz: float | str = 1.0,
        offset: float = 0.0,
        temperature: float = 1.0,
        beta: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "EMMA",
        *,
        dtype: Any = None,
    ):
        super().__init__(
            name,
            reduction,
            dtype,
            lipschitz,
            radius=radius,
            offset=offset,
            temperature=temperature,
            beta=beta,
        )

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.emma(
            y_true,
            y_pred,
            self.radius,
            self._divisors(),
            self.offset,
            self.temperature,
            self.beta,
        )


@register
class GloRo(_OfGaps):
    """Cross-entropy with one more class, which wins wherever a prediction is not certified.

    That class has the logit `b = max_{j != c}(f_j + radius D_cj)`, with `c` the predicted class
    and `D_ij` a Lipschitz constant of the gap `f_i - f_j`: `b` is below `f_c` exactly where `c` is
    certified at `radius`. The loss is `-log softmax_y([f, b])`, or with `trades`
    `-log softmax_y(f) + trades KL(softmax(f) || softmax([f, b]))`, which asks for certificates of
    the predictions, right or wrong; with the weight 1 it is the first form again. Gradients flow
    through `D`.

    Labels: class indices `(B,)` or `(B, 1)`, or one-hot rows `(B, C)` of any coding, of which the
    largest entry is taken. Scores: logits `(B, C)`, `C >= 2`; the network needs no further output.
    An index that is no class makes the loss NaN.

    Args:
        radius: of the ball, in the units of the model's input: finite, at least 0. A callback may
            let it grow: `LossParamScheduler("radius", ...)`.
        lipschitz: the L2 Lipschitz constant of the network, logits together, as a number: 1 for
            networks that are 1-Lipschitz by construction. The gap of two logits then has the
            constant `sqrt(2) lipschitz`. Or "measured": as for `EMMA`.
        trades: weight of the divergence, finite and at least 0, or `None`, the default, for the
            cross-entropy with the additional class.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number.
        ValueError: if a parameter is out of range, the scores have a single column, or there is
            nothing to measure the constants of.

    Example:
        >>> loss = lip.losses.GloRo(radius=1.0, reduction=None)
        >>> scores = np.array([[3.0, 0.0, 0.0], [0.5, 0.0, 0.0]])  # a lead of sqrt(2) is certified
        >>> print(np.round(loss(np.array([0, 0]), scores), 4))
        [0.2657 1.5492]

    Source: Leino et al., arXiv:2102.08452; the form with `trades` is that of the published code.
    """

    def __init__(
        self,
        radius: float,
        lipschitz: float | str = 1.0,
        trades: float | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "GloRo",
        *,
        dtype: Any = None,
    ):
        weights = {} if trades is None else {"trades": trades}
        super().__init__(name, reduction, dtype, lipschitz, radius=radius, **weights)
        if trades is None:
            self.trades = None

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.gloro(y_true, y_pred, self.radius, self._divisors(), self.trades)
