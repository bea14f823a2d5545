"""decomon's functions, under its names and with its signs, on the methods of this package.

    from deel_lip_tf.verify import decomon

    converted = decomon.clone(model, method="crown")
    decomon.get_adv_box(converted, x_min, x_max, source_labels=y) < 0     # proven robust
    decomon.check_adv_box(converted, x_min, x_max, source_labels=y) >= 0  # a counterexample exists

Where decomon returned something else:

- Labels as integers were taken for masks, so that `get_adv_box` could be negative for samples with
  counterexamples. Here integers are classes.
- `refine_boxes` made empty boxes of images (`x_max` was overwritten by `x_min`), so that
  `n_sub_boxes` proved anything. Here the parts cover the box.
- Bounds of softplus left its values out. Here they do not.
- `get_range_box` with `n_sub_boxes` took its extremes over classes too, and lost their axis. Here
  the shape is (n, classes) for any number of parts.
- `get_adv_noise` with `p=2` used the squared norm of the weights, and most methods failed. Here the
  norm is the dual one, and every method works.
- `check_adv_box` used the lower one of two lines at one corner. Here an attack looks for a
  counterexample, which is replayed through the model: the score is never lower by more than the
  attack is weaker, and a tie is no counterexample.
- Inverted boxes raised `UserWarning`, a negative `eps` became 0. Here both are a `ValueError`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._validation.scalars import check_count
from deel_lip_tf._validation.shapes import check_classifier_shape
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.decomon.labels import objectives_of
from deel_lip_tf.verify.domain import Domain, ball, box
from deel_lip_tf.verify.guard import confirmed
from deel_lip_tf.verify.methods import lower_bounds
from deel_lip_tf.verify.models import program_of
from deel_lip_tf.verify.search.attack import Claims, is_found, search
from deel_lip_tf.verify.tensorflow import evaluate

__all__ = ["Converted", "check_adv_box", "clone", "get_adv_box", "get_adv_noise", "get_lower_box"]
__all__ += ["get_lower_noise", "get_range_box", "get_range_noise", "get_upper_box"]
__all__ += ["get_upper_noise", "refine_boxes"]

METHODS_BY_NAME = {
    "crown": ("crown",),
    "crown-forward-ibp": ("crown-ibp",),
    "crown-forward-affine": ("forward", "crown"),
    "crown-forward-hybrid": ("ibp", "forward", "crown"),
    "forward-ibp": ("ibp",),
    "forward-affine": ("forward",),
    "forward-hybrid": ("ibp", "forward"),
    # Names of older releases.
    "ibp": ("ibp",),
    "affine": ("forward",),
    "forward": ("forward",),
    "hybrid": ("ibp", "forward"),
    "crown-ibp": ("crown-ibp",),
    "crown-forward": ("forward", "crown"),
    "crown-hybrid": ("ibp", "forward", "crown"),
}
"""Our methods by decomon's name; of several, the best bound counts."""

_NORMS = {np.inf: "linf", 2: "l2", 1: "l1"}


@dataclass(frozen=True, eq=False)
class Converted:
    """A model and how to bound it.

    Attributes:
        model: the Keras model, as it was given.
        method: decomon's name.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> converted = decomon.clone(model, method="crown-forward-ibp")
        >>> converted.model is model, converted.method
        (True, 'crown-forward-ibp')
    """

    model: keras.Model
    method: str

    @property
    def program(self) -> Program:
        """The model, lowered as it is now."""
        return program_of(self.model)


Model: TypeAlias = "keras.Model | Converted"


def clone(model: keras.Model, method: str = "crown", finetune: bool = False) -> Converted:
    """Chooses how to bound a model.

    Nothing is copied: the bounds are those of the weights at the time of each call.

    Args:
        model: a Sequential or functional model with one input and an output (batch, classes).
        method: one of decomon's seven names, in any case, or of its older ones: those of
            `METHODS_BY_NAME`.
        finetune: accepted for users of decomon, without effect: slopes are chosen for each box.

    Returns:
        A `Converted`, which every function of this module takes in place of a model.

    Raises:
        TypeError: not a Keras model.
        ValueError: an unknown method, or layers without a rule: all of them are named.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> converted = decomon.clone(model, method="forward-ibp")
        >>> gap = decomon.get_adv_box(converted, [[0.6, 0.0]], [[1.0, 0.5]], source_labels=0)
        >>> print(gap.round(4))  # negative: the label 0 is proven on the whole box
        [-0.1]
    """
    name = getattr(method, "value", method)
    if not isinstance(name, str) or name.lower() not in METHODS_BY_NAME:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, METHODS_BY_NAME))}. "
            f"Received: method={method!r}."
        )
    check_classifier_shape(program_of(model).output_shape)
    return Converted(model, name.lower())


def get_adv_box(
    model: Model,
    x_min: ArrayLike,
    x_max: ArrayLike,
    source_labels: ArrayLike,
    target_labels: ArrayLike | None = None,
    batch_size: int = -1,
    n_sub_boxes: int = 1,
) -> np.ndarray:
    """Upper bounds of how far a target label can exceed a source label in each box.

    A negative number proves that on the whole box every source label has a larger output than
    every target label.

    Args:
        model: from `clone`, or a Keras model (then "crown").
        x_min: (n, ...) lower corners, of the model's input shape or flattened.
        x_max: (n, ...) upper corners, nowhere below `x_min`.
        source_labels: the labels that should win: an integer for all samples, integers (n,) or
            (n, k) for k labels each, or rows of 0 and 1 (n, classes), such as one-hot.
        target_labels: those that should lose, in the same forms; all others by default.
        batch_size: samples treated together, -1, the default, for all.
        n_sub_boxes: into how many parts each box is cut, rounded down to a power of two, 1 by
            default; the bound is the largest of the parts'.

    Returns:
        (n,) float64: upper bounds of `max(f_target - f_source)` over pairs and over the box.

    Raises:
        ValueError: inverted boxes, shapes or labels that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> lower, upper = np.array([[0.6, 0.0], [0.4, 0.0]]), np.array([[1.0, 0.5], [1.0, 0.5]])
        >>> gap = decomon.get_adv_box(model, lower, upper, source_labels=0)
        >>> print(gap.round(4))  # 0.5 - 0.6: proven; 0.5 - 0.4: not
        [-0.1  0.1]
    """
    converted = _converted(model)
    domain = _box_domain(converted, x_min, x_max)
    return _adversarial(converted, domain, source_labels, target_labels, batch_size, n_sub_boxes)


def check_adv_box(
    model: Model,
    x_min: ArrayLike,
    x_max: ArrayLike,
    source_labels: ArrayLike,
    target_labels: ArrayLike | None = None,
    batch_size: int = -1,
) -> np.ndarray:
    """Lower bounds of how far a target label exceeds a source label somewhere in each box.

    Args:
        model: from `clone`, or a Keras model (then "crown").
        x_min: (n, ...) lower corners, of the model's input shape or flattened.
        x_max: (n, ...) upper corners, nowhere below `x_min`.
        source_labels: the labels that should win: an integer for all samples, integers (n,) or
            (n, k) for k labels each, or rows of 0 and 1 (n, classes), such as one-hot.
        target_labels: those that should lose, in the same forms; all others by default.
        batch_size: samples treated together, -1, the default, for all.

    Returns:
        (n,) float64. A number that is not negative proves a counterexample: an attack has found a
        point of the box, and the model, called on it, gives a target label a larger output than a
        source label, by this much in float64. Otherwise the largest `f_target - f_source` at the
        middle of the box, and always a negative number.

    Raises:
        ValueError: inverted boxes, shapes or labels that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> lower, upper = np.array([[0.6, 0.0], [0.4, 0.0]]), np.array([[1.0, 0.5], [1.0, 0.5]])
        >>> print(decomon.check_adv_box(model, lower, upper, source_labels=0) >= 0)
        [False  True]
    """
    converted = _converted(model)
    domain = _box_domain(converted, x_min, x_max)
    program = converted.program
    objectives = objectives_of(source_labels, target_labels, len(domain), program.outputs)

    def score(part: Domain, index: np.ndarray) -> np.ndarray:
        at_middle = -_values(program, part.center, objectives[index]).min(axis=1)
        scores = np.minimum(at_middle, -np.finfo(np.float64).tiny)
        sample, pair = np.nonzero(objectives[index].any(axis=2))
        weights = objectives[index][sample, pair][:, None]
        claims = Claims(sample, weights, np.zeros((len(sample), 1)))
        points = search(converted.model, part, claims)
        found = np.flatnonzero(is_found(points))
        if len(found):
            gaps = -_values(program, points[found], weights[found])[:, 0]
            # Where float64 disagrees with the model's own arithmetic, there is no counterexample.
            np.maximum.at(scores, sample[found], np.where(gaps > 0, gaps, -np.inf))
        return scores

    return _over_parts(domain, batch_size, 1, score, np.max)


def get_range_box(
    model: Model, x_min: ArrayLike, x_max: ArrayLike, batch_size: int = -1, n_sub_boxes: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """`(upper, lower)` bounds (n, classes) of the outputs in each box.

    A final softmax is left out: the bounds are those of its input.

    Args:
        model: from `clone`, or a Keras model (then "crown").
        x_min: (n, ...) lower corners, of the model's input shape or flattened.
        x_max: (n, ...) upper corners, nowhere below `x_min`.
        batch_size: samples treated together, -1, the default, for all.
        n_sub_boxes: into how many parts each box is cut, rounded down to a power of two, 1 by
            default; the bounds are the extremes of the parts'.

    Returns:
        Two arrays (n, classes) of float64: no output of the model leaves them on the box.

    Raises:
        ValueError: inverted boxes, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, "relu", kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> upper, lower = decomon.get_range_box(model, [[0.5, 1.0]], [[0.75, 2.0]])
        >>> print(upper.round(4), lower.round(4))
        [[0.75 2.  ]] [[0.5 1. ]]
    """
    converted = _converted(model)
    domain = _box_domain(converted, x_min, x_max)
    return _range(converted, domain, batch_size, n_sub_boxes)


def get_upper_box(
    model: Model, x_min: ArrayLike, x_max: ArrayLike, batch_size: int = -1, n_sub_boxes: int = 1
) -> np.ndarray:
    """The upper bounds (n, classes) of the outputs in each box, see `get_range_box`.

    Args:
        model: from `clone`, or a Keras model (then "crown").
        x_min: (n, ...) lower corners, of the model's input shape or flattened.
        x_max: (n, ...) upper corners, nowhere below `x_min`.
        batch_size: samples treated together, -1, the default, for all.
        n_sub_boxes: into how many parts each box is cut, rounded down to a power of two, 1 by
            default.

    Raises:
        ValueError: inverted boxes, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> print(decomon.get_upper_box(model, [[-1.0, 2.0]], [[0.5, 3.0]]).round(4))
        [[3.5]]
    """
    return get_range_box(model, x_min, x_max, batch_size, n_sub_boxes)[0]


def get_lower_box(
    model: Model, x_min: ArrayLike, x_max: ArrayLike, batch_size: int = -1, n_sub_boxes: int = 1
) -> np.ndarray:
    """The lower bounds (n, classes) of the outputs in each box, see `get_range_box`.

    Args:
        model: from `clone`, or a Keras model (then "crown").
        x_min: (n, ...) lower corners, of the model's input shape or flattened.
        x_max: (n, ...) upper corners, nowhere below `x_min`.
        batch_size: samples treated together, -1, the default, for all.
        n_sub_boxes: into how many parts each box is cut, rounded down to a power of two, 1 by
            default.

    Raises:
        ValueError: inverted boxes, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> print(decomon.get_lower_box(model, [[-1.0, 2.0]], [[0.5, 3.0]]).round(4))
        [[1.]]
    """
    return get_range_box(model, x_min, x_max, batch_size, n_sub_boxes)[1]


def get_adv_noise(
    model: Model,
    x: ArrayLike,
    source_labels: ArrayLike,
    eps: float = 0.0,
    p: float = np.inf,
    target_labels: ArrayLike | None = None,
    batch_size: int = -1,
) -> np.ndarray:
    """Upper bounds of how far a target label can exceed a source label in each ball.

    A ball holds the points at a distance of at most `eps` from its center in the Lp norm. A
    negative number proves that on the whole ball every source label has a larger output than every
    target label.

    Args:
        model: from `clone`, or a Keras model (then "crown-forward-hybrid").
        x: (n, ...) centers, of the model's input shape or flattened.
        source_labels: the labels that should win: an integer for all samples, integers (n,) or
            (n, k) for k labels each, or rows of 0 and 1 (n, classes), such as one-hot.
        eps: radius, not negative.
        p: `numpy.inf`, the default, 2 or 1. As decomon does, no ball is cut to a data range.
        target_labels: those that should lose, in the same forms; all others by default.
        batch_size: samples treated together, -1, the default, for all.

    Returns:
        (n,) float64: upper bounds of `max(f_target - f_source)` over pairs and over the ball.

    Raises:
        ValueError: another `p`, a negative `eps`, shapes or labels that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> for p in (np.inf, 2):  # the gap is 0.5, and changes by 0.3 times 2 or sqrt(2)
        ...     gap = decomon.get_adv_noise(model, [[0.75, 0.25]], source_labels=0, eps=0.3, p=p)
        ...     print(gap.round(4))
        [0.1]
        [-0.0757]
    """
    converted = _converted(model, "crown-forward-hybrid")
    domain = _ball_domain(converted, x, eps, p)
    return _adversarial(converted, domain, source_labels, target_labels, batch_size, 1)


def get_range_noise(
    model: Model, x: ArrayLike, eps: float, p: float = np.inf, batch_size: int = -1
) -> tuple[np.ndarray, np.ndarray]:
    """`(upper, lower)` bounds (n, classes) of the outputs in each ball, in the Lp norm.

    A final softmax is left out: the bounds are those of its input.

    Args:
        model: from `clone`, or a Keras model (then "crown-forward-hybrid").
        x: (n, ...) centers, of the model's input shape or flattened.
        eps: radius, not negative.
        p: `numpy.inf`, the default, 2 or 1. As decomon does, no ball is cut to a data range.
        batch_size: samples treated together, -1, the default, for all.

    Returns:
        Two arrays (n, classes) of float64: no output of the model leaves them on the ball.

    Raises:
        ValueError: another `p`, a negative `eps`, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> upper, lower = decomon.get_range_noise(model, [[0.5, 1.5]], eps=0.25)
        >>> print(upper.round(4), lower.round(4))
        [[0.75 1.75]] [[0.25 1.25]]
    """
    converted = _converted(model, "crown-forward-hybrid")
    return _range(converted, _ball_domain(converted, x, eps, p), batch_size, 1)


def get_upper_noise(
    model: Model, x: ArrayLike, eps: float, p: float = np.inf, batch_size: int = -1
) -> np.ndarray:
    """The upper bounds (n, classes) of the outputs in each ball, see `get_range_noise`.

    Args:
        model: from `clone`, or a Keras model (then "crown-forward-hybrid").
        x: (n, ...) centers, of the model's input shape or flattened.
        eps: radius, not negative.
        p: `numpy.inf`, the default, 2 or 1. As decomon does, no ball is cut to a data range.
        batch_size: samples treated together, -1, the default, for all.

    Raises:
        ValueError: another `p`, a negative `eps`, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> print(decomon.get_upper_noise(model, [[0.5, 1.5]], eps=0.25, p=2).round(4))
        [[2.3536]]
    """
    return get_range_noise(model, x, eps, p, batch_size)[0]


def get_lower_noise(
    model: Model, x: ArrayLike, eps: float, p: float = np.inf, batch_size: int = -1
) -> np.ndarray:
    """The lower bounds (n, classes) of the outputs in each ball, see `get_range_noise`.

    Args:
        model: from `clone`, or a Keras model (then "crown-forward-hybrid").
        x: (n, ...) centers, of the model's input shape or flattened.
        eps: radius, not negative.
        p: `numpy.inf`, the default, 2 or 1. As decomon does, no ball is cut to a data range.
        batch_size: samples treated together, -1, the default, for all.

    Raises:
        ValueError: another `p`, a negative `eps`, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> print(decomon.get_lower_noise(model, [[0.5, 1.5]], eps=0.25, p=1).round(4))
        [[1.75]]
    """
    return get_range_noise(model, x, eps, p, batch_size)[1]


def refine_boxes(
    x_min: ArrayLike, x_max: ArrayLike, n_sub_boxes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts each box into parts that cover it, halving the widest feature of each again and again.

    Args:
        x_min: (n, *shape) lower corners.
        x_max: (n, *shape) upper corners.
        n_sub_boxes: number of parts, rounded down to a power of two.

    Returns:
        Corners (n, parts, *shape) in float64.

    Raises:
        ValueError: inverted boxes, shapes that differ, or `n_sub_boxes` below 1.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> lower, upper = decomon.refine_boxes([[0.0, 0.0]], [[4.0, 1.0]], n_sub_boxes=2)
        >>> print(lower[0].tolist(), upper[0].tolist())  # the wider feature is halved
        [[0.0, 0.0], [2.0, 0.0]] [[2.0, 1.0], [4.0, 1.0]]
    """
    domain = box(x_min, x_max)
    check_count("n_sub_boxes", n_sub_boxes)
    count, shape = len(domain), domain.lower.shape[1:]
    lower, upper = domain.lower.reshape(count, 1, -1), domain.upper.reshape(count, 1, -1)
    while 2 * lower.shape[1] <= n_sub_boxes:
        widest = np.argmax(upper - lower, axis=2)[..., None]
        ends = (np.take_along_axis(corner, widest, axis=2) for corner in (lower, upper))
        middle = sum(0.5 * end for end in ends)
        first_upper, second_lower = upper.copy(), lower.copy()
        np.put_along_axis(first_upper, widest, middle, axis=2)
        np.put_along_axis(second_lower, widest, middle, axis=2)
        lower = np.concatenate([lower, second_lower], axis=1)
        upper = np.concatenate([first_upper, upper], axis=1)
    return lower.reshape(count, -1, *shape), upper.reshape(count, -1, *shape)


def _converted(model: Model, method: str = "crown") -> Converted:
    return model if isinstance(model, Converted) else clone(model, method)


def _box_domain(converted: Converted, x_min: ArrayLike, x_max: ArrayLike) -> Domain:
    return box(_shaped(converted, "x_min", x_min), _shaped(converted, "x_max", x_max))


def _ball_domain(converted: Converted, x: ArrayLike, eps: float, p: float) -> Domain:
    if not isinstance(p, int | float) or p not in _NORMS:
        raise ValueError(f"`p` must be 1, 2 or numpy.inf. Received: p={p!r}.")
    return ball(_shaped(converted, "x", x), eps, _NORMS[p], clip=None)


def _shaped(converted: Converted, name: str, x: ArrayLike) -> np.ndarray:
    """(n, *input shape) from that or from flattened samples."""
    x, shape = np.asarray(x), converted.program.input_shape
    if x.ndim < 2 or not len(x) or np.prod(x.shape[1:]) != np.prod(shape):
        raise ValueError(
            f"`{name}` must have the shape (n, *{shape}), the model's input shape, or its flattened"
            f" form. Received: {x.shape}."
        )
    return x.reshape(len(x), *shape)


def _lower(converted: Converted, domain: Domain, objectives: np.ndarray) -> np.ndarray:
    """The best lower bounds (n, objectives) of the methods behind a name."""
    program = converted.program
    names = METHODS_BY_NAME[converted.method]
    found = np.max([lower_bounds(program, name, domain, objectives) for name in names], axis=0)
    # Nothing is proven where the model itself returns something else than its program.
    is_confirmed = confirmed(converted.model, program, domain.center)
    return np.where(is_confirmed[:, None], found, -np.inf)


def _range(
    converted: Converted, domain: Domain, batch_size: int, n_sub_boxes: int
) -> tuple[np.ndarray, np.ndarray]:
    eye, options = np.eye(converted.program.outputs)[None], (domain, batch_size, n_sub_boxes)
    return (
        _over_parts(*options, lambda part, index: -_lower(converted, part, -eye), np.max),
        _over_parts(*options, lambda part, index: _lower(converted, part, eye), np.min),
    )


def _adversarial(
    converted: Converted,
    domain: Domain,
    source: ArrayLike,
    target: ArrayLike | None,
    batch_size: int,
    n_sub_boxes: int,
) -> np.ndarray:
    """Upper bounds (n,) of how far a target label can exceed a source label."""
    objectives = objectives_of(source, target, len(domain), converted.program.outputs)

    def score(part: Domain, index: np.ndarray) -> np.ndarray:
        return -_lower(converted, part, objectives[index]).min(axis=1)

    return _over_parts(domain, batch_size, n_sub_boxes, score, np.max)


def _over_parts(
    domain: Domain, batch_size: int, n_sub_boxes: int, score: Callable, extreme: Callable
) -> np.ndarray:
    """`score(domains, sample of each)`, batch by batch, and its extreme over sub-boxes."""
    if batch_size != -1:
        check_count("batch_size", batch_size, ", or -1 for all samples")
    check_count("n_sub_boxes", n_sub_boxes)
    size = len(domain) if batch_size == -1 else batch_size
    results = []
    for start in range(0, len(domain), size):
        index = np.arange(start, min(start + size, len(domain)))
        part, count = domain[index], 1
        if n_sub_boxes > 1:
            lower, upper = refine_boxes(part.lower, part.upper, n_sub_boxes)
            count = lower.shape[1]
            part = box(*(corner.reshape(-1, *corner.shape[2:]) for corner in (lower, upper)))
        scores = score(part, np.repeat(index, count))
        results.append(extreme(scores.reshape(len(index), count, *scores.shape[1:]), axis=1))
    return np.concatenate(results)


def _values(program: Program, points: np.ndarray, objectives: np.ndarray) -> np.ndarray:
    """(n, objectives) values of linear functions of the outputs at points, in float64."""
    outputs = evaluate(program, points)[program.output].numpy().reshape(len(points), -1)
    return np.einsum("nrc,nc->nr", objectives, outputs)
