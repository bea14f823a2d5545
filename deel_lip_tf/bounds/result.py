"""What a proof of a Lipschitz constant returns."""

from dataclasses import dataclass, field
from typing import Any

from deel_lip_tf import plots
from deel_lip_tf._tables import at_most, html_table, text_table


@dataclass(frozen=True)
class LayerBound:
    """The proven bound of one layer, at one of its calls.

    Attributes:
        name: name of the layer; "model/layer" inside a nested model.
        layer_type: name of its class.
        value: upper bound on its Lipschitz constant, activation included.
        method: how the bound was proved.
        seconds: that it took; 0 where it was known already.

    Example:
        >>> dense = keras.layers.Dense(2, "relu", kernel_initializer="ones", name="hidden")
        >>> model = keras.Sequential([keras.Input((3,)), dense])
        >>> [entry] = lip.bounds.lipschitz_bound(model).per_layer
        >>> entry.name, entry.layer_type, round(entry.value, 4)  # the norm of ones (3, 2)
        ('hidden', 'Dense', 2.4495)
    """

    name: str
    layer_type: str
    value: float
    method: str
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class ChainBound:
    """The proven bound of dense layers and activations that were looked at together.

    Attributes:
        names: of the layers, from input to output.
        value: upper bound on the Lipschitz constant of all of them together.
        product: of their bounds one by one.
        seconds: that the proof took.

    Example:
        >>> layers = [keras.layers.Dense(2, "relu"), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((2,)), *layers])
        >>> first, second = np.diag([3.0, 1.0]), np.diag([1.0, 2.0])
        >>> model.set_weights([first, np.zeros(2), second, np.zeros(2)])
        >>> [chain] = lip.bounds.lipschitz_bound(model).chains
        >>> print(len(chain.names), round(chain.value, 4), round(chain.product, 4))
        2 4.3656 6.0
    """

    names: tuple[str, ...]
    value: float
    product: float
    seconds: float = field(default=0.0, compare=False)

    @property
    def is_smaller(self) -> bool:
        """Whether it says more than the product."""
        return self.value < self.product

    @property
    def method(self) -> str:
        """How the constant of these layers was proved in the end."""
        share = f"{min(self.value / self.product, 1.0):.3g}"
        if share == "1":
            return "no smaller together than one by one"
        return f"together by one matrix, {share} of the product"

    def row(self) -> tuple[str, str, str, str]:
        """Name, type, bound and method, as text."""
        name = f"{self.names[0]} ... {self.names[-1]}"
        return (
            name,
            f"{len(self.names)} layers",
            at_most(min(self.value, self.product)),
            self.method,
        )


@dataclass(frozen=True)
class LipschitzBound:
    """A proven upper bound on the Lipschitz constant of a layer or a model at inference.

    Attributes:
        value: `||f(x) - f(y)||_p <= value * ||x - y||_p` for all x, y, in exact arithmetic on the
            weights as stored. Inputs and outputs are flattened; several are joined to one vector.
        per_layer: one entry for each call of a layer, from input to output.
        norm: "l2" (p = 2), "linf" or "l1".
        chains: one entry for each run of dense layers with rising activations between them, which
            was bounded as a whole in "l2", too. Where that is smaller than the product of its
            layers, the value is made of it.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((3,)), dense])
        >>> bound = lip.bounds.lipschitz_bound(model)
        >>> x, y = np.eye(3)[:1], np.ones((1, 3))
        >>> bool(np.linalg.norm(model(x) - model(y)) <= bound.value * np.linalg.norm(x - y))
        True
        >>> bound.norm, len(bound.per_layer)
        ('l2', 1)
    """

    value: float
    per_layer: list[LayerBound]
    norm: str = "l2"
    chains: tuple[ChainBound, ...] = ()

    def plot(self, *, ax: Any = None) -> Any:
        """The picture of `plots.layer_bounds`: one bar for each layer, on a logarithmic scale.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return plots.layer_bounds(self, ax=ax)

    @property
    def _claim(self) -> str:
        return f"upper bound on the {self.norm.capitalize()} Lipschitz constant"

    def _rows(self) -> list[tuple[str, ...]]:
        """Numbers are rounded up: what is printed is a bound, too."""
        entries = [(b.name, b.layer_type, at_most(b.value), b.method) for b in self.per_layer]
        entries += [chain.row() for chain in self.chains]
        total = ("total", "", at_most(self.value), self._claim)
        return [("layer", "type", "bound", "method"), *entries, total]

    def __str__(self) -> str:
        lines = text_table(self._rows(), right=(2,))
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def _repr_html_(self) -> str:
        rows = self._rows()
        return html_table(rows, right=(2,), emphasized=(len(rows) - 1,))
