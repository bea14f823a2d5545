"""The entry: certified radii of a classifier's predictions."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from deel_lip_tf._validation.scalars import check_choice, check_count
from deel_lip_tf.bounds.evaluation.model import Float64Evaluator
from deel_lip_tf.certificates.execution import Float32ErrorAnalysis
from deel_lip_tf.certificates.fingerprints import model_fingerprint
from deel_lip_tf.certificates.guard import Guard
from deel_lip_tf.certificates.local import LocalBounds, widened
from deel_lip_tf.certificates.proofs import Proof, prove
from deel_lip_tf.certificates.radii import Evaluated, Radii, certified_radii, predicted
from deel_lip_tf.certificates.result import MEANINGS, Certificates
from deel_lip_tf.certificates.samples import Samples
from deel_lip_tf.certificates.weights.analysis import ChangedWeightsAnalysis
from deel_lip_tf.certificates.weights.given import read_changes
from deel_lip_tf.semantics.graph import graph_of


def certify(
    model: keras.Model,
    x: Any,
    y: Any = None,
    batch_size: int = 256,
    semantics: str = "real",
    local: bool = False,
    weights_within: float | Mapping[str, Any] | None = None,
) -> Certificates:
    """Certifies the predictions of a classifier against L2 perturbations.

    With logits f, a linear head of columns w_j over a K-Lipschitz backbone, and L the constant of
    the whole model, the prediction t cannot change within

        radius = min over j != t of (f_t - f_j) / min(K ||w_t - w_j||, sqrt(2) L)

    (Tsuzuku et al. 2018, arXiv:1802.04034; Leino et al. 2021, arXiv:2102.08452). Without a linear
    head only the second divisor counts. Dense layers with rising activations between them, such as
    ReLU, are bounded together with the head, too, and the smallest divisor counts. One output:
    `|f| / min(K ||w||, L)`, label `f > 0`.

    K and L are proven upper bounds; logits are computed in float64 on the CPU, and `sqrt(2)` times
    an a-priori bound on their rounding error is subtracted from each margin. Non-finite logits and
    ties get radius 0. The model itself is run on the samples too: where its outputs differ from the
    exact ones by more than its rounding allows, or give another label, the radius is 0, and a
    warning names the layer that differs. Where the inputs of the model are integers, the claim is
    about integers. What it is about, at inference:

    * `semantics="real"` (default): the exact function of the weights as stored (kernels rounded to
      the type they are computed with, layers' arguments as written). A program that rounds may
      answer otherwise at a point where the exact gap of two logits is within its rounding error.
    * `semantics="float32"`: any float32 execution of the model, layer by layer as it is written,
      for every real input that is rounded to float32 on entry: sums in any order, with or without
      fused multiply-add and gradual underflow. From each margin is subtracted what the rounding of
      every layer can add up to anywhere in the ball (Murray 2026, arXiv:2603.13334), so radii are
      smaller, and those of wide or deep networks may be 0. Not covered: TF32 and bfloat16 products
      (TensorFlow's default on recent GPUs: `tf.config.experimental.enable_tensor_float_32_execution
      (False)`), Winograd and FFT convolutions, functions of exponentials that are wrong by more
      than 64 units. A layer of this library computes its kernel when it is called; the claim is
      about the kernel as it is now, which `vanilla_export` keeps.

    Args:
        model: a built Sequential or functional model, with one input and an output of shape
            (batch, classes) or (batch, 1) that holds logits, not probabilities.
        x: (n, ...) real samples, of the model's input shape, in the units the radius will have. Or
            batches of them, as `evaluate` takes them: a `tf.data.Dataset`, a `PyDataset`, a
            `DataLoader` or another iterable that ends, of `x`, `(x, y)` or `(x, y, weights)`; the
            weights are left out.
        y: true labels, unless `x` holds them: classes (n,) or (n, 1), or rows
            (n, classes), one-hot or smoothed, whose one largest entry is the class's; for one
            output 0 and 1 or -1 and 1. Where the prediction is wrong, the radius is 0.
        batch_size: samples evaluated together, at most.
        semantics: "real" or "float32".
        local: whether to look for a larger radius near each sample, where the ReLUs (and other
            activations with straight pieces) whose input cannot change sign are linear: see
            `certificates.local`. Never smaller, and proven too. It costs about as much as ten
            gradients of each sample, and some milliseconds where layers of up to 256 entries are
            bounded together, and gains nothing on networks that sort.
        weights_within: how far the weights may be away from the stored ones, `None` for not at all:
            the certificates are then about all models whose weights are so near, after fine-tuning
            or in steps of quantization, and about their exact functions. A number is the most by
            which any entry of any kernel and bias may be off. A mapping from names of layers, as
            `lipschitz_bound` prints them, says which may be off at all, and by how much: such a
            number, or a mapping of "kernel" and "bias" to numbers or arrays, entry by entry, and of
            "norm" to the largest operator norm of the change of the kernel; of recurrent layers, of
            "recurrent_kernel" instead. The kernel of a constrained layer is its effective one,
            which `vanilla_export` keeps. See `certificates.weights.analysis`. Not with
            `semantics="float32"`.

    Returns:
        The certificates.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if `weights_within` names no layer, or has another form; if a layer has no
            bound, or with `semantics="float32"` no rounding rule (all are
            named), or shapes, labels or the last activation do not fit.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> x = np.array([[3.0, 0.0], [0.0, 1.0]])
        >>> certificates = lip.certificates.certify(model, x, y=[0, 1])
        >>> print(certificates.label, certificates.radius.round(4))
        [0 1] [2.1213 0.7071]
        >>> step = certificates.radius[:, None] * np.array([[-1.0, 1.0], [1.0, -1.0]]) / 2**0.5
        >>> for share in (0.999, 1.001):  # within the radius, and beyond it
        ...     print(np.argmax(model(x + share * step), axis=1))
        [0 1]
        [1 0]
    """
    proof = prove(model)
    samples = Samples(model, x, y)
    check_count("batch_size", batch_size)
    guard = Guard(model, proof.propagation)
    check_choice("semantics", semantics, MEANINGS)
    exact = _analysis(proof, semantics, weights_within)
    certify_batch = _certifier(proof, guard, exact, local)
    batches = [certify_batch(batch) for batch in samples.batches(batch_size)]
    (label, radius, margin), change = _joined(batches)
    radius = np.where(guard.confirmed(), radius, 0.0)
    true, is_signed = samples.labels()
    correct = None if true is None else label == true
    radius = radius if correct is None else np.where(correct, radius, 0.0)
    label = 2 * label - 1 if is_signed else label
    fingerprints = model_fingerprint(model), samples.fingerprint()
    certificates = Certificates(
        label, radius, margin, proof.bound, correct, semantics, *fingerprints
    )
    if not isinstance(exact, ChangedWeightsAnalysis):
        return certificates
    return replace(certificates, weights_within=str(exact), output_change=change)


def _analysis(proof: Proof, semantics: str, weights_within: Any) -> Float64Evaluator:
    """What evaluates the model, and says how far that may be from what is certified."""
    if weights_within is None:
        kind = Float32ErrorAnalysis if semantics == "float32" else Float64Evaluator
        return kind(proof.model, proof.propagation)
    if semantics != "real":
        raise ValueError(
            "`weights_within` is about the exact functions of the weights. Received: "
            f"semantics={semantics!r}. Leave it out, or certify the changed model by itself."
        )
    changes = read_changes(graph_of(proof.model), weights_within)
    return ChangedWeightsAnalysis(proof.model, proof.propagation, changes)


def _joined(batches: list[tuple[Radii, np.ndarray]]) -> tuple[list[np.ndarray], np.ndarray]:
    radii, errors = zip(*batches, strict=True)
    return [np.concatenate(parts) for parts in zip(*radii, strict=True)], np.concatenate(errors)


def _certifier(
    proof: Proof, guard: Guard, exact: Float64Evaluator, is_local: bool
) -> Callable[[np.ndarray], tuple[Radii, np.ndarray]]:
    """The function from a batch to its radii and the errors of its logits, which the guard sees."""
    local = LocalBounds(proof.model, proof.propagation, exact) if is_local else None

    def certify_batch(batch: np.ndarray) -> tuple[Radii, np.ndarray]:
        evaluated, allowed = _evaluated(exact, batch)
        guard.compare(batch, evaluated.logits, allowed)
        label = predicted(evaluated.logits)
        divisors = proof.divisors[label] if len(proof.divisors) > 1 else proof.divisors[label * 0]
        if local is None:
            return certified_radii(evaluated, label, divisors), evaluated.errors
        local.observe()
        return widened(evaluated, label, divisors, local), evaluated.errors

    return certify_batch


def _evaluated(exact: Float64Evaluator, batch: np.ndarray) -> tuple[Evaluated, np.ndarray]:
    """The logits of a batch, and (n,) how far those of the running model may be from them."""
    if isinstance(exact, Float32ErrorAnalysis):
        evaluated = exact.execute(batch)
        return evaluated, evaluated.errors
    value = exact.evaluate_model(batch)
    if isinstance(exact, ChangedWeightsAnalysis):
        return exact.executed(value), value.error + value.deviation
    evaluated = Evaluated(value.numbers, value.error, 0.0, np.full(len(batch), np.inf))
    return evaluated, value.error + value.deviation
