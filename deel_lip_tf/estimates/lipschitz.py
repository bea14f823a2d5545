"""Lower estimates of Lipschitz constants, searched for on data.

Three ways to look for how much a model stretches a difference, none of which proves anything: the
true constant may be larger. `deel_lip_tf.bounds.lipschitz_bound` bounds it from above; the two
together say how tight the bound is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from deel_lip_tf._validation.arrays import numeric
from deel_lip_tf._validation.scalars import NOT_NEGATIVE, POSITIVE, Rule, flag, number, whole_number
from deel_lip_tf._validation.shapes import way_to_shape
from deel_lip_tf.bounds.evaluation.directions import column, directions, gradient, norms
from deel_lip_tf.estimates.float64 import in_float64
from deel_lip_tf.normalizers.numerics.arithmetic import frobenius_norm, safe_divide
from deel_lip_tf.semantics.state import as_float64

# Rows of a Jacobian that one backward pass computes.
_ROWS = 256

Function = Callable[[Any], Any]


def evaluate_lip_const(
    model: keras.Model,
    x: ArrayLike | None = None,
    eps: float = 1e-4,
    seed: int | None = None,
    evaluation_type: str | Sequence[str] = "jacobian_norm",
    disjoint_neurons: bool = False,
    *,
    input_shape: tuple[int, ...] | None = None,
    expected_value: float | None = None,
    num_noisy_samples: int = 10,
    epsilon_noise: float = 1.0,
    num_iterations: int = 100,
    step_size: float = 1e-2,
    double_attack: bool = False,
) -> float:
    """A lower estimate of the L2 Lipschitz constant of a model, at inference, from some samples.

    The largest of what these searches find, each for every sample:

    * `"jacobian_norm"`: the spectral norm of the Jacobian at the sample, by one backward pass for
      each output: exact for a linear model.
    * `"noise_norm"`: `||f(x + d) - f(x)|| / ||d||` for Gaussian `d`.
    * `"attack"`: the same quotient for a `d` of norm `eps` that is driven uphill: each step gives
      it the direction of the gradient of `||f(x + d) - f(x)||**2`, which is a power iteration where
      the model is linear.

    Sequential and functional models of layers of Keras and of this library are evaluated in
    float64, so that the estimate exceeds the true constant by no more than float64 rounding; others
    in their own precision, with `eps` raised to where their rounding matters little. On PyTorch,
    where Keras multiplies matrices of float64 in float32, all are.

    Args:
        model: a model of one input and one output tensor, which is flattened.
        x: samples (n, ...); `None` draws Gaussian ones of `input_shape`.
        eps: norm of the perturbations of the attack: positive, in the input's units.
        seed: of the random numbers; `None` for other ones at each call.
        evaluation_type: one of the three names, a list of them, or `"all"`.
        disjoint_neurons: the largest constant of a single output instead of that of all jointly.
        input_shape: shape (n, ...) of the samples to draw where `x` is `None`.
        expected_value: raise if the estimate is above this.
        num_noisy_samples: perturbations of each sample by noise.
        epsilon_noise: standard deviation of the noise.
        num_iterations: steps of the attack.
        step_size: length of the steps of the samples, with `double_attack`.
        double_attack: whether the attack also moves the samples, to where they are stretched more.

    Returns:
        The estimate. For an upper bound see `deel_lip_tf.bounds.lipschitz_bound`.

    Raises:
        TypeError: `model` is not a Keras model, or an argument not of its type.
        ValueError: an unknown `evaluation_type`, neither `x` nor `input_shape`, samples that the
            model does not take, several inputs or outputs, a number outside its range, or an
            estimate above `expected_value`.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((3,)), dense])
        >>> limit = lip.bounds.lipschitz_bound(model).value
        >>> for search in ("jacobian_norm", "noise_norm", "attack"):
        ...     estimate = lip.utils.evaluate_lip_const(model, np.eye(3), 1e-4, 0, search)
        ...     print(search, round(estimate, 1), estimate <= limit)
        jacobian_norm 2.4 True
        noise_norm 2.4 True
        attack 2.4 True
    """
    _check_model(model)
    names = _standardize_types(evaluation_type)
    if expected_value is not None:
        expected_value = number(
            "expected_value", expected_value, Rule(lambda value: value >= 0, "at least 0")
        )
    disjoint_neurons = flag("disjoint_neurons", disjoint_neurons)
    seed = None if seed is None else whole_number("seed", seed, least=0)
    # One stream for each search: it finds the same whether or not others run before it.
    samples, noise, attack = np.random.default_rng(seed).spawn(3)
    searches: dict[str, Callable[..., float]] = {
        "jacobian_norm": _jacobian_norm,
        "noise_norm": partial(
            _noise_norm,
            samples=whole_number("num_noisy_samples", num_noisy_samples),
            deviation=number("epsilon_noise", epsilon_noise, POSITIVE),
            rng=noise,
        ),
        "attack": partial(
            _attack,
            iterations=whole_number("num_iterations", num_iterations),
            radius=number("eps", eps, POSITIVE),
            step_size=number("step_size", step_size, NOT_NEGATIVE),
            moves_samples=flag("double_attack", double_attack),
            rng=attack,
        ),
    }
    x = _drawn(input_shape, samples) if x is None else np.asarray(x)
    function, x = _flat_function(model, x)
    largest = max(searches[name](function, x, disjoint_neurons) for name in names)
    if expected_value is not None and not largest <= expected_value:
        raise ValueError(
            f"The Lipschitz constant of model {model.name!r} is at least {largest}, more than "
            f"`expected_value`={expected_value}."
        )
    return largest


def evaluate_lip_const_gen(
    model: keras.Model,
    generator: Iterable,
    eps: float = 1e-4,
    seed: int | None = None,
    **kwargs: Any,
) -> float:
    """`evaluate_lip_const` on the first batch of a generator.

    Args:
        model: a Keras model of one input and one output tensor, which is flattened.
        generator: an iterable of batches `x` or `(x, y, ...)`.
        eps: norm of the perturbations of the attack: positive, 1e-4 by default, in the input's
            units.
        seed: of the random numbers, at least 0; `None`, the default, for other ones at each call.
        **kwargs: every other argument of `evaluate_lip_const`.

    Returns:
        The estimate, from below.

    Raises:
        TypeError: `generator` is not an iterable, `model` is not a Keras model, or an argument not
            of its type.
        ValueError: an empty generator, samples that the model does not take, several inputs or
            outputs, or another argument that `evaluate_lip_const` refuses.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((3,)), dense])
        >>> batches = ((np.eye(3), np.zeros(3)) for _ in range(10))
        >>> round(lip.utils.evaluate_lip_const_gen(model, batches, seed=0), 4)
        2.4495
    """
    if not isinstance(generator, Iterable):
        raise TypeError(
            "`generator` must be an iterable of batches. Received: an object of type "
            f"{type(generator).__name__}. For an array, call `evaluate_lip_const`."
        )
    batch = next(iter(generator), None)
    if batch is None or (isinstance(batch, tuple | list) and not batch):
        raise ValueError(
            f"`generator` must yield at least one batch. Received: {batch!r} first. For samples "
            "drawn at random, call `evaluate_lip_const` with `input_shape`."
        )
    x = batch[0] if isinstance(batch, tuple | list) else batch
    return evaluate_lip_const(model, x, eps, seed, **kwargs)


def l2_normalize(tensor: ArrayLike, axis: int | Sequence[int] | None = None) -> Any:
    """`tensor / ||tensor||_2` over `axis`, and 0 where that norm is 0.

    Args:
        tensor: numbers.
        axis: an axis or several; all by default.

    Returns:
        A tensor of the same shape, of norm 1 along `axis` where it was not 0.

    Raises:
        TypeError: `tensor` does not hold numbers.

    Example:
        >>> print(np.asarray(lip.utils.l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]]), axis=1)))
        [[0.6 0.8]
         [0.  0. ]]
    """
    tensor = ops.convert_to_tensor(numeric("tensor", tensor))
    return safe_divide(tensor, frobenius_norm(tensor, axis=axis, keepdims=True))


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model. Received: an object of type {type(model).__name__}. "
            "For a layer, put it into a `Sequential`."
        )
    if isinstance(model, keras.Sequential | keras.Function) and model.built:
        counts = len(model.inputs), len(model.outputs)
        if counts != (1, 1):
            raise ValueError(
                "`model` must have one input and one output. Received: model "
                f"{model.name!r} with {counts[0]} inputs and {counts[1]} outputs. Make a model of "
                "one of them, or concatenate them."
            )


def _check_samples(model: keras.Model, x: np.ndarray) -> None:
    if x.dtype.kind not in "biuf" or x.ndim < 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(
            "`x` must hold at least one sample, of finite real numbers, with a batch axis. "
            f"Received: shape {x.shape}, dtype {x.dtype}."
        )
    if isinstance(model, keras.Sequential | keras.Function) and model.built:
        taken = tuple(model.inputs[0].shape)
        pairs = zip(taken[1:], x.shape[1:], strict=False)
        if len(taken) != x.ndim or any(one not in (None, other) for one, other in pairs):
            raise ValueError(
                f"`x` must hold samples that the model takes, shape {taken}. Received: shape "
                f"{x.shape}.{way_to_shape(x.shape, taken[1:])}"
            )


def _drawn(input_shape: Any, rng: np.random.Generator) -> np.ndarray:
    is_shape = isinstance(input_shape, list | tuple) and len(input_shape) > 1
    if not (is_shape and all(isinstance(size, int) and size > 0 for size in input_shape)):
        raise ValueError(
            "`input_shape`, the shape (n, ...) of the samples to draw, is needed where `x` is "
            f"None. Received: input_shape={input_shape!r}."
        )
    return rng.standard_normal(input_shape)


def _standardize_types(evaluation_type: Any) -> list[str]:
    known = ["jacobian_norm", "noise_norm", "attack"]
    is_list = isinstance(evaluation_type, list | tuple)
    names = list(evaluation_type) if is_list else [evaluation_type]
    if names == ["all"]:
        return known
    if not names or any(name not in known for name in names):
        raise ValueError(
            f'`evaluation_type` must be "all", one of {known} or a list of them. Received: '
            f"{evaluation_type!r}."
        )
    return names


def _jacobian_norm(function: Function, x: np.ndarray, disjoint: bool) -> float:
    return max(_matrix_norm(_jacobian(function, sample), disjoint) for sample in x)


def _noise_norm(
    function: Function,
    x: np.ndarray,
    disjoint: bool,
    *,
    samples: int,
    deviation: float,
    rng: np.random.Generator,
) -> float:
    noises = [deviation * rng.standard_normal(x.shape) for _ in range(samples)]
    return max(_largest_quotient(function, x, x + noise, disjoint) for noise in noises)


def _attack(
    function: Function,
    x: np.ndarray,
    disjoint: bool,
    *,
    iterations: int,
    radius: float,
    step_size: float,
    moves_samples: bool,
    rng: np.random.Generator,
) -> float:
    # Below this the rounding of the outputs would pass for a difference.
    floor = math.sqrt(np.finfo(x.dtype).eps) * np.maximum(norms(x), 1.0)
    lengths = column(np.maximum(radius, floor), x)
    delta = lengths * directions(rng.standard_normal(x.shape))
    stretch, largest = partial(_squared_stretch, function, disjoint), 0.0
    for _ in range(iterations):
        uphill = gradient(partial(stretch, ops.convert_to_tensor(x)), delta.astype(x.dtype))
        delta = np.where(column(norms(uphill), x) > 0, lengths * directions(uphill), delta)
        largest = max(largest, _largest_quotient(function, x, x + delta, disjoint))
        if moves_samples:
            fixed = ops.convert_to_tensor(delta.astype(x.dtype))
            uphill = gradient(partial(stretch, delta=fixed), x)
            x = (x + step_size * directions(uphill)).astype(x.dtype)
    return largest


def _squared_stretch(function: Function, disjoint: bool, at: Any, delta: Any) -> Any:
    """Sum over the samples of `||f(x + d) - f(x)||**2`, or of its largest term if disjoint."""
    squares = ops.square(function(at + delta) - function(at))
    return ops.sum(ops.max(squares, axis=1) if disjoint else squares)


def _largest_quotient(
    function: Function, x: np.ndarray, moved: np.ndarray, disjoint: bool
) -> float:
    moved = np.asarray(moved, dtype=x.dtype)
    values = [as_float64(function(a)) for a in (moved, x)]
    differences = np.abs(values[0] - values[1])
    stretch = differences.max(axis=1) if disjoint else norms(differences)
    # The step that was made, not the one that was asked for: adding it to x rounds it.
    steps = norms(moved.astype(np.float64) - x.astype(np.float64))
    return float((stretch[steps > 0] / steps[steps > 0]).max(initial=0.0))


def _matrix_norm(matrix: np.ndarray, disjoint: bool) -> float:
    return float(norms(matrix).max() if disjoint else np.linalg.norm(matrix, 2))


def _jacobian(function: Function, sample: np.ndarray) -> np.ndarray:
    """(outputs, inputs) derivative at one sample, `_ROWS` rows for each backward pass."""
    outputs = function(sample[None]).shape[-1]
    blocks = []
    for start in range(0, outputs, _ROWS):
        # A tensor: PyTorch takes no product with an array where it differentiates.
        rows = ops.convert_to_tensor(np.eye(outputs, dtype=sample.dtype)[start : start + _ROWS])
        # Each copy of the sample is differentiated for an output of its own.
        copies = np.broadcast_to(sample, (rows.shape[0], *sample.shape))

        def weighted(x: Any, rows: Any = rows) -> Any:
            return ops.sum(function(x) * rows)

        blocks.append(gradient(weighted, copies))
    return np.concatenate(blocks).reshape(outputs, -1).astype(np.float64)


def _flat_function(model: keras.Model, x: np.ndarray) -> tuple[Function, np.ndarray]:
    """`(function, x)`: a batch to its flattened outputs, and `x` in the type it is computed in."""
    _check_samples(model, x)
    # On PyTorch Keras multiplies matrices of float64 in float32.
    copy = in_float64(model) if keras.backend.backend() != "torch" else None
    model = copy or model
    dtype = "float64" if copy is not None else getattr(model, "compute_dtype", "float32")

    def function(batch: Any) -> Any:
        outputs = model(ops.convert_to_tensor(batch), training=False)
        return ops.reshape(outputs, (batch.shape[0], -1))

    return function, x.astype(dtype if dtype in ("float32", "float64") else "float32")
