"""Certificates as metrics: what `fit` and `evaluate` can report about a model they watch.

Each metric proves, at every evaluation, the constants of its model as it then is: the bound of the
network, and for a linear head the norms of the differences of its columns (see
`certificates.margin_lipschitz_constants`, rounded upward to the metric's dtype; what it does to the
last convolution takes too long here, so that `certify` may prove a little more). The logits
are those of the forward pass with the rounding of its dtype; `certify` bounds that rounding too.

The constants are variables, assigned from Python where an evaluation begins: in `reset_state`,
which Keras calls there, and where a step is traced or the first batch arrives, because Keras does
not reset metrics it has not used yet. An XLA-compiled step reads them like any other state. During
training (the value without `val_`) they are those of the first batch of the epoch, while the
weights move on: read that number as an indication, not as a proof. What is proven of a model holds
for all its metrics as long as its weights and arguments are what they were: an epoch of `fit` with
validation costs one call of `bounds.lipschitz_bound`, however many metrics and radii there are.
"""

import weakref
from typing import Any

import keras
import numpy as np
from keras import ops

from deel_lip_tf._keras import float32_at_least
from deel_lip_tf._registration import register
from deel_lip_tf._validation.arrays import weight_per_sample
from deel_lip_tf._validation.scalars import NOT_NEGATIVE, number
from deel_lip_tf.certificates.fingerprints import model_fingerprint
from deel_lip_tf.certificates.proofs import prove
from deel_lip_tf.losses.tracing import is_traced_by_jax, outside_of_graphs
from deel_lip_tf.metrics.provable import classified, signed_scores

_PROVEN: "weakref.WeakKeyDictionary[keras.Model, tuple]" = weakref.WeakKeyDictionary()
"""The fingerprint of each model that something was proven of last, and what."""


def _proven_once(model: keras.Model) -> np.ndarray:
    """`margin_lipschitz_constants` of the model as it is, proven again where it has changed.

    What takes a second is left out: weights behind a convolution (`bounds.gaps`).

    Raises:
        TypeError, ValueError: as `margin_lipschitz_constants`.
    """
    known = _PROVEN.get(model) if isinstance(model, keras.Model) else None
    if known is not None and known[0] == model_fingerprint(model):
        return known[1]
    divisors = prove(model, is_thorough=False).divisors
    _PROVEN[model] = model_fingerprint(model), divisors
    return divisors


class _Certified(keras.metrics.Mean):
    """Mean over samples of a function of their certified radius."""

    def __init__(self, model: keras.Model | None, name: str, dtype: Any):
        if not isinstance(name, str):
            raise TypeError(
                "`name` must be a string: constants are proven at each evaluation, so that none is "
                f"taken as an argument. Received: name={name!r}."
            )
        super().__init__(name=name, dtype=dtype)
        # weak: a metric must not keep its model alive, nor lead Keras's saving in a circle
        self._model: weakref.ref | None = None
        if model is not None:
            self.attach(model)

    def attach(self, model: keras.Model) -> None:
        """Sets the model, unless there is one; `compile` of this library's models does so.

        Raises:
            ValueError, TypeError: as `certificates.certify`, if the model has no proven bound or
                another number of outputs than this metric is for.
        """
        if self._model is None:
            divisors = self._proven_divisors(model)
            # identical on all replicas: a sum over them would shrink the radii
            self.divisors = self.add_variable(
                divisors.shape,
                "zeros",
                float32_at_least(self.dtype),
                aggregation="mean",
                name="divisors",
            )
            self._model = weakref.ref(model)
        self.reset_state()

    def reset_state(self) -> None:
        """Empties the sums and proves the constants of the model as it is now."""
        super().reset_state()
        self._prove()

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Adds a batch; `sample_weight` has shape `(B,)` or `(B, 1)`."""
        if self._model is None:
            raise ValueError(
                f"The metric {self.name!r} has no model to certify: create it by "
                f"`{type(self).__name__}(model)`. A model of this library gives itself to the "
                "metrics it is loaded with; compile another one again after loading."
            )
        if self._may_be_stale(y_pred):
            self._prove()
        weights = weight_per_sample(sample_weight, y_pred)
        super().update_state(self._values(y_true, y_pred), weights)

    def _values(self, y_true, y_pred):
        """`(B,)` values to average."""
        return self._certified(y_true, y_pred)[0]

    def _certified(self, y_true, y_pred) -> tuple:
        """`(B,)` certified radii, 0 where the prediction is wrong, and `(B,)` whether it is right.

        Both as `certificates.certify`; a row of scores that are not finite is wrong.
        """
        if self.divisors.shape[-1] == 1:
            signed = signed_scores(y_true, y_pred)[:, 0]
            is_finite = ops.all(ops.isfinite(_columns(y_pred)), axis=-1)
            positive = ops.greater(_columns(y_true)[:, 0], 0)
            right = ops.equal(ops.greater(_columns(y_pred)[:, 0], 0), positive)
            return _ratio(signed, self.divisors[0, 0]), ops.logical_and(right, is_finite)
        labels, scores, valid = classified(y_true, y_pred)
        true = ops.argmax(labels, axis=-1)
        own = ops.take_along_axis(scores, ops.expand_dims(true, -1), axis=-1)
        radii = _ratio(own - scores, ops.take(self.divisors, true, axis=0))
        classes = ops.arange(ops.shape(scores)[-1], dtype=true.dtype)
        rivals = ops.not_equal(classes, ops.expand_dims(true, -1))
        radius = ops.min(ops.where(rivals, radii, np.inf), axis=-1)
        right = ops.logical_and(valid, ops.equal(ops.argmax(scores, axis=-1), true))
        return ops.where(valid, radius, 0.0), right

    def _proven_divisors(self, model: keras.Model) -> np.ndarray:
        if isinstance(model, keras.Model) and not model.built:
            raise ValueError(
                "`model` must be built: begin it with an `Input`, or call it once before. "
                f"Received: model {model.name!r}, which is not."
            )
        divisors = _proven_once(model)
        self._check_outputs(len(divisors))
        return divisors

    def _check_outputs(self, outputs: int) -> None:
        """Raises a `ValueError` if the metric is not for this number of outputs."""

    def _prove(self) -> None:
        if self._model is None:
            return
        model = self._model()
        if model is None:
            raise ValueError(
                f"The model of the metric {self.name!r} is gone: keep a reference to it."
            )
        with outside_of_graphs():
            self.divisors.assign(_upward(self._proven_divisors(model), self.divisors.dtype))

    def _may_be_stale(self, y_pred) -> bool:
        """Whether Keras may not have called `reset_state` before this batch."""
        if keras.config.backend() == "tensorflow" and not _runs_eagerly():
            return True  # this is a trace: rare, and the weights have their values
        if is_traced_by_jax(y_pred):
            return False  # no weight has a value, and the trainer has reset every metric before
        return float(ops.convert_to_numpy(self.count)) == 0


def _runs_eagerly() -> bool:
    import tensorflow as tf

    return tf.executing_eagerly()


def _upward(values: np.ndarray, dtype: str) -> np.ndarray:
    rounded = values.astype(dtype)
    return np.where(rounded < values, np.nextafter(rounded, np.inf, dtype=dtype), rounded)


def _columns(tensor):
    """`(B, 1)` from `(B,)` or `(B, 1)`."""
    return ops.reshape(ops.convert_to_tensor(tensor), (-1, 1))


def _ratio(gap, divisor):
    # in the wider type of the two: a divisor that is rounded again may end below the proven one
    wide = float32_at_least(gap.dtype, divisor.dtype)
    gap, divisor = ops.cast(gap, wide), ops.cast(divisor, wide)
    # 0 / 0, of two outputs that are always equal, certifies nothing
    return ops.where(ops.greater(gap, 0), gap / divisor, 0.0)


@register
class Certificate_Multiclass(_Certified):
    """Mean certified L2 radius of a classifier, in units of the model's input.

    A misclassified sample counts 0, another one
    `min_{j != y} (f_y - f_j) / min(K ||w_y - w_j||, sqrt(2) L)`, with the proven constant `L` of
    the model and, for a linear head of columns `w`, the proven constant `K` of what is before it:
    see `certificates.certify`. The constants are those of the model at each evaluation.

    Labels: class indices `(B,)` or `(B, 1)`, or `(B, C)` whose largest entry, which must be
    positive, is the true class.

    Args:
        model: a built Sequential or functional model with one output of shape (batch, classes). It
            is not stored with the metric: a loaded model of this library gives itself to it.
        name: name under which the value is reported, with `val_` before it in validation.
        dtype: dtype of the accumulators; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if the model is not built, has a layer without bound (all are named), does not
            return logits, or has another kind of output.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> metric = lip.certificate_metrics.Certificate_Multiclass(model)
        >>> x = np.array([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> metric.update_state([0, 1, 1], model(x))
        >>> round(float(metric.result()), 4)  # the third is wrong: (3 + 1 + 0) / sqrt(2) / 3
        0.9428

    Source: Tsuzuku et al., arXiv:1802.04034; the metric of deel-lip's notebooks, which trusted
    `k_coef_lip` and kept the head it was constructed with.
    """

    def __init__(
        self,
        model: keras.Model | None = None,
        name: str = "Certificate_Multiclass",
        dtype: Any = None,
    ):
        super().__init__(model, name, dtype)

    def _check_outputs(self, outputs: int) -> None:
        if outputs == 1:
            raise ValueError(
                "`model` must have at least two outputs: use `Certificate_Binary` for one. "
                "Received: a model with 1 output."
            )


@register
class Certificate_Binary(_Certified):
    """Mean certified L2 radius of a binary classifier `f > 0`, in units of the model's input.

    A misclassified sample counts 0, another one `|f| / min(K ||w||, L)`, see
    `Certificate_Multiclass`. Labels `(B,)` or `(B, 1)`, positive or not.

    Args:
        model: a built Sequential or functional model with one output of shape (batch, 1). It is
            not stored with the metric: a loaded model of this library gives itself to it.
        name: name under which the value is reported, with `val_` before it in validation.
        dtype: dtype of the accumulators; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if the model is not built, has a layer without bound (all are named), does not
            return logits, or has another kind of output.

    Example:
        >>> dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(2.0))
        >>> model = keras.Sequential([keras.Input((1,)), dense])
        >>> metric = lip.certificate_metrics.Certificate_Binary(model)
        >>> metric.update_state([1, -1, 1], model(np.array([[3.0], [-1.0], [-5.0]])))
        >>> round(float(metric.result()), 4)  # the third is wrong: (3 + 1 + 0) / 3
        1.3333
    """

    def __init__(
        self,
        model: keras.Model | None = None,
        name: str = "Certificate_Binary",
        dtype: Any = None,
    ):
        super().__init__(model, name, dtype)

    def _check_outputs(self, outputs: int) -> None:
        if outputs != 1:
            raise ValueError(
                "`model` must have one output: use `Certificate_Multiclass` for several. "
                f"Received: a model with {outputs} outputs."
            )


@register
class CertifiedRobustAccuracy(_Certified):
    """Share of samples classified correctly with a certified L2 radius of at least `radius`.

    As `certify(model, x, y).certified_accuracy(radius)`: at radius 0 it is the accuracy. One output
    or several.

    Args:
        model: a built Sequential or functional model with one output of shape (batch, classes) or
            (batch, 1) that holds logits. It is not stored with the metric: a loaded model of this
            library gives itself to it.
        radius: in units of the model's input, at least 0; 36 / 255 by default.
        name: name under which the value is reported, with `val_` before it in validation.
        dtype: dtype of the accumulators; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if the model is not built, has a layer without bound (all are named), does not
            return logits, or has another kind of output; if `radius` is negative or not finite.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> metric = lip.certificate_metrics.CertifiedRobustAccuracy(model, radius=1.0)
        >>> x = np.array([[3.0, 0.0], [0.0, 1.0]])
        >>> metric.update_state([0, 1], model(x))  # certified radii 2.12 and 0.71
        >>> float(metric.result())
        0.5
        >>> Metric = lip.metrics.CertifiedRobustAccuracy
        >>> model = lip.Sequential([keras.Input((2,)), lip.layers.SpectralDense(2)])
        >>> at = [Metric(radius=r, name=f"certified_{r}") for r in (0.1, 0.5, 2.0)]
        >>> model.compile(loss=lip.losses.OffsetCrossentropy(), metrics=at)  # they share one proof
        >>> scores = model.evaluate(x, np.array([0, 1]), verbose=0, return_dict=True)
        >>> scores["certified_0.1"] >= scores["certified_0.5"] >= scores["certified_2.0"]
        True
    """

    def __init__(
        self,
        model: keras.Model | None = None,
        radius: float = 36 / 255,
        name: str = "CertifiedRobustAccuracy",
        dtype: Any = None,
    ):
        self.radius = number("radius", radius, NOT_NEGATIVE)
        super().__init__(model, name, dtype)

    def _values(self, y_true, y_pred):
        radius, right = self._certified(y_true, y_pred)
        return ops.logical_and(right, ops.greater_equal(radius, self.radius))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments but the model."""
        return {**super().get_config(), "radius": self.radius}
