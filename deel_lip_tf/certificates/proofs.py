"""What is proved of a classifier once, for all samples: how fast the gap of two logits changes."""

from dataclasses import dataclass

import keras
import numpy as np

from deel_lip_tf._rounding import gamma, norm_up, product_up, sqrt_up, sum_up
from deel_lip_tf._validation.models import check_instance
from deel_lip_tf.bounds.chains import find_chains
from deel_lip_tf.bounds.gaps import find_tail
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.semantics.ends import final_call, final_function
from deel_lip_tf.semantics.graph import Call, Graph, graph_of, is_readable
from deel_lip_tf.semantics.state import kernel_of

_PROBABILITIES = ("softmax", "sigmoid", "log_softmax", "log_sigmoid", "hard_sigmoid", "sparsemax")


@dataclass(frozen=True)
class Proof:
    """A classifier and its constants.

    Attributes:
        model: the classifier.
        propagation: the pass over its graph that proved them.
        bound: Lipschitz constant of the logits together.
        divisors: see `margin_lipschitz_constants`.
    """

    model: keras.Model
    propagation: LipschitzPropagation
    bound: float
    divisors: np.ndarray


def margin_lipschitz_constants(model: keras.Model) -> np.ndarray:
    """Proves how fast the gap between two logits may change.

    With logits f, a linear head of columns `w_j` over a K-Lipschitz backbone and L the constant of
    the whole model, `f_i - f_j` is `min(K ||w_i - w_j||, sqrt(2) L)`-Lipschitz. Without a linear
    head only the second constant counts. A single logit is `min(K ||w||, L)`-Lipschitz. A head that
    ends a run of dense layers with rising activations between them is bounded together with these,
    too (`bounds.chains`), which is often less. So is what the last dense layers leave of each
    difference for the convolution before them, or for the layers before that (`bounds.gaps`).

    Args:
        model: a built Sequential or functional model, with one input and an output of shape
            (batch, classes) or (batch, 1) that holds logits, not probabilities.

    Returns:
        (classes, classes) float64, each entry not below the exact constant, and symmetric; the
        diagonal, which is 0 by definition, holds no information. (1, 1) for one output.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if a layer has no bound (all are named), or the shapes or the last activation
            do not fit.

    Example:
        >>> head = keras.layers.Dense(2)
        >>> model = keras.Sequential([keras.Input((2,)), head])
        >>> head.set_weights([np.array([[1.0, 1.0], [0.0, 0.5]]), np.zeros(2)])
        >>> divisors = lip.certificates.margin_lipschitz_constants(model)
        >>> round(float(divisors[0, 1]), 4)  # the columns differ by (0, 0.5)
        0.5
        >>> round(2**0.5 * lip.bounds.lipschitz_bound(model).value, 4)  # of the model as a whole
        2.0653
    """
    return prove(model).divisors


def prove(model: keras.Model, is_thorough: bool = True) -> Proof:
    """The constants of a classifier.

    Args:
        model: the classifier.
        is_thorough: whether to look for weights behind a convolution, too (`bounds.gaps`), which
            may take a second.

    Raises:
        TypeError, ValueError: as `certify`, for the model.
    """
    graph, propagation, bound = bounded(model)
    divisors = _divisors(graph, propagation, bound, _checked_classes(graph))
    if (head := _linear_head(graph)) is not None:
        divisors = _divisors_by_tail(head, propagation, divisors, is_thorough)
    return Proof(model, propagation, bound, divisors)


def bounded(model: keras.Model) -> tuple[Graph, LipschitzPropagation, float]:
    """The graph of a model, the pass that bounded it, and the constant of its first output.

    Raises:
        TypeError, ValueError: as `certify`, for the model.
    """
    check_instance("model", model, keras.Model, "a Keras model")
    propagation = LipschitzPropagation()
    if not is_readable(model):
        propagation.model(model)
        propagation.unsupported.raise_if_any()
    graph = graph_of(model)
    constants = propagation.graph(graph)
    propagation.unsupported.raise_if_any()
    return graph, propagation, constants[0]


def output_constants(graph: Graph, propagation: LipschitzPropagation, bound: float) -> np.ndarray:
    """How fast each entry of the first output may change: (outputs,), or a number for all.

    With a linear head of columns `w_j` over a K-Lipschitz backbone and L the constant of the whole
    model, the least of `K ||w_j||` and L, and of what the theorem of `bounds.chains` says.
    """
    constants = np.array(bound)
    for columns, constant, slack in _linear_forms(graph, propagation):
        # What overflowed is NaN, and proves nothing.
        constants = np.fmin(constants, _rates(columns, constant, slack))
    return constants


def _checked_classes(graph: Graph) -> int:
    """The number of logits, of a graph that fits."""
    shapes = [value.shape for value in graph.outputs]
    is_classifier = len(graph.inputs) == len(shapes) == 1 and len(shapes[0]) == 2
    if not (is_classifier and (count := shapes[0][-1])):
        raise ValueError(
            "`model` must have one input and one output of shape (batch, classes). Received: "
            f"{len(graph.inputs)} inputs and outputs of shapes {shapes}. Certify a model of one "
            "output at a time, by `keras.Model(model.inputs, model.outputs[0])`."
        )
    check_logits(graph)
    return count


def check_logits(graph: Graph) -> None:
    """Refuses a model that ends with probabilities.

    Raises:
        ValueError: it does.
    """
    last = final_call(graph)
    if last is not None and (name := final_function(last.operation)) in _PROBABILITIES:
        raise ValueError(
            f"`model` must return logits. Received: a model that ends with {name!r} in layer "
            f"{last.operation.name!r}. Leave it out (`activation=None`, and `from_logits=True` in "
            "the loss)."
        )


def _divisors(
    graph: Graph, propagation: LipschitzPropagation, bound: float, count: int
) -> np.ndarray:
    joint = bound if count == 1 else product_up(sqrt_up(2.0), bound)
    divisors = np.full((count, count), joint)
    for form in _linear_forms(graph, propagation):
        divisors = np.fmin(divisors, _pairwise(*form))  # NaN, from an overflow, proves nothing
    return divisors


def _divisors_by_tail(
    head: Call, propagation: LipschitzPropagation, divisors: np.ndarray, is_thorough: bool
) -> np.ndarray:
    """The smaller of some divisors and of what the last layers do to each pair of logits."""
    first, second = np.triu_indices(len(divisors), 1)
    tail = find_tail(head)
    if tail is None or not tail.is_cheap(max(len(first), 1)):
        return divisors
    units = np.eye(len(divisors))
    combinations = units[:, first] - units[:, second] if len(divisors) > 1 else units
    if (found := tail.constants(combinations, propagation, is_thorough)) is None:
        return divisors
    smaller = divisors.copy()
    if len(divisors) == 1:
        smaller[0] = np.fmin(divisors[0], found)
    else:
        for places in ((first, second), (second, first)):
            smaller[places] = np.fmin(divisors[places], found)
    return smaller


def _linear_forms(
    graph: Graph, propagation: LipschitzPropagation
) -> list[tuple[np.ndarray, float, float]]:
    """`(V, K, slack)`: combinations c of outputs are `K (||V c|| + slack ||c||)`-Lipschitz."""
    if (head := _linear_head(graph)) is None:
        return []
    forms = [(kernel_of(head.operation), propagation.constants[head.inputs[0]], 0.0)]
    chain = find_chains(graph.calls).get(head)
    if chain is not None and (found := chain.rows()) is not None:
        columns, constant, slack = found
        constant = product_up(propagation.constants[chain.source], constant)
        forms.append((columns, constant, slack))
    return forms


def _pairwise(columns: np.ndarray, constant: float, slack: float = 0.0) -> np.ndarray:
    """`constant (||v_i - v_j|| + sqrt(2) slack)` of columns; of one `constant (||v|| + slack)`."""
    count = columns.shape[1]
    slack = slack if count == 1 else product_up(sqrt_up(2.0), slack)
    found = np.empty((count, count))
    for top in range(count):
        differences = columns if count == 1 else columns[:, top, None] - columns
        found[top] = _rates(differences, constant, slack)
    return found


def _rates(columns: np.ndarray, constant: float, slack: float) -> list[float]:
    """`constant (||v|| + slack)` of columns that are differences of float64 numbers at most."""
    # One rounding for each difference, and those of a sum of squares and of its root.
    norms = [norm_up(np.abs(column)) * (1.0 + gamma(8)) for column in columns.T]
    return [product_up(constant, sum_up([norm, slack])) for norm in norms]


def _linear_head(graph: Graph) -> Call | None:
    """The call of the dense layer without activation that makes the logits, if one does."""
    call = final_call(graph)
    if call is None or not isinstance(call.operation, keras.layers.Dense):
        return None
    is_linear = call.operation.activation in (None, keras.activations.linear)
    return call if is_linear and len(call.inputs[0].shape) == 2 else None
