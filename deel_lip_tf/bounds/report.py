"""What a proven bound consists of, and how far it may be from the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf import plots
from deel_lip_tf._tables import at_least, at_most, html_table, text_table
from deel_lip_tf.bounds.evaluation.estimates import attack_estimate, jacobian_estimate
from deel_lip_tf.bounds.evaluation.model import Float64Evaluator
from deel_lip_tf.bounds.propagation import LipschitzPropagation, lipschitz_bound
from deel_lip_tf.bounds.result import LipschitzBound
from deel_lip_tf.model import vanillaModel
from deel_lip_tf.semantics.graph import is_readable


@dataclass(frozen=True)
class Report:
    """A proven bound, layer by layer, next to lower estimates of the constant.

    Attributes:
        bound: the proven bound with its entries, in the L2 norm.
        product: of the bounds of all entries; it differs from the bound where branches meet, and
            where layers were bounded together.
        jacobian: largest norm of the Jacobian that was found, a lower estimate; None where it was
            not searched for.
        attack: largest quotient `||f(x) - f(y)|| / ||x - y||` found by gradient ascent, a lower
            estimate; None where it was not searched for.
        seconds: that proof and searches took.

    Example:
        >>> model = lip.Sequential([keras.Input((4,)), lip.layers.SpectralDense(4)])
        >>> report = lip.bounds.report(model, samples=2, steps=5)
        >>> report.jacobian <= report.bound.value, report.attack <= report.bound.value
        (True, True)
        >>> sorted(report.as_dict())
        ['attack', 'bound', 'chains', 'jacobian', 'layers', 'norm', 'product', 'seconds', 'slack']
    """

    bound: LipschitzBound
    product: float
    jacobian: float | None
    attack: float | None
    seconds: float

    @property
    def lower(self) -> float | None:
        """The larger of the two lower estimates."""
        found = [value for value in (self.jacobian, self.attack) if value is not None]
        return max(found, default=None)

    @property
    def slack(self) -> float | None:
        """The bound divided by the lower estimate: the true constant lies between the two."""
        return self.bound.value / self.lower if self.lower else None

    def as_dict(self) -> dict:
        """The same as numbers, strings, lists and dicts of Python, fit for JSON."""
        layers = [
            {
                "name": entry.name,
                "type": entry.layer_type,
                "bound": float(entry.value),
                "method": entry.method,
                "seconds": float(entry.seconds),
            }
            for entry in self.bound.per_layer
        ]
        chains = [
            {
                "layers": list(chain.names),
                "bound": float(chain.value),
                "product": float(chain.product),
                "seconds": float(chain.seconds),
            }
            for chain in self.bound.chains
        ]
        return {
            "norm": self.bound.norm,
            "bound": float(self.bound.value),
            "product": float(self.product),
            "jacobian": self.jacobian,
            "attack": self.attack,
            "slack": self.slack,
            "seconds": float(self.seconds),
            "layers": layers,
            "chains": chains,
        }

    def figure(self) -> Any:
        """The picture of `plots.layer_bounds`: one bar for each layer, on a logarithmic scale.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return self.plot()

    def plot(self, *, ax: Any = None) -> Any:
        """`figure`, into `ax` where it is given."""
        return plots.layer_bounds(self, ax=ax)

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("layer", "type", "bound", "seconds", "method")]
        for entry in self.bound.per_layer:
            numbers = at_most(entry.value), f"{entry.seconds:.3f}"
            rows.append((entry.name, entry.layer_type, *numbers, entry.method))
        for chain in self.bound.chains:
            name, kind, value, method = chain.row()
            rows.append((name, kind, value, f"{chain.seconds:.3f}", method))
        return rows

    def __str__(self) -> str:
        lines = text_table(self._rows(), right=(2, 3))
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:], rule, *text_table(self._summary())])

    def _repr_html_(self) -> str:
        head = ("", "value")
        return html_table(self._rows(), right=(2, 3)) + html_table([head, *self._summary()])

    def _summary(self) -> list[tuple[str, str]]:
        numbers = [
            ("proven upper bound", self.bound.value, at_most),
            ("product of all entries", self.product, at_most),
            ("lower estimate, Jacobian", self.jacobian, at_least),
            ("lower estimate, attack", self.attack, at_least),
            ("slack: bound / lower estimate", self.slack, at_most),
        ]
        texts = [(name, "not searched" if n is None else text(n)) for name, n, text in numbers]
        return [*texts, ("seconds", f"{self.seconds:.1f}")]


def report(
    model: keras.Model,
    x: ArrayLike | None = None,
    *,
    budget: float = 1.0,
    samples: int = 8,
    steps: int = 30,
) -> Report:
    """Bounds a model layer by layer and searches for how much it really stretches.

    The L2 bound is that of `lipschitz_bound`. The lower estimates are quotients of pairs of points,
    found from samples by a power iteration with the Jacobian and by gradient ascent; the true
    constant lies between the larger of them and the bound.

    Args:
        model: a built Sequential or functional model, or a layer. Only with one input and one
            output of known sizes it is searched.
        x: samples (n, ...) to begin the search at, in the units of the input; by default, standard
            normal ones.
        budget: how much work the bound of each convolution may cost, counted in operations:
            positive, 1 by default (some seconds for the largest layers); a smaller one is faster
            and looser.
        samples: how many of `x` are used; 0 for no search.
        steps: of each search.

    Returns:
        The report: `print` it, or take `as_dict()` or `figure()`.

    Raises:
        TypeError: if `model` is not a Keras layer or model.
        ValueError: if a layer has no bound (all are named), if `samples` or `steps` is negative, or
            if `x` has another shape than the model's input.

    Example:
        >>> layers = [keras.layers.Dense(2, kernel_initializer="ones") for _ in range(2)]
        >>> model = keras.Sequential([keras.Input((2,)), *layers])
        >>> report = lip.bounds.report(model)
        >>> round(report.jacobian, 3), round(report.bound.value, 3)  # the constant lies between
        (4.0, 4.0)
    """
    for name, value in (("samples", samples), ("steps", steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"`{name}` must be an integer of at least 0. Received: {value!r}.")
    start = time.perf_counter()
    bound = lipschitz_bound(model, budget=budget)
    jacobian = attack = None
    points = _points(model, x, samples)
    if points is not None:
        propagation = LipschitzPropagation()
        propagation.model(model)
        exact = Float64Evaluator(model, propagation)
        plain = vanillaModel(model)  # its kernels are not projected at every step
        jacobian = jacobian_estimate(exact, plain, points, steps)
        attack = attack_estimate(exact, plain, points, steps)
    product = float(np.prod([entry.value for entry in bound.per_layer]))
    return Report(bound, product, jacobian, attack, time.perf_counter() - start)


def _points(model: keras.Model, x: ArrayLike | None, samples: int) -> np.ndarray | None:
    """The samples to begin at, or None where there is nothing to search."""
    if not is_readable(model) or samples == 0:
        return None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return None
    shape = tuple(model.inputs[0].shape[1:])
    if x is None:
        is_known = None not in shape
        return np.random.default_rng(0).standard_normal((samples, *shape)) if is_known else None
    points = np.asarray(x, dtype=np.float64)[:samples]
    sizes = zip(points.shape[1:], shape, strict=False)
    if points.ndim != len(shape) + 1 or any(want not in (None, have) for have, want in sizes):
        raise ValueError(
            f"`x` must be an array of shape (samples, {', '.join(map(str, shape))}). "
            f"Received: shape={np.shape(x)}."
        )
    return points
