"""What a layer asks of a parametrization: raw weights in, a kernel of bounded operation out."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import keras
from keras import backend, ops

from deel_lip_tf.normalizers.operation import Operation, Shape


@dataclass(frozen=True)
class Projected:
    """A kernel, and what is proven of the operation that computes with it.

    Attributes:
        kernel: tensor in Keras's layout, in at least float32.
        bound: of the norm of the operation, a positive number or a scalar tensor. The layer
            divides by it: its effective kernel is `k_coef_lip / bound * kernel`.

    Example:
        >>> operation = lip.normalizers.Operation((3, 3), (1, 1), "same", (8, 8))
        >>> weights = {"kernel": np.ones((3, 3, 2, 4), "float32")}
        >>> projected = lip.normalizers.Spectral().projected(weights, operation)
        >>> tuple(projected.kernel.shape), projected.bound  # the square root of 9 patches
        ((3, 3, 2, 4), 3.0)
    """

    kernel: Any
    bound: Any = 1.0


@dataclass(frozen=True)
class Parametrization(ABC):
    """How the kernel of a layer is made of its raw weights; frozen, stateless, comparable.

    A subclass is a frozen dataclass of Python's numbers with one method, `projected`. Any
    constrained layer computes with it: `SpectralConv2D(8, 3, parametrization=Mine())`. For a
    method that only sees the flattened kernel, there is `MatrixParametrization`. Register the class
    with Keras (`keras.saving.register_keras_serializable`) to save models that hold it.

    Example:
        >>> class Halved(lip.normalizers.Parametrization):
        ...     def projected(self, weights, operation):
        ...         kernel = keras.ops.convert_to_tensor(weights["kernel"])
        ...         bound = 2.0 * keras.ops.norm(kernel) + 1e-6  # not 0 for the zero kernel
        ...         return lip.normalizers.Projected(kernel, bound)
        >>> layer = lip.layers.SpectralDense(2, parametrization=Halved())
        >>> layer.build((None, 4))
        >>> lip.bounds.lipschitz_bound(layer).value <= 0.5 * (1 + 1e-6)
        True
    """

    @property
    def is_retracting(self) -> bool:
        """Whether `retracted` is to be applied after each update of an optimizer."""
        return False

    @property
    def covers(self) -> tuple[str, ...]:
        """Arguments of convolutions that the bound covers, `groups` and `dilation_rate`, if any.

        Layers refuse the others.
        """
        return ()

    @property
    def is_scale_free(self) -> bool:
        """Whether a positive multiple of the raw kernel makes the same kernel.

        `retracted` and `condensed` then divide by the bound, and layers multiply by `k_coef_lip`:
        the raw kernel is the effective one. A kernel of another scale means the same.
        """
        return False

    def weights(self, kernel_shape: Shape) -> dict[str, Shape]:
        """Names and shapes of the raw weights, drawn by the kernel's initializer unless said.

        Args:
            kernel_shape: of the kernel that the layer computes with, in Keras's layout.
        """
        return {"kernel": tuple(kernel_shape)}

    def weights_for(self, operation: Operation, kernel_shape: Shape) -> dict[str, Shape]:
        """Names and shapes of the raw weights where they depend on the operation, too.

        They are those of `weights` unless a subclass says otherwise.

        Args:
            operation: what the layer does with the kernel.
            kernel_shape: as for `weights`.
        """
        return self.weights(kernel_shape)

    @property
    def initializers(self) -> dict[str, Any]:
        """Initializers of the raw weights that the initializer of the kernel does not draw."""
        return {}

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """By the name of a raw weight, arguments of `add_weight` in place of the kernel's."""
        return {}

    def ceiling(self, weights: dict[str, Any]) -> Any:
        """What the norm is at most with these weights, as a share of the constant of the layer.

        Args:
            weights: as for `projected`.

        Returns:
            A number, or a scalar tensor that is differentiable in the weights, at most 1.
        """
        return 1.0

    @property
    def is_guaranteed(self) -> bool:
        """Whether `bound` is one: else the constant of the layer is that of its weights."""
        return True

    @abstractmethod
    def projected(self, weights: dict[str, Any], operation: Operation) -> Projected:
        """The kernel, a differentiable function of the raw weights, and its bound.

        The bound holds for every finite value of the weights, zeros included, and for each size
        of which `reuse` is not larger than that of `operation`.

        Args:
            weights: tensors or variables by the names of `weights`.
            operation: what the layer does with the kernel.
        """

    def reuse(self, operation: Operation) -> tuple[int, ...]:
        """For each spatial axis, how often the bound lets an element of the inputs be used.

        A layer refuses inputs of a size at which it would be more than at the size it was built
        for. Nothing depends on the sizes unless a subclass says so.

        Args:
            operation: with the sizes of the inputs.

        Raises:
            ValueError: no bound is known of this operation.
        """
        return (1,) * len(operation.kernel_size)

    def retracted(self, weights: dict[str, Any], operation: Operation) -> dict[str, Any]:
        """Weights of nearly the same kernel, back where the next projection is cheap; no gradient.

        Args:
            weights: as for `projected`, after an update.
            operation: likewise.
        """
        return weights

    def on_matrices(self, function: Callable, name: str, weight, operation: Operation):
        """A raw weight with `function` applied to each matrix that `retracted` brings back.

        Args:
            function: of a tensor (..., rows, columns), of a result of the same shape.
            name: of the weight.
            weight: tensor.
            operation: what the layer does with the kernel.
        """
        return operation.on_matrices(function, weight)

    def condensed(self, weights: dict[str, Any], operation: Operation) -> dict[str, Any]:
        """Weights of the same kernel that a projection leaves as they are, where there are any.

        Args:
            weights: as for `projected`.
            operation: likewise.
        """
        return weights

    def project(self, matrix):
        """The kernel of a dense layer.

        Args:
            matrix: the raw kernel, a tensor (rows, outputs).
        """
        return self.projected({"kernel": matrix}, Operation()).kernel

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict):
        """The parametrization with these arguments."""
        return cls(**config)


@dataclass(frozen=True)
class MatrixParametrization(Parametrization):
    """A projection of the flattened kernel to norm 1; layers divide by the overlap of patches.

    A subclass is a frozen dataclass with `project`, and `retract` where `is_retracting`. It says
    that it `is_scale_free` where `project` gives the same for every multiple of a matrix.

    Example:
        >>> class Clipped(lip.normalizers.MatrixParametrization):
        ...     def project(self, matrix):  # the Frobenius norm bounds the largest singular value
        ...         return matrix / keras.ops.maximum(1.0, keras.ops.norm(matrix))
        >>> layer = lip.layers.SpectralConv2D(4, 3, parametrization=Clipped())
        >>> layer.build((None, 8, 8, 2))
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    @abstractmethod
    def project(self, matrix):
        """A matrix of norm at most 1; each matrix of a stack by itself.

        Args:
            matrix: tensor (..., rows, outputs), any finite entries.
        """

    def retract(self, matrix):
        """The matrix after an update, back where the next projection is cheap; no gradient.

        Args:
            matrix: as for `project`, in at least float32.
        """
        return matrix

    def projected(self, weights, operation):
        """The projected kernel; the bound is the square root of the number of patches."""
        kernel = at_least_float32(ops.convert_to_tensor(weights["kernel"]))
        projected = operation.on_matrices(self.project, kernel)
        return Projected(projected, self.bound(projected, operation))

    def bound(self, kernel, operation: Operation):
        """Of the norm of the operation: the square root of the number of patches.

        Args:
            kernel: a projected one.
            operation: what the layer does with it.
        """
        return math.sqrt(math.prod(self.reuse(operation)))

    def reuse(self, operation):
        """For each spatial axis, the largest number of patches that share an element."""
        return operation.patch_counts

    def retracted(self, weights, operation):
        """The raw kernel, retracted, and divided by the bound if it `is_scale_free`."""
        kernel = at_least_float32(ops.convert_to_tensor(weights["kernel"]))
        retracted = operation.on_matrices(self.retract, kernel)
        return {"kernel": self._scaled(retracted, operation)}

    def condensed(self, weights, operation):
        """The projected kernel, or what it is divided by the bound: its projection is itself."""
        projected = self.projected(weights, operation).kernel
        return {"kernel": self._scaled(projected, operation)}

    def _scaled(self, kernel, operation: Operation):
        return kernel / self.bound(kernel, operation) if self.is_scale_free else kernel


NAMES: dict[str, Parametrization] = {}
"""What a layer takes as `parametrization` by name."""


def named(name: str, **fields) -> Callable:
    """A decorator: layers take the class, with these fields, by this name."""

    def decorated(cls: type[Parametrization]) -> type[Parametrization]:
        NAMES[name] = cls(**fields)
        return cls

    return decorated


def parametrization_of(
    owner: str, preset: type[Parametrization], fields: dict, given
) -> Parametrization:
    """What a layer computes with.

    Args:
        owner: class name of the layer, for the messages.
        preset: its own parametrization, for `given=None`.
        fields: arguments of the preset.
        given: another parametrization, its name, or the configuration of one.

    Raises:
        TypeError: `given` is no parametrization.
        ValueError: it is one, and there are fields besides, or it is an unknown name.
    """
    if given is None:
        return preset(**fields)
    if isinstance(given, str) and given not in NAMES:
        raise ValueError(
            f"`parametrization` of {owner} must be one of {sorted(NAMES)}, or an instance of a "
            f"subclass of `normalizers.Parametrization`. Received: parametrization={given!r}."
        )
    found = NAMES[given] if isinstance(given, str) else given
    found = keras.saving.deserialize_keras_object(found) if isinstance(found, dict) else found
    if not isinstance(found, Parametrization):
        raise TypeError(
            f"`parametrization` of {owner} must be an instance of a subclass of `normalizers."
            f"Parametrization`, AOL() for example. Received: parametrization={given!r}."
        )
    if fields:
        raise ValueError(
            f"{owner} takes `parametrization` or the fields of its own, not both: give them to the "
            f"parametrization. Received: {fields} and parametrization={given!r}."
        )
    return found


def check_field(owner, name: str, kind: type, is_allowed: Callable, rule: str) -> None:
    """Raises unless an attribute is a number of a kind, in its range, or `None` if that may be."""
    value = getattr(owner, name)
    if value is None and "None" in rule:
        return
    numbers_of_kind = Integral if kind is int else Real
    message = f"`{name}` must be {rule}. Received: {name}={value!r}."
    if not isinstance(value, numbers_of_kind) or isinstance(value, bool):
        raise TypeError(message)
    if not is_allowed(value):
        raise ValueError(message)
    # Configurations hold Python's numbers, not NumPy's.
    object.__setattr__(owner, name, kind(value))


def at_least_float32(tensor):
    """`tensor`, in float32 where it came in a 16-bit type: too coarse to orthogonalise in."""
    dtype = backend.standardize_dtype(tensor.dtype)
    return tensor if dtype in ("float32", "float64") else ops.cast(tensor, "float32")


def check_lipschitz_factor(k, name: str = "k_coef_lip") -> float:
    """`k` as a Python float.

    Args:
        k: the factor.
        name: of the argument, for the message.

    Returns:
        The factor, a positive finite Python float.

    Raises:
        TypeError: not a number.
        ValueError: not positive or not finite.

    Example:
        >>> lip.normalizers.check_lipschitz_factor(2)
        2.0
        >>> lip.normalizers.check_lipschitz_factor(-1.0)
        Traceback (most recent call last):
            ...
        ValueError: `k_coef_lip` must be positive and finite. Received: k_coef_lip=-1.0.
    """
    try:
        value = float(k)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be a positive number. Received: {name}={k!r}.") from error
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"`{name}` must be positive and finite. Received: {name}={k!r}.")
    return value
