"""Attacks by foolbox, in L2, and whether any of them breaks a certificate.

foolbox is not believed: an adversarial example counts only if the model itself gives it another
label than the one certified, and its distance is measured here, in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PGD_EPSILONS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
# Crossentropy of logits as small as those of a 1-Lipschitz network pulls towards all classes at
# once; sharper ones make PGD go for the nearest boundary. Labels stay what they are.
PGD_SHARPNESS = 10.0
BISECTIONS = 12

Classify = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Attack:
    """What one attack found.

    Attributes:
        name: of the attack.
        adversarial: images of the shape of those attacked; where none was found, the original.
        distance: (n,) float64, the L2 distance to ``adversarial``; infinite where none was found.
        label: (n,) what the model takes ``adversarial`` for; None where it was not asked.
    """

    name: str
    adversarial: np.ndarray
    distance: np.ndarray
    label: np.ndarray | None = None

    def broken(self, radius: np.ndarray) -> np.ndarray:
        """Which certificates this attack refutes: an example strictly inside the radius."""
        return self.distance < radius


def run_attacks(model, exported, x: np.ndarray, label: np.ndarray) -> list[Attack]:
    """Attacks every image with PGD, DeepFool and Carlini-Wagner.

    Args:
        model: the Keras model from images to logits whose certificates are at stake; it alone
            decides what is misclassified.
        exported: a model that computes the same and is faster; foolbox takes its gradients.
        x: images (n, height, width, channels), float32 in [0, 1].
        label: (n,) integers, the labels that ``model`` gives to ``x``.

    Returns:
        One result per attack. Each adversarial example has been moved towards its image by
        bisection until it is about to lose its effect, which makes it the closest on that line.
    """
    import foolbox
    import tensorflow as tf

    device = "/GPU:0" if tf.config.list_physical_devices("GPU") else "/CPU:0"
    plain = _graph(exported, x)

    def target(sharpness: float):
        return foolbox.TensorFlowModel(lambda z: sharpness * plain(z), (0, 1), device)

    # foolbox compares with TensorFlow's argmax, which is int64, and fails on int32 labels.
    images, labels = tf.constant(x, tf.float32), tf.constant(label, tf.int64)
    logits = _graph(model, x)

    def classify(candidates: np.ndarray) -> np.ndarray:
        return np.argmax(logits(candidates), axis=-1)

    attacks = []
    for name, method, epsilons, sharpness in _methods(foolbox):
        raw, _, _ = method(target(sharpness), images, labels, epsilons=epsilons)
        candidates = [np.asarray(found) for found in (raw if isinstance(raw, list) else [raw])]
        attacks.append(nearest(name, x, label, candidates, classify))
    return attacks


def nearest(
    name: str, x: np.ndarray, label: np.ndarray, candidates: list[np.ndarray], classify: Classify
) -> Attack:
    """The closest confirmed adversarial example to each image among several candidates.

    Args:
        name: of the attack.
        x: images (n, ...).
        label: (n,) the labels that ``classify`` gives them.
        candidates: arrays of the shape of ``x``; non-finite ones are ignored.
        classify: from images to labels.
    """
    best, distance = x.copy(), np.full(len(x), np.inf)
    for candidate in candidates:
        fools = _finite(candidate) & (classify(candidate) != label)
        moved = _pulled_back(x[fools], label[fools], candidate[fools], classify)
        found = np.full(len(x), np.inf)
        change = x[fools].astype(np.float64) - moved.astype(np.float64)
        found[fools] = np.sqrt(np.sum(np.square(change), axis=tuple(range(1, change.ndim))))
        closer = found < distance
        best[closer] = moved[closer[fools]]
        distance = np.minimum(distance, found)
    return Attack(name, best, distance, classify(best))


def _graph(model, x: np.ndarray):
    """The model at inference as one TensorFlow graph for batches of any size."""
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *x.shape[1:]), tf.float32)]
    return tf.function(lambda images: model(images, training=False), input_signature=signature)


def _methods(foolbox) -> list[tuple]:
    attacks = foolbox.attacks
    carlini_wagner = attacks.L2CarliniWagnerAttack(
        binary_search_steps=6, steps=100, stepsize=0.05, initial_const=0.1
    )
    pgd = attacks.L2ProjectedGradientDescentAttack(rel_stepsize=0.2, steps=20)
    return [
        ("PGD", pgd, list(PGD_EPSILONS), PGD_SHARPNESS),
        ("DeepFool", attacks.L2DeepFoolAttack(), None, 1.0),
        ("Carlini-Wagner", carlini_wagner, None, 1.0),
    ]


def _finite(images: np.ndarray) -> np.ndarray:
    return np.isfinite(images).reshape(len(images), -1).all(axis=1)


def _pulled_back(
    x: np.ndarray, label: np.ndarray, adversarial: np.ndarray, classify: Classify
) -> np.ndarray:
    """Bisects the segment from each image to its adversarial example, keeping one that fools."""
    if not len(x):
        return adversarial
    best = adversarial
    shape = (-1,) + (1,) * (x.ndim - 1)
    inside, outside = np.zeros(len(x), x.dtype), np.ones(len(x), x.dtype)
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        trial = x + middle.reshape(shape) * (adversarial - x)
        fools = classify(trial) != label
        best = np.where(fools.reshape(shape), trial, best)
        inside, outside = np.where(fools, inside, middle), np.where(fools, middle, outside)
    return best
