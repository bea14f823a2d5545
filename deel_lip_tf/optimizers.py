"""Optimizers that know which kernels are kept orthogonal."""

from typing import Any

import keras
from keras import ops

from deel_lip_tf._keras import float32_at_least
from deel_lip_tf._lazy import public_names
from deel_lip_tf._registration import register
from deel_lip_tf.layers.constrained import Retraction
from deel_lip_tf.normalizers.numerics.arithmetic import frobenius_norm, safe_divide
from deel_lip_tf.normalizers.polar.products import transposed

__all__ = ["StiefelMuon"]

__dir__ = public_names(__name__)

# Five steps with these coefficients take singular values between .002 and 1 into [.68, 1.21]: a
# direction need not be orthogonal, only of even size, and the steepest slope at 0 serves that best.
_STEPS = 5
_COEFFICIENTS = (3.4445, -4.775, 2.0315)


@register
class StiefelMuon(keras.optimizers.Optimizer):
    r"""Steepest descent in the spectral norm on the manifold of orthogonal kernels; Adam elsewhere.

    A kernel `W` that its layer keeps orthogonal (`SpectralDense`, `SpectralConv2D`, `AOCConv2D` and
    the like) turns by about the learning rate in every direction at once:

    $$M \leftarrow \mu M + G, \qquad W \leftarrow R\left(W - \eta\, s\,
    \mathrm{polar}(G + \mu M)\right)$$

    where `G` is the gradient, which these layers project onto the tangent space, `s` the scale of
    the kernel (the root mean square of its singular values), `polar` the orthogonal factor, to
    about a fifth, and `R` the retraction that these layers apply after every update of any
    optimizer. What is proven of a layer depends on no optimizer. Adam's steps are of even size in
    every entry instead, so that a few directions turn much and most hardly at all.

    Biases, learned margins and kernels that are not kept orthogonal are left to Adam, with the
    learning rate times `adam_ratio`.

    Args:
        learning_rate: the angle, in radians, of a step, a number or a schedule. Anneal it to 0.
        momentum: share of the former direction that stays, `mu`.
        adam_ratio: Adam's learning rate over this one.
        beta_1: Adam's share of the former mean of gradients that stays.
        beta_2: Adam's share of the former mean of their squares that stays.
        epsilon: added to Adam's denominator.
        **kwargs: those of every Keras optimizer, `clipnorm` or `name` for example. Weight decay of
            a kernel that is kept orthogonal is undone by the retraction.

    Raises:
        ValueError: `momentum` is not in [0, 1), or `adam_ratio` is negative.

    Example:
        >>> model = lip.Sequential([keras.Input((4,)), lip.layers.SpectralDense(2)])
        >>> model.compile(lip.optimizers.StiefelMuon(0.05), "mse")
        >>> history = model.fit(np.eye(4), np.eye(4)[:, :2], epochs=80, verbose=0)
        >>> history.history["loss"][-1] < 0.1 * history.history["loss"][0]
        True

    Source: Jordan et al., 2024, Muon (the direction and its coefficients); Bernstein and Newhouse,
    2024, arXiv:2409.20325 (steepest descent in a norm); arXiv:2601.21487 (on the manifold).
    """

    def __init__(
        self,
        learning_rate: Any = 0.03,
        momentum: float = 0.95,
        adam_ratio: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "stiefel_muon",
        **kwargs,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum!r}.")
        if not adam_ratio >= 0:
            raise ValueError(
                f"`adam_ratio` must not be negative. Received: adam_ratio={adam_ratio!r}."
            )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.adam_ratio = adam_ratio
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables) -> None:
        """Creates what is remembered: a mean of gradients, and of squares where Adam needs them."""
        if self.built:
            return
        super().build(variables)
        # By their place: a backend may hand other objects to `update_step` than it was given.
        self._retractions = [
            one.constraint if isinstance(one.constraint, Retraction) else None for one in variables
        ]
        self._means = [self.add_variable_from_reference(one, "momentum") for one in variables]
        self._squares = [
            None if retraction else self.add_variable_from_reference(one, "velocity")
            for one, retraction in zip(variables, self._retractions, strict=True)
        ]

    def update_step(self, gradient, variable, learning_rate) -> None:
        """One update of one variable; the retraction follows, as after those of any optimizer."""
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        retraction, mean = self._retractions[index], self._means[index]
        if retraction is None:
            self._adam_step(gradient, variable, rate * self.adam_ratio, mean, self._squares[index])
            return
        self.assign(mean, mean * self.momentum + gradient)
        direction = retraction.on_matrices(_even, gradient + self.momentum * mean)
        scales = retraction.on_matrices(_scales, ops.convert_to_tensor(variable))
        self.assign_sub(variable, rate * scales * direction)

    def _adam_step(self, gradient, variable, rate, mean, square) -> None:
        # bfloat16 rounds .999 to 1, and 0 / 0 would be what is left
        step = ops.cast(self.iterations + 1, float32_at_least(variable.dtype))
        shares = [ops.cast(1 - b**step, variable.dtype) for b in (self.beta_1, self.beta_2)]
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
        corrected = mean / shares[0]
        root = ops.sqrt(square / shares[1])
        self.assign_sub(variable, rate * corrected / (root + self.epsilon))

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        names = ("momentum", "adam_ratio", "beta_1", "beta_2", "epsilon")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _even(matrix):
    """A matrix of the same singular directions, with singular values of about 1.

    All steps but the last product are of the Gram matrix, which is small where a kernel is tall.
    """
    if matrix.shape[-2] < matrix.shape[-1]:
        return transposed(_even(transposed(matrix)))
    largest = ops.max(ops.abs(matrix), axis=(-2, -1), keepdims=True)
    matrix = safe_divide(matrix, largest)  # squares of gradients may leave float32
    matrix = safe_divide(matrix, frobenius_norm(matrix, axis=(-2, -1), keepdims=True))
    gram = ops.matmul(transposed(matrix), matrix)
    identity = ops.eye(gram.shape[-1], dtype=gram.dtype)
    product = identity
    for _ in range(_STEPS):
        a, b, c = _COEFFICIENTS
        factor = a * identity + b * gram + c * ops.matmul(gram, gram)
        product = ops.matmul(product, factor)
        gram = ops.matmul(ops.matmul(factor, gram), factor)
    return ops.matmul(matrix, product)


def _scales(matrix):
    """The root mean square of the singular values of each matrix, in place of every entry."""
    norm = frobenius_norm(matrix, axis=(-2, -1), keepdims=True)
    return ops.ones_like(matrix) * (norm / min(matrix.shape[-2:]) ** 0.5)
