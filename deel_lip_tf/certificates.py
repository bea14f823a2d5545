"""From logits and bounds to certified radii."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from deel_lip_tf.bounds.evaluation import ExactModel
from deel_lip_tf.bounds.graph import GraphWalk, symbolic_tensors
from deel_lip_tf.bounds.layers import kernel_of
from deel_lip_tf.bounds.rounding import gamma, norm_up, product_up, sqrt_up

__all__ = ["Certificates", "certify"]

_PROBABILITIES = ("softmax", "sigmoid", "log_softmax", "log_sigmoid", "hard_sigmoid", "sparsemax")
_RADII = (0.0, 36 / 255, 72 / 255, 108 / 255, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Certificates:
    """Certified radii of n samples.

    Attributes:
        label: (n,) predicted class; for one output 0 or 1, or -1 or 1 where `y` is so encoded.
        radius: (n,) float64, in units of the model's input: no input at a distance of at most
            `radius` in the L2 norm has another label. 0 where nothing is certified.
        margin: (n,) float64, the largest logit minus the second, or `|f|` for one output.
        bound: proven L2 Lipschitz constant of the model.
        correct: (n,) whether `label` is the true one, or None where `y` was not given.
    """

    label: np.ndarray
    radius: np.ndarray
    margin: np.ndarray
    bound: float
    correct: np.ndarray | None = None

    def certified_accuracy(self, radii: float | Sequence[float]) -> np.ndarray:
        """Share of samples that are correct and certified at each radius; shape of `radii`.

        At radius 0 this is the accuracy. Without `y`, every label counts as correct.
        """
        correct = np.ones(len(self.label), bool) if self.correct is None else self.correct
        radii = np.asarray(radii, dtype=np.float64)
        return (correct & (self.radius >= radii[..., None])).mean(axis=-1)

    def summary(self, radii: Sequence[float] = _RADII) -> str:
        """A table of the certified accuracy at some radii."""
        name = "certified share" if self.correct is None else "certified accuracy"
        lines = [f"{len(self.label)} samples, Lipschitz constant at most {self.bound:.6g}"]
        lines.append(f"{'radius':>10}  {name}")
        shares = zip(sorted(radii), self.certified_accuracy(sorted(radii)), strict=True)
        lines += [f"{radius:>10.4f}  {share:>{len(name)}.2%}" for radius, share in shares]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()


def certify(model: keras.Model, x, y=None, batch_size: int = 256) -> Certificates:
    """Certifies the predictions of a classifier against L2 perturbations.

    With logits f, a linear head of columns w_j over a K-Lipschitz backbone, and L the constant of
    the whole model, the prediction t cannot change within

        radius = min over j != t of (f_t - f_j) / min(K ||w_t - w_j||, sqrt(2) L)

    (Tsuzuku et al. 2018, arXiv:1802.04034; Leino et al. 2021, arXiv:2102.08452). Without a linear
    head only the second divisor counts. One output: `|f| / min(K ||w||, L)`, label `f > 0`.

    The claim is about the exact function of the weights as stored (kernels rounded to the type
    they are computed with, layers' arguments as written), at inference. K and L are proven upper
    bounds; logits are computed in float64 on the CPU, and `sqrt(2)` times an a-priori bound on
    their rounding error is subtracted from each margin. Non-finite logits and ties get radius 0.

    Args:
        model: a built Sequential or functional model, with one input and an output of shape
            (batch, classes) or (batch, 1) that holds logits, not probabilities.
        x: (n, ...) real samples, of the model's input shape, in the units the radius will have.
        y: true labels: integers (n,) or (n, 1), one-hot (n, classes), and for one output 0 and 1
            or -1 and 1. Where the prediction is wrong, the radius is 0.
        batch_size: samples evaluated together.

    Returns:
        The certificates.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if a layer has no bound (all are named), or shapes, labels or the last
            activation do not fit.
    """
    walk, constants = _bounded(model)
    bound = constants[0]
    x, count = _checked_samples(model, x), model.outputs[0].shape[-1]
    true = None if y is None else _true_classes(y, len(x), count)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive integer. Received: {batch_size!r}.")
    divisors = _divisors(model, walk, bound, count)
    exact = ExactModel(model, walk)
    starts = range(0, len(x), batch_size)
    batches = [_certify_batch(*exact(x[i : i + batch_size]), divisors) for i in starts]
    label, radius, margin = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    correct = None if true is None else label == true
    radius = radius if correct is None else np.where(correct, radius, 0.0)
    if count == 1 and y is not None and (np.asarray(y) == -1).any():
        label = 2 * label - 1
    return Certificates(label, radius, margin, bound, correct)


def _bounded(model) -> tuple[GraphWalk, list[float]]:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received: {type(model).__name__}.")
    walk = GraphWalk()
    constants = walk.model(model, None, "")
    walk.raise_if_refused()
    shapes = [tensor.shape for tensor in model.outputs]
    if len(model.inputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 2 or not shapes[0][-1]:
        raise ValueError(
            "`model` must have one input and one output of shape (batch, classes). Received: "
            f"{len(model.inputs)} inputs and outputs of shapes {shapes}. Certify a model of one "
            "output at a time, by `keras.Model(model.inputs, model.outputs[0])`."
        )
    last = _last_node(model).operation
    name = getattr(getattr(last, "activation", None), "__name__", type(last).__name__.lower())
    if name in _PROBABILITIES:
        raise ValueError(
            f"`model` must return logits. Received: a model that ends with {name!r} in layer "
            f"{last.name!r}. Leave it out (`activation=None`, and `from_logits=True` in the loss)."
        )
    return walk, constants


def _last_node(model: keras.Model):
    """The call that makes the output, inside nested models."""
    operation, index, _ = symbolic_tensors(model)[1][0]._keras_history
    if isinstance(operation, keras.Model) and symbolic_tensors(operation):
        return _last_node(operation)
    return operation._inbound_nodes[index]


def _checked_samples(model: keras.Model, x) -> np.ndarray:
    samples = np.asarray(x)
    if samples.dtype.kind not in "biuf":
        raise ValueError(f"`x` must hold real numbers. Received: dtype {samples.dtype}.")
    wanted = model.inputs[0].shape[1:]
    fits = samples.ndim == len(wanted) + 1 and all(
        have == want or want is None for have, want in zip(samples.shape[1:], wanted, strict=True)
    )
    if not fits or not len(samples):
        raise ValueError(
            f"`x` must have the shape (n, *{tuple(wanted)}) with n > 0, the model's input shape. "
            f"Received: {samples.shape}."
        )
    return samples.astype(np.float64)


def _true_classes(y, samples: int, count: int) -> np.ndarray:
    """(n,) integers, whatever the encoding; 0 and 1 for one output."""
    labels = np.asarray(y)
    columns = labels[:, None] if labels.ndim == 1 else labels
    fits = columns.ndim == 2 and len(columns) == samples and columns.shape[1] in (1, count)
    if not fits or labels.dtype.kind not in "biuf":
        raise ValueError(
            f"`y` must hold numbers, with the shape ({samples},), ({samples}, 1) or "
            f"({samples}, {count}). Received: shape {labels.shape}, dtype {labels.dtype}."
        )
    if columns.shape[1] > 1:
        largest = columns.max(axis=1, keepdims=True)
        if not ((columns == largest).sum(axis=1) == 1).all():
            raise ValueError("`y` must be one-hot: exactly one largest entry in each row.")
        return columns.argmax(axis=1)
    values = columns[:, 0]
    is_signed = count == 1 and (values == -1).any()
    allowed = np.array([-1, 1]) if is_signed else np.arange(max(count, 2))
    if not np.isin(values, allowed).all():
        strange = values[~np.isin(values, allowed)][0]
        raise ValueError(
            f"`y` must hold classes 0 to {max(count, 2) - 1}"
            f"{', or -1 and 1' if count == 1 else ''}. Received: {strange!r}."
        )
    return (values > 0).astype(np.int64) if is_signed else values.astype(np.int64)


def _divisors(model: keras.Model, walk: GraphWalk, bound: float, count: int) -> np.ndarray:
    """(count, count): how fast `f_t - f_j` may change; (1, 1) for one output."""
    joint = bound if count == 1 else product_up(sqrt_up(2.0), bound)
    divisors = np.full((count, count), joint)
    if (head := _linear_head(model, [1.0], walk)) is None:
        return divisors
    layer, backbone = head
    kernel = kernel_of(layer)
    for top in range(count):
        differences = kernel if count == 1 else kernel[:, top, None] - kernel
        # One rounding for each difference, and those of a sum of squares and of its root.
        norms = [norm_up(np.abs(column)) * (1.0 + gamma(8)) for column in differences.T]
        pairwise = [product_up(backbone, norm) for norm in norms]
        divisors[top] = np.minimum(divisors[top], pairwise)
    return divisors


def _linear_head(model: keras.Model, constants: list[float], walk: GraphWalk):
    """`(layer, constant of its input)` where a dense layer without activation makes the logits."""
    inputs, outputs = symbolic_tensors(model)
    operation, index, _ = outputs[0]._keras_history
    node = operation._inbound_nodes[index]
    is_dense = isinstance(operation, keras.layers.Dense)
    if not is_dense and not isinstance(operation, keras.Model):
        return None
    before = walk.tensors(inputs, constants, node.input_tensors, "")
    if not is_dense:
        return _linear_head(operation, before, walk)
    is_linear = operation.activation in (None, keras.activations.linear)
    return (operation, before[0]) if is_linear and len(node.input_tensors[0].shape) == 2 else None


def _certify_batch(logits: np.ndarray, errors: np.ndarray, divisors: np.ndarray):
    """Labels, radii and margins of logits (n, classes) with errors (n,) in the 2-norm."""
    if logits.shape[1] == 1:
        label = (logits[:, 0] > 0).astype(np.int64)
        margin = np.abs(logits[:, 0])
        with np.errstate(all="ignore"):
            radius = (margin - errors) / divisors[0, 0]
        return label, _downward(radius, logits, errors), margin
    label = np.argmax(logits, axis=1)
    rows = np.arange(len(logits))
    with np.errstate(all="ignore"):
        gaps = logits[rows, label][:, None] - logits
        # The rounding of the gap itself is relative, as is that of the quotient.
        safe = gaps * (1.0 - gamma(4)) - (math.sqrt(2.0) * (1.0 + gamma(4)) * errors)[:, None]
        ratios = np.where((gaps > 0) & np.isfinite(gaps), safe / divisors[label], 0.0)
    gaps[rows, label] = ratios[rows, label] = np.inf
    return label, _downward(ratios.min(axis=1), logits, errors), gaps.min(axis=1)


def _downward(radius: np.ndarray, logits: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Radii rounded towards 0; 0 for those that are negative or come from non-finite numbers."""
    valid = np.isfinite(logits).all(axis=1) & np.isfinite(errors) & (radius > 0)
    return np.where(valid, np.nextafter(radius * (1.0 - gamma(4)), 0.0), 0.0)
