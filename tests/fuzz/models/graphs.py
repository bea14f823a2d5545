"""Random graphs: a seed is a Keras model and the function that it computes, in NumPy.

A graph grows call by call. What is called may be a layer, an operation, an earlier call's layer
again, or another graph: a model with one or two inputs and up to three outputs, given by list or by
name, of which the outer graph takes some.
"""

import math
from dataclasses import dataclass, field

import keras
import numpy as np

import deel_lip_tf as lip
from tests.fuzz.models import integers, library, operations, plain, windows
from tests.fuzz.models.steps import Draw, Step, forget, randomized

__all__ = ["Graph", "growing", "is_integer"]

_MOST = 40  # entries of a tensor
_LAYERS = {**plain.ROWS, **windows.ROWS, **library.ROWS}
_ROWS = {**_LAYERS, **operations.ROWS}
_MERGES = {**operations.MERGES, **library.MERGES}


def is_integer(dtype) -> bool:
    return not keras.backend.is_float_dtype(keras.backend.standardize_dtype(dtype))


def _drawn(draw: Draw, rows: dict):
    weights = np.array(list(rows.values()), float)
    return list(rows)[draw.rng.choice(len(rows), p=weights / weights.sum())]


@dataclass(eq=False)
class Graph:
    """Calls in order, and the model that Keras made of them.

    Attributes:
        draw: of the random choices.
        tensors: all symbolic tensors, the inputs first.
        inputs: how many of them are inputs.
        calls: `(step, positions of its inputs, positions of its outputs)`.
        outputs: positions of the outputs.
        model: once it is finished.
        names: of the inputs and of the outputs where they are given by name.
        last: the tensor that the next call most likely goes on with.
        is_coarse: whether a value was computed by Keras, with the rounding of float32.
        starts: positions of the inputs, where the model begins inside of the graph.
    """

    draw: Draw
    tensors: list
    inputs: int
    calls: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    model: keras.Model | None = None
    names: tuple = (None, None)
    last: int = 0
    is_coarse: bool = False
    starts: list | None = None

    def put(self, step: Step, *positions: int) -> list[int]:
        """Calls a step on tensors; returns the positions of what it gives."""
        results = step.apply(*[self.tensors[i] for i in positions])
        results = list(results) if isinstance(results, list | tuple) else [results]
        first = len(self.tensors)
        self.tensors += results
        self.calls.append((step, positions, list(range(first, len(self.tensors)))))
        self.last = len(self.tensors) - 1
        return self.calls[-1][2]

    def shape(self, position: int) -> tuple[int, ...]:
        return tuple(self.tensors[position].shape[1:])

    def value(self, arrays: list[np.ndarray], seen: dict | None = None, prefix: str = "") -> list:
        """The outputs for arrays (samples, ...); `seen` takes the outputs of layers by name."""
        known = dict(zip(self.starts or range(self.inputs), self._received(arrays), strict=True))
        for step, given, results in self.calls:
            if results[0] in known or not known.keys() >= set(given):
                continue  # of the whole graph, where this is the end of one
            arguments = [known[i] for i in given]
            if isinstance(step.owned, Graph):
                found = step.owned.value(arguments, seen, f"{prefix}{step.layer.name}/")
                self.is_coarse |= step.owned.is_coarse
            elif _only_keras_knows(step, arguments):
                found, self.is_coarse = integers.run(step.apply, arguments), True
            else:
                found = step.value(*arguments)
            found = list(found) if isinstance(found, list | tuple) else [found]
            known.update(zip(results, found, strict=True))
            if seen is not None and step.layer is not None and len(found) == 1:
                seen.setdefault(prefix + step.layer.name, []).append(found[0])
        return [known[i] for i in self.outputs]

    def _received(self, arrays):
        """A model converts what it is given to the types of its inputs."""
        tensors = [self.tensors[i] for i in self.starts or range(self.inputs)]
        for array, tensor in zip(arrays, tensors, strict=True):
            if is_integer(tensor.dtype):
                is_kept = array.dtype.name == tensor.dtype
                yield array if is_kept else integers.cast_to(array, tensor.dtype)
            else:
                yield array.astype(np.float64) if array.dtype.kind in "iu" else array

    def kinds(self) -> list[str]:
        """Of all calls, those of nested models included."""
        found = []
        for step, _, _ in self.calls:
            found.append(step.kind)
            if isinstance(step.owned, Graph):
                found += step.owned.kinds()
        return found

    def steps(self) -> list[Step]:
        """Each step once, those of nested models included."""
        found = {}
        for step, _, _ in self.calls:
            found[id(step)] = step
            if isinstance(step.owned, Graph):
                found |= {id(inner): inner for inner in step.owned.steps()}
        return list(found.values())

    def finish(self, outputs: list[int], kind=keras.Model, names=(None, None)) -> "Graph":
        """Makes the model."""
        self.outputs, self.names = outputs, names
        given, wanted = self.tensors[: self.inputs], [self.tensors[i] for i in outputs]
        inputs = dict(zip(names[0], given, strict=True)) if names[0] else given
        results = dict(zip(names[1], wanted, strict=True)) if names[1] else wanted
        single = lambda x: x[0] if isinstance(x, list) and len(x) == 1 else x  # noqa: E731
        self.model = kind(single(inputs), single(results))
        return self

    def text(self) -> str:
        """In one line, for the report of a violation."""
        parts = [
            f"{step.kind}{list(given)}"
            + (f"={{{step.owned.text()}}}" if isinstance(step.owned, Graph) else "")
            for step, given, _ in self.calls
        ]
        shapes = [f"{self.shape(i)}:{self.tensors[i].dtype}" for i in range(self.inputs)]
        return f"{'+'.join(shapes)} {' '.join(parts)} -> {self.outputs}"


def _only_keras_knows(step: Step, arguments: list) -> bool:
    """Whether a step meant for real numbers meets integers: what it does is up to Keras.

    Merge layers say that they return floating point, and return the integers that they are given.
    """
    return not step.kind.startswith("integer") and any(x.dtype.kind in "iu" for x in arguments)


def growing(draw: Draw, inputs: list[tuple], calls: int, depth: int = 0) -> Graph:
    """A graph of some random calls on inputs `(shape, dtype)`, without outputs yet."""
    tensors = [keras.Input(shape, dtype=dtype) for shape, dtype in inputs]
    graph = Graph(draw, tensors, len(tensors))
    made = 0
    for _ in range(8 * calls):
        if made == calls:
            break
        made += _grow(graph, depth)
    return graph


def _grow(graph: Graph, depth: int) -> bool:
    """One more call; whether it was possible."""
    draw = graph.draw
    position = _chosen(graph)
    if is_integer(graph.tensors[position].dtype):
        return _grow_integers(graph, position)
    move = draw.one_of(*("layer",) * 10, *("merge",) * 3, *("again",) * 2, *("model",) * 3)
    if move == "again":
        return _again(graph, position)
    if move == "model":
        return depth < 2 and _nested(graph, position, depth)
    if move == "merge":
        return _merged(graph, position, _drawn(draw, _MERGES))
    return _called(graph, _drawn(draw, _ROWS), position)


def _chosen(graph: Graph) -> int:
    """A tensor, mostly the last one."""
    return graph.last if graph.draw.chance(0.7) else graph.draw.size(0, len(graph.tensors) - 1)


def _called(graph: Graph, row, *positions: int) -> bool:
    shape = graph.shape(positions[0])
    if not shape or math.prod(shape) > _MOST or (step := row(graph.draw, shape)) is None:
        return False
    results = graph.put(step, *positions)
    if all(math.prod(graph.shape(i)) <= _MOST for i in results):
        return True
    _undo(graph)
    return False


def _undo(graph: Graph) -> None:
    _, given, results = graph.calls.pop()
    del graph.tensors[results[0] :]
    graph.last = given[0]


def _merged(graph: Graph, position: int, row) -> bool:
    same = [
        i for i, tensor in enumerate(graph.tensors)
        if graph.shape(i) == graph.shape(position)
        and is_integer(tensor.dtype) == is_integer(graph.tensors[position].dtype)
    ]  # fmt: skip
    return _called(graph, row, int(graph.draw.one_of(*same)), position)


def _grow_integers(graph: Graph, position: int) -> bool:
    draw = graph.draw
    kind = draw.one_of("row", "row", "end", "end", "merge")
    if kind == "merge":
        return _merged(graph, position, _drawn(draw, integers.MERGES))
    return _called(graph, _drawn(draw, integers.ROWS if kind == "row" else integers.ENDS), position)


def _again(graph: Graph, position: int) -> bool:
    """A step that was called before, on another tensor of the same shape."""
    fitting = [
        step for step, given, _ in graph.calls
        if len(given) == 1 and graph.shape(given[0]) == graph.shape(position)
        and graph.tensors[given[0]].dtype == graph.tensors[position].dtype
    ]  # fmt: skip
    if not fitting:
        return False
    graph.put(graph.draw.one_of(*fitting), position)
    return True


def _nested(graph: Graph, position: int, depth: int) -> bool:
    """A model, called on one or two tensors."""
    draw, positions = graph.draw, [position]
    if draw.chance(0.3):
        positions.append(_chosen(graph))
    if any(is_integer(graph.tensors[i].dtype) for i in positions):
        return False
    if draw.chance(0.25) and len(positions) == 1:
        return _sequential(graph, position)
    if draw.chance(0.15) and len(positions) == 1:
        return _tail(graph, position)
    dtypes = ["int32" if draw.chance(0.03) else graph.tensors[i].dtype for i in positions]
    shapes = [(graph.shape(i), dtype) for i, dtype in zip(positions, dtypes, strict=True)]
    inner = growing(draw, shapes, draw.size(1, 4), depth + 1)
    candidates = range(1 if draw.chance(0.9) else 0, len(inner.tensors))
    if not candidates:
        return False
    chosen = draw.rng.choice(candidates, min(draw.size(1, 3), len(candidates)), replace=False)
    by_name = draw.one_of(None, None, ("z", "a")[: len(positions)]) if depth == 0 else None
    result_names = draw.one_of(None, None, ("y", "x", "b")[: len(chosen)])
    kind = draw.one_of(keras.Model, keras.Model, lip.Model)
    inner.finish([int(i) for i in chosen], kind, (by_name, result_names))
    graph.last = int(draw.one_of(*graph.put(nested_step(inner), *positions)))
    return True


def nested_step(inner: Graph) -> Step:
    """The call of a finished graph."""
    names = inner.names

    def apply(*tensors):
        given = dict(zip(names[0], tensors, strict=True)) if names[0] else list(tensors)
        given = given[0] if isinstance(given, list) and len(given) == 1 else given
        results = inner.model(given)
        return [results[name] for name in names[1]] if names[1] else results

    kind = type(inner.model).__name__
    detail = f"{len(inner.outputs)} outputs" + (" by name" if names[1] else "")
    detail += ", inputs by name" if names[0] else ""
    return Step(f"model({kind}, {detail})", apply, inner.value, inner.model, inner)


def _sequential(graph: Graph, position: int) -> bool:
    """A `Sequential` of some layers, which may also be called elsewhere."""
    draw, tensor = graph.draw, graph.tensors[position]
    inner = growing(draw, [(graph.shape(position), tensor.dtype)], 0)
    for _ in range(draw.size(1, 3)):
        _called(inner, _drawn(draw, _LAYERS), inner.last)
    kept = [call[0].layer for call in inner.calls]
    if not kept or any(layer is None for layer in kept):
        return False
    kind = draw.one_of(keras.Sequential, lip.Sequential)
    inner.outputs = [inner.last]
    inner.model = kind([keras.Input(graph.shape(position), dtype=tensor.dtype), *kept])
    graph.put(nested_step(inner), position)
    return True


def _tail(graph: Graph, position: int) -> bool:
    """A model from a tensor inside of a graph to its end: Keras copies the calls between."""
    draw, shape = graph.draw, graph.shape(position)
    inner = growing(draw, [(shape, graph.tensors[position].dtype)], draw.size(2, 4), 2)
    same = [i for i in range(1, len(inner.tensors) - 1) if inner.shape(i) == shape]
    if not same or inner.last in same:
        return False
    inner.starts, inner.outputs = [int(draw.one_of(*same))], [inner.last]
    try:
        inner.model = keras.Model(inner.tensors[inner.starts[0]], inner.tensors[inner.last])
    except ValueError:  # the end depends on more than this tensor
        return False
    graph.put(nested_step(inner), position)
    return True


def set_weights(graph: Graph, rng: np.random.Generator) -> None:
    """Random weights for all layers of a graph."""
    forget()
    for step in graph.steps():
        is_stateful = step.kind.startswith(("Normalization", "integer Normalization"))
        if step.layer is not None and not isinstance(step.layer, keras.Model) and not is_stateful:
            randomized(step.layer, rng)
