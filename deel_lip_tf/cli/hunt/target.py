"""What is hunted: a model under one dtype policy, its claims, and samples to start from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from deel_lip_tf._rounding import UNITS
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.certificates import Certificates, certify, margin_lipschitz_constants
from deel_lip_tf.cli.hunt.referee import Referee
from deel_lip_tf.layers.base import LipschitzLayer

POLICIES = ("float32", "float64", "mixed_bfloat16", "mixed_float16")


# A kernel is rounded to the type it is computed with after it is scaled to the constant of its
# layer: unit roundoffs of these types, and how many of them a norm may exceed its promise by.
_ROUNDINGS = 16


@dataclass(frozen=True)
class Promise:
    """A layer of this library by itself, and the constant it promises.

    Attributes:
        name: of the layer.
        constant: its `k_coef_lip`; of a layer with disjoint neurons, that of all of them together.
        referee: the layer as a model.
        shape: of one input.
    """

    name: str
    constant: float
    referee: Referee
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """A model and what is claimed of it.

    Attributes:
        policy: its dtype policy, or "as saved".
        model: the model.
        referee: decides what its exact function is.
        bound: proven Lipschitz constant.
        divisors: see `certificates.margin_lipschitz_constants`.
        x: (n, ...) float64 samples.
        certificates: by the name of their semantics.
        promises: of its layers.
        unsupported: why there is none, by the name of the semantics.
    """

    policy: str
    model: keras.Model
    referee: Referee
    bound: float
    divisors: np.ndarray
    x: np.ndarray
    certificates: dict[str, Certificates]
    promises: list[Promise]
    unsupported: dict[str, str]

    @classmethod
    def of(cls, policy: str, model: keras.Model, x: np.ndarray) -> "Target":
        """Proves and certifies.

        Raises:
            TypeError, ValueError: as `certify`, with `semantics="real"`.
        """
        claims, unsupported = {"real": certify(model, x, local=True)}, {}
        try:
            claims["float32"] = certify(model, x, semantics="float32", local=True)
        except ValueError as error:
            unsupported["float32"] = str(error)
        bound, divisors = lipschitz_bound(model).value, margin_lipschitz_constants(model)
        promises = [promise for layer in _leaves(model) for promise in _promises(layer)]
        return cls(policy, model, Referee(model), bound, divisors, x, claims, promises, unsupported)


@dataclass(frozen=True)
class Finding:
    """A claim that is false, with everything that shows it.

    Attributes:
        claim: what was claimed, in words.
        semantics: "real" or "float32".
        policy: of the model.
        x: the input the claim was about.
        other: the input that refutes it.
        claimed: the number that was claimed.
        found: the number that was found.
    """

    claim: str
    semantics: str
    policy: str
    x: np.ndarray
    other: np.ndarray
    claimed: float
    found: float

    def __str__(self) -> str:
        return (
            f"{self.claim} (semantics {self.semantics}, policy {self.policy}): "
            f"claimed {self.claimed:.9g}, found {self.found:.9g}"
        )


def _leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield from _leaves(layer) if isinstance(layer, keras.Model) else [layer]


def _promises(layer: keras.layers.Layer) -> list[Promise]:
    """The promise of a layer that makes one whatever its weights are, for inputs of known size."""
    if not isinstance(layer, LipschitzLayer) or not layer.built or not layer.is_guaranteed:
        return []
    shape = layer.get_build_config()["input_shape"][1:]
    if not all(isinstance(size, int) for size in shape):
        return []
    inputs = keras.Input(shape, dtype=layer.compute_dtype)
    constant = layer.k_coef_lip * (1.0 + _ROUNDINGS * UNITS[layer.compute_dtype])
    if getattr(layer, "disjoint_neurons", False):
        constant *= layer.units**0.5
    model = keras.Model(inputs, layer(inputs))
    return [Promise(layer.name, constant, Referee(model), tuple(shape))]


def under_policy(model: keras.Model, policy: str) -> keras.Model:
    """The same model and weights with every layer under another dtype policy.

    Raises:
        TypeError, ValueError: if Keras cannot rebuild it so.
    """
    copy = type(model).from_config(_with_policy(model.get_config(), policy))
    copy.set_weights([keras.ops.convert_to_numpy(weight) for weight in model.weights])
    return copy


def _with_policy(config: Any, policy: str) -> Any:
    if isinstance(config, list | tuple):
        return type(config)(_with_policy(item, policy) for item in config)
    if not isinstance(config, dict):
        return config
    is_input = config.get("class_name") in ("InputLayer", "__keras_tensor__")
    if is_input:
        policy = "float64" if policy == "float64" else "float32"
    return {k: policy if k == "dtype" else _with_policy(v, policy) for k, v in config.items()}
