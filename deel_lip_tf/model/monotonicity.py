"""Networks that grow, or fall, with some of their inputs."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from deel_lip_tf._validation.models import check_one_to_one
from deel_lip_tf._validation.scalars import POSITIVE, number

_SIGNS = {-1: -1, 0: 0, 1: 1, "decreasing": -1, "none": 0, "increasing": 1}


def monotonic(
    network: keras.Model, monotonicities: Sequence[Any], k_coef_lip: float = 1.0
) -> keras.Model:
    """A model that grows with some features and falls with others: `f(x) + k sum(s_i x_i)`.

    Where no derivative of `f` exceeds `k`, the sum grows with every feature of `s_i = 1` and falls
    with those of `s_i = -1`, whatever the weights and wherever the input is; a feature of `s_i = 0`
    is left alone. The `k` of the sum is rounded up to the type that the model computes in. Every
    function that grows so, and no faster than `2k` with each, can be written like this. The bound
    of `f` is what the caller keeps: by `constraints.AbsoluteSumConstraint` on plain dense layers,
    under which every derivative is at most `k` (a constant for the L1 norm), or by layers of this
    library, which keep the whole gradient within `k` and are less flexible with many features.

    The proof is `bounds.lipschitz_bound(network, norm="l1").value <= k_coef_lip` for all inputs,
    or `verify.monotone(model, feature, domain)` for a box.

    Args:
        network: `f`, a built model from vectors (features,) to vectors, of each of which all
            entries grow.
        monotonicities: one for each feature: 1 or "increasing", -1 or "decreasing", 0 or "none".
        k_coef_lip: `k`, the constant that the network keeps; 1 by default.

    Returns:
        A functional Keras model, the network and a layer `slopes` of fixed weights inside. A
        normalization of the features belongs before it, and one of the outputs behind it.

    Raises:
        TypeError: `network` is no Keras model.
        ValueError: it is no function of vectors, or an argument out of its range.

    Example:
        >>> from deel_lip_tf.constraints import AbsoluteSumConstraint, apply_constraints
        >>> options = dict(kernel_constraint=AbsoluteSumConstraint())
        >>> first, last = (keras.layers.Dense(n, **options) for n in (16, 1))
        >>> parts = [keras.Input((2,)), first, lip.layers.GroupSort2(), last]
        >>> network = keras.Sequential(parts)
        >>> apply_constraints(network)  # from the first step of an optimizer on it does so itself
        >>> model = lip.model.monotonic(network, ["increasing", "none"])
        >>> lip.bounds.lipschitz_bound(network, norm="l1").value <= 1
        True
        >>> domain = lip.verify.box([[-9.0, -9.0]], [[9.0, 9.0]])
        >>> print(lip.verify.monotone(model, 0, domain).status)
        ['proven']

    Source: Kitouni, Nolte and Williams, 2023, arXiv:2307.07512.
    """
    check_one_to_one(network)
    k_coef_lip = number("k_coef_lip", k_coef_lip, POSITIVE)
    inputs, outputs = network.inputs[0].shape[1:], network.outputs[0].shape[1:]
    if len(inputs) != 1 or len(outputs) != 1 or None in (*inputs, *outputs):
        raise ValueError(
            "`network` must map vectors to vectors. Received: a network from "
            f"{tuple(inputs)} to {tuple(outputs)}. Flatten both."
        )
    signs = [_sign(monotonicities, one) for one in monotonicities]
    if len(signs) != inputs[0]:
        raise ValueError(
            f"`monotonicities` must hold one entry for each of the {inputs[0]} features. "
            f"Received: {len(signs)}, {monotonicities!r}."
        )
    slopes = layers.Dense(
        outputs[0], use_bias=False, kernel_initializer="zeros", trainable=False, name="slopes"
    )
    x = keras.Input(inputs)
    model = keras.Model(x, layers.Add()([network(x), slopes(x)]))
    slope = _rounded_up(k_coef_lip, slopes.compute_dtype)
    slopes.set_weights([np.outer(slope * np.array(signs), np.ones(outputs[0]))])
    return model


def _rounded_up(value: float, dtype: str) -> float:
    """The smallest number of a type of floats that is not below a value, as float64."""
    exact = keras.ops.convert_to_tensor([value], "float64")
    nearest = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(exact, dtype)))
    upward = np.nextafter(nearest, np.asarray(np.inf, nearest.dtype))
    return float(nearest[0] if float(nearest[0]) >= value else upward[0])


def _sign(monotonicities: Any, one: Any) -> int:
    if not isinstance(one, int | str | np.integer) or isinstance(one, bool) or one not in _SIGNS:
        raise ValueError(
            '`monotonicities` must hold 1, 0, -1, or "increasing", "none", "decreasing". '
            f"Received: {one!r} in {monotonicities!r}."
        )
    return _SIGNS[one]
