"""A step: one call in a random graph, as Keras makes it and as NumPy computes it."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from tests.fuzz.models import values

__all__ = [
    "Draw",
    "Step",
    "activated",
    "changed",
    "drawn_activation",
    "forget",
    "of_layer",
    "read",
    "stored",
]

# Those with a constant; the bounds know all of them, verification most.
_STRAIGHT = ("relu", "relu6", "leaky_relu", "hard_sigmoid", "linear", "relu", "hard_tanh")
_SMOOTH = ("tanh", "sigmoid", "elu", "selu", "softplus", "gelu", "silu", "softsign", "celu", "mish")
_SMOOTH += ("log_sigmoid", "tanh_shrink", "squareplus", "soft_shrink", "hard_silu")


_POLICIES = ("float32",) * 12 + ("float64",) * 2 + ("mixed_bfloat16",) * 2 + ("mixed_float16",)


class Draw:
    """The random choices of one graph.

    Attributes:
        rng: behind them.
        base: the dtype policy of most layers.
        used: all policies that layers were given.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.base = self.one_of(*_POLICIES)
        self.used = {self.base}

    @property
    def policy(self) -> str:
        """Of the next layer: now and then another one than of its neighbours."""
        policy = self.one_of(*_POLICIES) if self.chance(0.03) else self.base
        self.used.add(policy)
        return policy

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def size(self, low: int, high: int) -> int:
        """Between both, inclusive."""
        return int(self.rng.integers(low, high + 1))

    def number(self) -> float:
        """One that float32 holds, or one that it rounds; never 0."""
        whole = self.one_of(-3.0, -1.5, -1.0, 0.5, 0.25, 2.0, 1.25)
        third = self.one_of(1 / 25, 1 / 255, 0.1, -0.3, 1.7, 2 / 3, -1.1)
        return self.one_of(whole, third, float(self.rng.normal()) or 1.0)

    def array(self, *shape) -> np.ndarray:
        return self.rng.normal(size=shape)


@dataclass(eq=False)
class Step:
    """What is called once or several times.

    Attributes:
        kind: for the counts, such as "Dense".
        apply: from Keras tensors to a tensor, or a list of them.
        value: from arrays to an array, or a list of them.
        layer: the layer or model behind it, if it is one.
        owned: the steps of a nested model.
    """

    kind: str
    apply: Callable
    value: Callable
    layer: keras.layers.Layer | None = None
    owned: tuple = ()


def of_layer(layer: keras.layers.Layer, value: Callable, kind: str = "") -> Step:
    """The step of a layer; `value` takes the layer's arrays of inputs."""

    def apply(*tensors):
        return layer(tensors[0] if len(tensors) == 1 else list(tensors))

    return Step(kind or type(layer).__name__, apply, value, layer)


_READ: dict = {}


def forget() -> None:
    """Weights have changed: they are read anew."""
    _READ.clear()


def read(key, make: Callable, like: np.ndarray) -> np.ndarray:
    """A tensor as an array of the type of another one; `make` gives it, the first time."""
    key = (key, like.dtype)
    if key not in _READ:
        # bfloat16 is no type of NumPy's own.
        wide = keras.ops.convert_to_numpy(keras.ops.cast(make(), "float64"))
        _READ[key] = np.asarray(wide).astype(like.dtype)
    return _READ[key]


def stored(layer, variable, like: np.ndarray) -> np.ndarray:
    """A weight as the layer computes with it: Keras rounds it where it is read."""
    dtype = layer.compute_dtype if getattr(variable, "_autocast", False) else variable.dtype
    make = lambda: keras.ops.cast(keras.ops.convert_to_tensor(variable), dtype)  # noqa: E731
    return read((id(layer), id(variable)), make, like)


def changed(x: np.ndarray, data_format: str, compute: Callable) -> np.ndarray:
    """`compute` for channels last, on an array of either format."""
    if data_format == "channels_last":
        return compute(x)
    y = compute(np.moveaxis(x, 1, -1))
    return np.moveaxis(y, -1, 1) if y.ndim == x.ndim else y


def drawn_activation(draw: Draw) -> str | None:
    """An `activation=` argument; mostly none or one with straight pieces."""
    return draw.one_of(None, None, draw.one_of(*_STRAIGHT), draw.one_of(*_SMOOTH))


def activated(name: str | None, y: np.ndarray) -> np.ndarray:
    return y if name is None else values.ACTIVATIONS[name](y)


def randomized(layer: keras.layers.Layer, rng: np.random.Generator) -> None:
    """Weights of a size that keeps the numbers of a graph near 1."""
    for variable in layer.weights:
        shape, name = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        if not keras.backend.is_float_dtype(variable.dtype) or name in ("batches", "count"):
            continue
        value = rng.normal(size=shape)
        if "variance" in name:
            value = np.abs(value) + rng.choice([1e-3, 0.3, 1.0])
        elif "kernel" in name:
            value = value * rng.choice([0.5, 1.0, 1.6]) / np.sqrt(max(np.prod(shape[:-1]), 1))
        variable.assign(value.astype(np.float32))
