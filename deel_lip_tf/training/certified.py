"""A plain model that is trained to be verified: a part of the loss is that of the worst case."""

import math
from typing import Any

import keras
from keras import ops

from deel_lip_tf._keras import float32_at_least
from deel_lip_tf._registration import register
from deel_lip_tf._validation.labels import class_mask
from deel_lip_tf._validation.models import check_instance
from deel_lip_tf._validation.scalars import POSITIVE, number, whole_number
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.training.arrays import KerasOps
from deel_lip_tf.training.attack import ascended
from deel_lip_tf.training.bounds import followed_program, intervals, margins
from deel_lip_tf.training.schedules import Schedule, checked, value_at

Tensor = Any


@register
class CertifiedModel(keras.Model):
    """Trains a plain classifier so that `deel_lip_tf.verify` can prove it, in L-infinity balls.

    The loss that it is compiled with is taken twice, at what the model returns and at the worst
    logits that bounds of the ball around each sample allow:

        kappa * loss(y, model(x)) + (1 - kappa) * loss(y, worst)
        worst_j = -(lower bound of logit_y - logit_j)

    and `worst_y = 0`. The bounds are those of interval propagation (IBP), or with the share `beta`
    those of linear functions backward (CROWN-IBP), and have gradients. With `attack_steps` the
    first loss is taken at an adversarial point of the ball (MTL-IBP, an expressive loss:
    `1 - kappa` is what its authors call alpha).

    `model` stays what it is: an ordinary Keras model, trained in place. Save, export and verify
    that one. The bounds are those of the model at inference: of `BatchNormalization` the moving
    statistics count and dropout does not, while the first loss is that of training. They are
    rounded to nearest in the type of the variables, which trains and proves nothing; the proof is
    `verify.robustness(model, domain)`.

    `fit` and `evaluate` also report `verified_accuracy`: the share of samples, weighted where they
    have weights, whose label the bounds keep in the ball, of radius `epsilon` in `evaluate`, and of
    the radius of the step in `fit`. Labels of a single output are 0 and 1, smoothed or not, or -1
    and 1.

    Args:
        model: a built Sequential or functional classifier with one input and one output, of
            layers that `verify` knows and that keep no weights besides kernels, biases and batch
            statistics. A softmax at its end, or the sigmoid of a single output, is applied to the
            worst logits, too.
        epsilon: the radius, in the units of the input of `model`.
        growth: the share of the radius that is trained, a number between 0 and 1 or a schedule
            of them by steps (`Ramp` or one of `keras.optimizers.schedules`); 1 by default. Networks
            learn nothing where it does not begin at 0.
        kappa: the share of the first loss, a number or a schedule; 0.5 by default.
        beta: the share of CROWN-IBP in the bounds, a number or a schedule. It costs one backward
            pass for each class; 0, the default, leaves it out.
        attack_steps: gradient steps towards an adversarial point, from a random one; 0 by
            default: none, and the first loss is that of the samples.
        clip: the smallest and the largest input, `(0, 1)` for images: balls are cut there. None,
            the default, for inputs of any size.
        **kwargs: of `keras.Model`, as `name`.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: an argument out of its range, or layers without a rule: all of them are named.

    Example:
        >>> keras.utils.set_random_seed(0)
        >>> x, y = np.array([[-1.0, 0.0], [1.0, 0.0]] * 64, "float32"), np.array([0, 1] * 64)
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((2,)), dense(8, "relu"), dense(2)])
        >>> certified = lip.training.CertifiedModel(model, 0.5, growth=lip.training.Ramp(0, 1, 40))
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> certified.compile(keras.optimizers.Adam(0.02), loss)
        >>> _ = certified.fit(x, y, epochs=20, verbose=0)
        >>> print(certified.evaluate(x, y, verbose=0, return_dict=True)["verified_accuracy"])
        1.0
        >>> print(lip.verify.robustness(model, x[:2], y[:2], 0.5, clip=None).status)
        ['robust' 'robust']

    Source: Gowal et al., 2018, arXiv:1810.12715 (IBP); Zhang et al., 2020, arXiv:1906.06316
    (CROWN-IBP); De Palma et al., 2024, arXiv:2305.13991 (MTL-IBP).
    """

    def __init__(
        self,
        model: keras.Model,
        epsilon: float,
        growth: float | Schedule = 1.0,
        kappa: float | Schedule = 0.5,
        beta: float | Schedule = 0.0,
        attack_steps: int = 0,
        clip: tuple[float, float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_instance("model", model, keras.Model, "a Keras model")
        self._program: Program = followed_program(model)
        self.model = model
        self.epsilon = number("epsilon", epsilon, POSITIVE)
        self.growth = checked("growth", growth)
        self.kappa = checked("kappa", kappa)
        self.beta = checked("beta", beta)
        self.attack_steps = whole_number("attack_steps", attack_steps, least=0)
        self.clip = _checked_range(clip)
        self.verified_accuracy = keras.metrics.Mean("verified_accuracy")
        # Its own, because a file of weights alone has none of the optimizer.
        self.steps = self.add_weight(
            (), "zeros", "int32", trainable=False, name="steps", aggregation="only_first_replica"
        )
        self._draws = keras.random.SeedGenerator() if self.attack_steps else None
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """What the model returns."""
        return self.model(inputs, training=training)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """The loss of a batch; in training a step of the schedules is made."""
        step = ops.convert_to_tensor(self.steps)
        lower, upper = self._box(x, value_at(self.growth, step) if training else 1.0)
        true = self._true_class(y)
        bounds = self._margins(lower, upper, true, value_at(self.beta, step), training)
        self.verified_accuracy.update_state(self._is_verified(bounds, true), sample_weight)
        if training:
            self.steps.assign_add(1)
            if self.attack_steps:
                attacked = self._attacked(lower, upper, y, sample_weight)
                y_pred = self.model(attacked, training=True)
        kappa = value_at(self.kappa, step)
        natural = super().compute_loss(x, y, y_pred, sample_weight, training)
        robust = super().compute_loss(x, y, self._worst(bounds, true), sample_weight, training)
        return kappa * natural + (1.0 - kappa) * robust

    def _box(self, x: Tensor, share: Any) -> tuple[Tensor, Tensor]:
        x = ops.cast(x, self._dtype)
        radius = ops.cast(self.epsilon * share, self._dtype)
        lower, upper = x - radius, x + radius
        if self.clip is not None:
            # A sample that lies outside stays in its ball.
            lower = ops.minimum(ops.maximum(lower, self.clip[0]), x)
            upper = ops.maximum(ops.minimum(upper, self.clip[1]), x)
        return lower, upper

    @property
    def _dtype(self) -> str:
        return float32_at_least(self.model.variable_dtype)

    def _true_class(self, y: Tensor) -> Tensor:
        """Where the true class is, (batch, classes); of a single output 1 or -1, (batch, 1)."""
        y = ops.convert_to_tensor(y)
        y = ops.reshape(y, (-1, 1)) if len(y.shape) == 1 else y
        if self._program.outputs == 1:
            # 0 and 1, smoothed or not, or -1 and 1; what is no number has no class.
            y = ops.cast(y, self._dtype)
            return ops.where(y > 0.5, 1.0, ops.where(y <= 0.5, -1.0, math.nan))
        return ops.cast(class_mask(y, self._program.outputs), self._dtype)

    def _is_verified(self, bounds: Tensor, true: Tensor) -> Tensor:
        """(batch,) whether all margins are positive but that of the class itself, which is 0."""
        if self._program.outputs == 1:
            return bounds[:, 0] > 0.0
        is_own = true > 0.0
        wins = ops.all(ops.logical_or(bounds > 0.0, is_own), axis=-1)
        return ops.logical_and(wins, ops.any(is_own, axis=-1))  # a label that is no class has none

    def _margins(
        self, lower: Tensor, upper: Tensor, true: Tensor, beta: Any, training: bool
    ) -> Tensor:
        """(batch, classes) lower bounds of the logit of the label minus each logit."""
        arrays, program = KerasOps(self._dtype), self._program
        if program.outputs == 1:
            objectives = ops.cast(true, self._dtype)[..., None]
        else:
            others = ops.eye(program.outputs, dtype=self._dtype)
            objectives = true[:, None, :] - others[None]
        found = intervals(program, arrays, lower, upper)
        by_intervals = margins(program, arrays, found, objectives)
        if isinstance(beta, float) and beta == 0.0:
            return by_intervals

        def by_lines() -> Tensor:
            return margins(program, arrays, found, objectives, is_relaxed=True)

        if not training:  # both hold
            return ops.maximum(by_intervals, by_lines())
        return (1.0 - beta) * by_intervals + beta * by_lines()

    def _worst(self, bounds: Tensor, true: Tensor) -> Tensor:
        """The outputs that the loss is taken at."""
        logits = true * bounds if self._program.outputs == 1 else -bounds
        return keras.activations.get(self._program.dropped)(logits)

    def _attacked(self, lower: Tensor, upper: Tensor, y: Tensor, sample_weight: Tensor) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            outputs = self.model(x, training=False)
            return super(CertifiedModel, self).compute_loss(x, y, outputs, sample_weight)

        draws = keras.random.uniform(ops.shape(lower), dtype=self._dtype, seed=self._draws)
        start = lower + draws * (upper - lower)
        return ascended(loss, start, lower, upper, self.attack_steps)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        described = keras.saving.serialize_keras_object
        parts = {name: getattr(self, name) for name in ("model", "growth", "kappa", "beta")}
        return {
            "name": self.name,
            "epsilon": self.epsilon,
            "attack_steps": self.attack_steps,
            "clip": None if self.clip is None else list(self.clip),
            **{
                name: part if isinstance(part, float) else described(part)
                for name, part in parts.items()
            },
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "CertifiedModel":
        """The model of a configuration, its inner model included."""
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects)
        return cls(**{**config, "model": model})


def _checked_range(clip: Any) -> tuple[float, float] | None:
    if clip is None:
        return None
    try:
        lowest, highest = map(float, clip)
    except (TypeError, ValueError):
        lowest = highest = math.nan
    if not lowest < highest:
        raise ValueError(
            "`clip` must be the smallest and the largest input, the smaller one first, or None. "
            f"Received: clip={clip!r}."
        )
    return lowest, highest
