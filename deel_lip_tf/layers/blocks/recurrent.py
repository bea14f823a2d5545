"""Recurrent layers: one kernel for a step and the state before it; that of a dense layer."""

import math

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import flag
from deel_lip_tf._validation.shapes import known_size
from deel_lip_tf.layers.constrained import (
    ConstrainedKernel,
    build_activation,
    exported_weights,
    with_bias,
)
from deel_lip_tf.layers.dense import ConstrainedDense
from deel_lip_tf.normalizers import Spectral

# What multiplies the joint kernel: more than its norm exceeds 1 by rounding, so that no number of
# steps makes anything of that; a thousand of them lose 0.4 %.
BELOW_ONE = 1.0 - 2.0**-18


class Recurrent(ConstrainedKernel):
    """Mixin of layers whose kernel, split along its inputs, moves a step and the state."""

    def _set_flags(self, return_sequences: bool, go_backwards: bool, unroll: bool) -> None:
        self.return_sequences = flag("return_sequences", return_sequences)
        self.go_backwards = flag("go_backwards", go_backwards)
        self.unroll = flag("unroll", unroll)
        self.supports_masking = False

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {**super().get_config(), **self._own_config()}

    def _own_config(self) -> dict:
        names = ("return_sequences", "go_backwards", "unroll")
        return {name: getattr(self, name) for name in names}

    def _check_steps(self, input_shape) -> None:
        if (self.return_sequences or self.unroll) and input_shape[1] is None:
            raise ValueError(
                f"Layer {self.name!r} needs to know the number of steps: with `return_sequences`, "
                "since the constant of all states grows with it, and with `unroll`. Received: "
                f"input_shape={tuple(input_shape)}. Build it on "
                f"`keras.Input({self._input_sizes})`, or leave both off."
            )

    def _states(self, moved, move):
        """The last state, or all of them, of what the inputs add to each, (batch, steps, ...)."""

        def step(state, moved):
            state = ops.add(moved, move(state))
            state = state if self.activation is None else self.activation(state)
            return state, state

        moved = ops.flip(moved, 1) if self.go_backwards else moved
        state = ops.zeros_like(moved[:, 0])
        if self.unroll:
            states = []
            for one in ops.unstack(moved, axis=1):
                state, _ = step(state, one)
                states.append(state)
            return ops.stack(states, axis=1) if self.return_sequences else state
        last, states = ops.scan(step, state, ops.swapaxes(moved, 0, 1))
        return ops.swapaxes(states, 0, 1) if self.return_sequences else last


@register
class SpectralSimpleRNN(Recurrent, ConstrainedDense):
    """Recurrent layer that keeps the norm of what it remembers, of constant `k_coef_lip` in time.

    `h_t = activation(x_t @ K + h_(t-1) @ R + bias)` from `h_0 = 0`, where `K` on top of `R` are one
    orthogonal matrix, the one nearest to the raw kernel, but for a factor of `K`. A step that maps
    `(x_t, h_(t-1))` to `h_t` is then 1-Lipschitz, so that
    `||dh_t||**2 <= ||dx_1||**2 + ... + ||dx_t||**2`: gradients neither vanish nor explode.

    * The last state is `k_coef_lip`-Lipschitz in the whole sequence, of any length: `K` is
      multiplied by `k_coef_lip`. The constant is attained, by a state that is moved on unchanged.
    * All `T` states together change by up to `sqrt(T)` times as much, which a shift register
      attains. With `return_sequences`, `K` is multiplied by `k_coef_lip / sqrt(T)`: all states are
      `k_coef_lip`-Lipschitz together, and sequences have the length of the input it is built for.

    Both hold for any finite raw kernel, provided that `activation` is 1-Lipschitz, with Euclidean
    norms of whole sequences. `bounds.lipschitz_bound` proves what the weights have, often less. It
    is exported to `keras.layers.SimpleRNN`, and verified step by step. Masks, states from outside
    and dropout, which `SimpleRNN` has, are not offered.

    Args:
        units: dimension of the state, at least 1.
        activation: a function, a name, or a layer such as `GroupSort2()`, which keeps the norm of
            gradients, or `None` for none; "tanh" by default. The constant of the layer assumes
            that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        return_sequences: whether all states are returned, not the last one alone; False by default.
        go_backwards: whether the last step of the sequence is the first one taken; False by
            default.
        unroll: whether the steps are written one after the other, instead of in a loop, as LiteRT's
            own operators need it; for sequences of known length. False by default.
        kernel_initializer: of the raw kernel, (inputs + units, units); default
            `SpectralInitializer()`.
        parametrization: another one of `deel_lip_tf.normalizers` that bounds the whole kernel, in
            place of the fields below, or its name: "spectral", "aol" or "at_most".
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        eps_spectral: by how much, relatively, the bound of the norm may exceed the norm where only
            the norm is divided out: positive, 1e-3 by default.
        eps_bjorck: how far from 1 the singular values may end: positive, 1e-3 by default; `None`
            divides by a bound of the norm instead of orthogonalising.
        beta_bjorck: step of Björck's iteration, in ]0, 1/2], 1/2 by default; `None` does as
            `eps_bjorck=None`.
        maxiter_spectral: largest number of squarings for the bound of the norm, at least 1, 10 by
            default.
        maxiter_bjorck: largest number of orthogonalisation steps, at least 1, 15 by default.
        gain: `"counted"` (the default) or `"measured"`: of convolutions; the same for a product.
        *args: the arguments of `keras.layers.Dense` after `use_bias`, in their order.
        **kwargs: every other argument of `keras.layers.Dense`, except LoRA and quantization.

    Input shape: `(batch, steps, inputs)`. Output shape: `(batch, units)`, or
    `(batch, steps, units)` with `return_sequences`.

    Raises:
        TypeError: an argument of another type, or a class, not an instance of one, as `activation`.
        ValueError: `k_coef_lip` not positive; a parametrization that bounds each output by itself;
            `return_sequences` or `unroll` for sequences of unknown length; LoRA or quantization
            asked for.

    Example:
        >>> layer = lip.layers.SpectralSimpleRNN(16, activation=lip.layers.GroupSort2())
        >>> model = lip.Sequential([keras.Input((20, 3)), layer, lip.layers.SpectralDense(2)])
        >>> bool(lip.lipschitz_bound(model).value <= 1 + 1e-6)
        True
        >>> x, y = np.random.default_rng(0).normal(size=(2, 1, 20, 3))
        >>> bool(np.linalg.norm(model(x) - model(y)) <= np.linalg.norm(x - y))
        True
        >>> [type(layer).__name__ for layer in model.vanilla_export().layers]
        ['SimpleRNN', 'Dense']

    Source: Arjovsky, Shah, Bengio, 2016, arXiv:1511.06464; Anil, Lucas, Grosse, 2019,
    arXiv:1811.05381.
    """

    parametrization_class = Spectral
    plain_class = keras.layers.SimpleRNN
    _input_sizes = "(steps, inputs)"

    def __init__(
        self,
        units: int,
        activation="tanh",
        use_bias: bool = True,
        *args,
        return_sequences: bool = False,
        go_backwards: bool = False,
        unroll: bool = False,
        **kwargs,
    ):
        super().__init__(units, activation, use_bias, *args, **kwargs)
        if self.disjoint_neurons or not self.is_guaranteed:
            raise ValueError(
                f"The parametrization of {type(self).__name__} must bound the norm of the whole "
                "kernel: what one step adds grows with their number. Received: "
                f"parametrization={self.parametrization!r}. Leave it out, or give "
                "`Frobenius(disjoint_neurons=False)`."
            )
        self._set_flags(return_sequences, go_backwards, unroll)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def compute_output_shape(self, input_shape):
        """`(batch, units)`, or `(batch, steps, units)`."""
        return (*input_shape[: 1 + self.return_sequences], self.units)

    def build(self, input_shape):
        """Creates the weights; sequences have the length of this shape if all states are wanted."""
        size = known_size(self, input_shape, -1)
        self._check_steps(input_shape)
        build_activation(self, (input_shape[0], self.units))
        super().build((input_shape[0], size + self.units))
        steps = {1: input_shape[1]} if self.return_sequences else {}
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={**steps, -1: size})

    def effective_kernel(self):
        """`K` on top of `R`, in at least float32.

        Raises:
            ValueError: the layer is not built.
        """
        kernel = super().effective_kernel()
        steps = self.input_spec.axes.get(1, 1)
        inputs = kernel[: -self.units] * (BELOW_ONE / math.sqrt(steps))
        return ops.concatenate([inputs, kernel[-self.units :] * (BELOW_ONE / self.k_coef_lip)])

    def call(self, inputs, training=None):
        """The last state, or all of them."""
        kernel = ops.cast(self.effective_kernel(), self.compute_dtype)
        moved = ops.matmul(inputs, kernel[: -self.units])
        if self.bias is not None:
            moved = with_bias(moved, self.bias, None)
        recurrent = kernel[-self.units :]
        return self._states(moved, lambda state: ops.matmul(state, recurrent))

    def vanilla_export(self) -> keras.layers.Layer:
        """A `keras.layers.SimpleRNN`, of the same name, with the effective kernels and the bias."""
        config = self._plain_config()
        config.pop("quantization_config", None)
        config["recurrent_initializer"] = "glorot_uniform"  # Keras's own knows no bfloat16
        plain = self.plain_class.from_config({**config, **self._own_config()})
        if self.built:
            build_activation(plain.cell, (self._built_shape[0], self.units))
            plain.build(self._built_shape)
            kernel = ops.convert_to_numpy(ops.cast(self.effective_kernel(), self.variable_dtype))
            others = exported_weights(self)
            plain.set_weights([kernel[: -self.units], kernel[-self.units :], *others])
        return plain
