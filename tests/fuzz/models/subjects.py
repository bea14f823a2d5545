"""What claims are made about: a model, the function that it computes, and points to ask at."""

import math
from dataclasses import dataclass

import keras
import numpy as np

import deel_lip_tf as lip
from tests.fuzz.models import integers, library, operations, plain, values
from tests.fuzz.models.graphs import Graph, growing, is_integer, nested_step, set_weights
from tests.fuzz.models.steps import Draw, Step, of_layer

__all__ = ["WIDE", "Subject", "classifier", "network"]

WIDE = np.longdouble
"""The type in which a claim is judged; searches use float64."""

_SHAPES = (
    (3,),
    (5,),
    (8,),
    (4, 2),
    (6, 1),
    (3, 3, 1),
    (5, 4, 1),
    (4, 3, 2),
    (2, 4, 1),
    (2, 2, 2, 1),
)


_KEPT = {"leaky_relu", "elu", "selu", "gelu", "hard_sigmoid", "celu", "hard_silu", "soft_shrink"}
_KEPT_BY = {"LeakyReLU", "ReLU", "ELU", "ops.leaky_relu(slope)", "LipResidual"}


@dataclass(eq=False)
class Subject:
    """A model beside its function.

    Attributes:
        graph: the calls.
        model: what the library is asked about.
        factor: what a model that overrides `__call__` multiplies by.
        normalizes: the function that ends the model and is left out by verification, or "".
        is_stale: whether reloading the model changes it in Keras itself: `Normalization` computes
            with other numbers than its weights say.
    """

    graph: Graph
    model: keras.Model
    factor: float = 1.0
    normalizes: str = ""
    is_stale: bool = False

    @property
    def inputs(self) -> list[tuple]:
        """`(shape, dtype)` of each input."""
        tensors = self.graph.tensors[: self.graph.inputs]
        return [(tuple(t.shape[1:]), keras.backend.standardize_dtype(t.dtype)) for t in tensors]

    @property
    def is_integer(self) -> bool:
        return any(is_integer(dtype) for _, dtype in self.inputs)

    @property
    def limits(self) -> tuple | None:
        """Lowest and highest value of each entry, where some input holds integers."""
        if not self.is_integer:
            return None
        low, high = [], []
        for shape, dtype in self.inputs:
            ends = (-np.inf, np.inf)
            if is_integer(dtype):
                ends = (np.iinfo(dtype).min, np.iinfo(dtype).max)
            low += [ends[0]] * math.prod(shape)
            high += [ends[1]] * math.prod(shape)
        return np.array(low), np.array(high)

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for shape, _ in self.inputs)

    def points(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, size) inputs side by side, in float64; of integer inputs, integers."""
        parts = []
        for shape, dtype in self.inputs:
            if is_integer(dtype):
                part = integers.points(rng, dtype, (count, math.prod(shape)))
            else:
                part = rng.normal(size=(count, math.prod(shape))) * rng.choice([0.3, 1.0, 3.0])
                part = part.astype(np.float32)
            parts.append(part.astype(np.float64))
        return np.concatenate(parts, axis=1)

    def split(self, points: np.ndarray) -> list[np.ndarray]:
        """Rows of all inputs as one array for each."""
        sizes = np.cumsum([math.prod(shape) for shape, _ in self.inputs])[:-1]
        parts = np.split(points, sizes, axis=1)
        return [
            part.reshape(-1, *shape) for part, (shape, _) in zip(parts, self.inputs, strict=True)
        ]

    def __call__(self, points: np.ndarray, seen: dict | None = None) -> np.ndarray:
        """(count, outputs) of all outputs side by side, in the type of `points`."""
        arrays = [
            integers.cast_to(part, dtype) if is_integer(dtype) else part
            for part, (_, dtype) in zip(self.split(points), self.inputs, strict=True)
        ]
        with np.errstate(all="ignore"):
            outputs = self.graph.value(arrays, seen)
        flat = [np.asarray(y, points.dtype).reshape(len(points), -1) for y in outputs]
        return self.factor * np.concatenate(flat, axis=1)

    def arguments(self, points: np.ndarray):
        """What the model itself is called with."""
        parts = [
            integers.cast_to(part, dtype) if is_integer(dtype) else part.astype(dtype)
            for part, (_, dtype) in zip(self.split(points), self.inputs, strict=True)
        ]
        names = self.graph.names[0]
        given = dict(zip(names, parts, strict=True)) if names else parts
        return given[0] if isinstance(given, list) and len(given) == 1 else given

    def run(self, points: np.ndarray) -> np.ndarray:
        """(count, outputs) as the model itself computes them."""
        outputs = self.model(self.arguments(points), training=False)
        names = self.graph.names[1]
        outputs = [outputs[name] for name in names] if names else outputs
        outputs = outputs if isinstance(outputs, list) else [outputs]
        wide = [np.asarray(keras.ops.cast(y, "float64")).reshape(len(points), -1) for y in outputs]
        return np.concatenate(wide, axis=1)

    def rounding(self, points: np.ndarray) -> float:
        """More than what the model's own arithmetic usually differs by from the function."""
        seen: dict = {}
        outputs = self(points, seen)
        arrays = [array for found in seen.values() for array in found] + [outputs]
        largest = max(float(np.abs(array).max(initial=0.0)) for array in arrays)
        return self.unit * (1.0 + largest)

    @property
    def unit(self) -> float:
        """Of the least exact of its policies, with room for what several layers add up."""
        units = {"mixed_bfloat16": 0.1, "mixed_float16": 0.03, "float32": 2e-3, "float64": 1e-6}
        return max(units[policy] for policy in self.graph.draw.used)

    def kinds(self) -> list[str]:
        return self.graph.kinds()

    @property
    def keeps_numbers(self) -> bool:
        """Whether an activation holds a number that TensorFlow keeps in float32.

        A slope of 0.1, the square root in gelu: verification takes it as it is kept, certificates
        for either reading, and the function here as it is written.
        """
        layers = [step.layer for step in self.graph.steps() if step.layer is not None]
        names = {getattr(getattr(layer, "activation", None), "__name__", "") for layer in layers}
        kinds = set(self.kinds())
        return bool(names & _KEPT or kinds & {f"ops.{name}" for name in _KEPT} or kinds & _KEPT_BY)

    def features(self) -> list[str]:
        """What may make a claim hard, for whoever sorts violations."""
        kinds = self.kinds()
        found = {
            "integers": any(kind.startswith("integer") for kind in kinds) or self.is_integer,
            "stale state": self.is_stale,
            "overridden": "replaced call" in kinds or self.factor != 1.0,
            "several outputs": any("outputs" in kind and "1 outputs" not in kind for kind in kinds),
            "softmax": any("oftmax" in kind for kind in kinds),
        }
        return [name for name, holds in found.items() if holds]

    def text(self) -> str:
        override = f" times {self.factor} by __call__" if self.factor != 1.0 else ""
        features = f"({', '.join(self.features()) or 'plain'})"
        policies = "+".join(sorted(self.graph.draw.used))
        return f"{features} {policies} {self.graph.text()}{override}"


def network(seed) -> Subject:
    """Several inputs and outputs, for bounds."""
    draw = Draw(seed)
    inputs = [_input(draw) for _ in range(draw.one_of(1, 1, 2))]
    graph = growing(draw, inputs, draw.size(2, 7))
    last = range(graph.inputs, len(graph.tensors))
    count = min(draw.one_of(1, 1, 1, 2, 3), len(last))
    outputs = [graph.last] if count == 1 else draw.rng.choice(last, count, False)
    names = (
        ("q", "p")[: graph.inputs] if draw.chance(0.15) else None,
        ("z", "y", "x")[:count] if draw.chance(0.2) else None,
    )
    graph.finish([int(i) for i in outputs], _outermost(draw), names)
    return _subject(graph)


def _outermost(draw: Draw) -> type:
    return draw.one_of(keras.Model, keras.Model, lip.Model)


def _input(draw: Draw) -> tuple:
    dtype = draw.one_of(*integers.DTYPES) if draw.chance(0.2) else None
    floating = "float64" if draw.base == "float64" else "float32"
    return draw.one_of(*_SHAPES), dtype or floating


def _subject(graph: Graph, model=None, **others) -> Subject:
    set_weights(graph, np.random.default_rng(graph.draw.rng.integers(2**31)))
    is_stale = any(kind == "Normalization(set)" for kind in graph.kinds())
    return Subject(graph, model or graph.model, is_stale=is_stale, **others)


def classifier(seed) -> Subject:
    """One input, and one row of scores."""
    draw = Draw(seed)
    graph = growing(draw, [_input(draw)], draw.size(1, 5))
    if is_integer(graph.tensors[graph.last].dtype):
        _put(graph, integers.cast(draw, ()))
    if len(graph.shape(graph.last)) != 1:
        _put(graph, plain.flatten(draw, ()))
    draw.one_of(*_HEADS)(graph)
    graph.finish([graph.last], _outermost(draw))
    if draw.chance(0.02):
        return _subject(graph, Overriding(graph.model.inputs, graph.model.outputs), factor=-1.0)
    return _subject(graph, normalizes=_normalizer(graph, graph.last))


@keras.saving.register_keras_serializable("fuzz")
class Overriding(keras.Model):
    """A functional model whose call is not that of its graph."""

    def __call__(self, *arguments, **keywords):
        return -1.0 * super().__call__(*arguments, **keywords)


def _put(graph: Graph, step: Step) -> None:
    graph.put(step, graph.last)


def _scores(graph: Graph, classes: int | None = None) -> Step:
    draw, shape = graph.draw, graph.shape(graph.last)
    classes = classes or draw.one_of(1, 2, 3, 3)
    if draw.chance(0.3):
        layer = lip.layers.SpectralDense(classes, dtype=draw.policy)
        return library.linear_layer(layer, lambda x: x @ library.effective(layer, x), None)
    return plain.dense(draw, shape, classes, None)


def _plain_head(graph: Graph) -> None:
    _put(graph, _scores(graph))


def _no_head(graph: Graph) -> None:
    """The scores are what there is, unless there are too many."""
    if graph.shape(graph.last)[0] > 5:
        _plain_head(graph)


def _one_of_two(graph: Graph) -> None:
    """A nested model of several heads of very different sizes, of which one is taken."""
    draw, classes = graph.draw, graph.draw.one_of(1, 2, 3)
    inner, factor = _inside(graph), draw.one_of(100.0, 0.01)
    large = Step("ops.x * c", lambda x: x * factor, lambda x: x * factor)
    scaled = inner.put(large, 0)[0]
    places = [scaled, *[0] * draw.size(1, 2)]
    heads = [inner.put(_scores(graph, classes), place)[0] for place in places]
    _take(graph, inner, heads, draw.size(0, len(heads) - 1))


def _after_probabilities(graph: Graph) -> None:
    """A nested model of probabilities and of scores that are computed from them."""
    draw, inner = graph.draw, _inside(graph)
    scores = inner.put(_scores(graph, 3), 0)[0]
    probabilities = inner.put(plain.softmax(draw, (3,)), scores)[0]
    last = inner.put(plain.dense(draw, (3,), 2, None), probabilities)[0]
    _take(graph, inner, [probabilities, last], 1)


def _inside(graph: Graph) -> Graph:
    tensor = graph.tensors[graph.last]
    return Graph(graph.draw, [keras.Input(tensor.shape[1:], dtype=tensor.dtype)], 1)


def _take(graph: Graph, inner: Graph, outputs: list[int], index: int) -> None:
    graph.last = graph.put(nested_step(inner.finish(outputs)), graph.last)[index]


def _probabilities(graph: Graph) -> None:
    """Ends with a softmax, or a sigmoid of one score, perhaps with an identity behind it."""
    draw = graph.draw
    _put(graph, _scores(graph, draw.one_of(1, 3)))
    name = "sigmoid" if graph.shape(graph.last) == (1,) else "softmax"
    function = values.ACTIVATIONS[name]
    layer = keras.layers.Activation(name, dtype=draw.policy)
    by_operation = Step(f"ops.{name}", getattr(keras.ops, name), function)
    _put(graph, draw.one_of(of_layer(layer, function, f"Activation({name})"), by_operation))
    if draw.chance(0.4):
        _put(graph, plain.identity(draw, ()))


def _sum_of_two(graph: Graph) -> None:
    first = graph.put(_scores(graph, 3), graph.last)[0]
    second = graph.put(_scores(graph, 3), first)[0]
    row = graph.draw.one_of(*operations.MERGES)
    graph.put(row(graph.draw, (3,)), first, second)


_HEADS = (_plain_head,) * 5 + (_one_of_two,) * 3 + (_after_probabilities, _no_head, _probabilities)
_HEADS += (_sum_of_two, _probabilities)


def _normalizer(graph: Graph, position: int) -> str:
    """ "softmax", or "sigmoid" of one score, where such a function ends the graph."""
    while True:
        found = [call for call in graph.calls if position in call[2]]
        if not found:
            return ""
        step, given, results = found[0]
        if isinstance(step.owned, Graph):
            return _normalizer(step.owned, step.owned.outputs[results.index(position)])
        name = getattr(getattr(step.layer, "activation", None), "__name__", "")
        name = name or {"Softmax": "softmax", "ops.sigmoid": "sigmoid"}.get(step.kind, "")
        name = "softmax" if step.kind == "ops.softmax" else name
        if name == "softmax" or (name == "sigmoid" and graph.shape(position) == (1,)):
            return name
        if step.kind not in _IDENTITIES:
            return ""
        position = given[0]


_IDENTITIES = ("Identity", "Dropout", "GaussianNoise", "ActivityRegularization", "Flatten")
_IDENTITIES += ("Activation(linear)",)
