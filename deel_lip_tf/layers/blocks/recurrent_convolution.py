"""A recurrent layer of images: one convolution for a step and the state before it."""

import math

import keras
import numpy as np
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.shapes import known_size
from deel_lip_tf.layers.base import LipschitzLayer
from deel_lip_tf.layers.blocks.recurrent import BELOW_ONE, Recurrent
from deel_lip_tf.layers.constrained import build_activation, with_bias
from deel_lip_tf.layers.convolution.patches import ConstrainedConvolution
from deel_lip_tf.normalizers import AOC

# As `BELOW_ONE`, for the rounding of convolutions: a thousand steps lose 1.5 %.
_CONVOLUTION_BELOW_ONE = 1.0 - 2.0**-16


@register
class AOCConvRNN2D(Recurrent, ConstrainedConvolution, keras.layers.Conv2D):
    """Convolutional recurrent layer, of constant `k_coef_lip` in time, for sequences of images.

    `h_t = activation(x_t * K + h_(t-1) * R + bias)` from `h_0 = 0`, with convolutions `*`, where
    the channels of `K` and those of `R` are the inputs of one orthogonal convolution: `AOCConv2D`
    from `(x_t, h_(t-1))` to `h_t`. Such a step is 1-Lipschitz, so that
    `||dh_t||**2 <= ||dx_1||**2 + ... + ||dx_t||**2`: gradients neither vanish nor explode, but for
    what leaves the image at a border of zeros.

    * The last state is `k_coef_lip`-Lipschitz in the whole sequence, of any length: the inputs are
      multiplied by `k_coef_lip`.
    * All `T` states together change by up to `sqrt(T)` times as much. With `return_sequences`, the
      inputs are multiplied by `k_coef_lip / sqrt(T)`: all states are `k_coef_lip`-Lipschitz
      together, and sequences have the length of the input it is built for.

    Both hold for any finite raw weights, provided that `activation` is 1-Lipschitz, with Euclidean
    norms of whole sequences. `bounds.lipschitz_bound` proves what the weights have. Keras has no
    convolutional recurrent layer without gates: it is exported to a functional model of one
    `Conv2D` that is called once for each step, for images and sequences of known size, and copied
    otherwise. It is verified step by step. Masks, states from outside and dropout are not offered.

    Args:
        filters: number of channels of the state, at least 1.
        kernel_size: an integer or a pair.
        padding: `"same"` (the default) with zeros, or `"circular"`, with which a linear step keeps
            norms.
        activation: a function, a name, or a layer such as `GroupSort2()`, which keeps the norm of
            gradients, or `None` for none; "tanh" by default. The constant of the layer assumes
            that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        return_sequences: whether all states are returned, not the last one alone; False by default.
        go_backwards: whether the last image of the sequence is the first one taken; False by
            default.
        unroll: whether the steps are written one after the other, instead of in a loop; for
            sequences of known length. False by default.
        kernel_initializer: of the raw weights, one after the other; default
            `SpectralInitializer()`.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        parametrization: how the kernel is made of the raw weights; `None`, the default, for
            `deel_lip_tf.normalizers.AOC()`.
        **kwargs: every other argument of `keras.layers.Conv2D`, except strides, dilation, groups,
            LoRA and quantization.

    Input shape: `(batch, steps, rows, columns, channels)`. Output shape:
    `(batch, rows, columns, filters)`, or `(batch, steps, rows, columns, filters)` with
    `return_sequences`.

    Raises:
        TypeError: an argument of another type, or a class, not an instance of one, as `activation`.
        ValueError: `k_coef_lip` not positive; another padding; channels first; a parametrization
            that bounds each output by itself; `return_sequences` or `unroll` for sequences of
            unknown length; strides, dilation, groups, LoRA or quantization asked for.

    Example:
        >>> layer = lip.layers.AOCConvRNN2D(4, 3, activation=lip.layers.GroupSort2())
        >>> model = lip.Sequential([keras.Input((5, 8, 8, 1)), layer])
        >>> model.output_shape
        (None, 8, 8, 4)
        >>> bool(lip.lipschitz_bound(model).value <= 1 + 1e-6)
        True
        >>> x, y = np.random.default_rng(0).normal(size=(2, 1, 5, 8, 8, 1))
        >>> bool(np.linalg.norm(model(x) - model(y)) <= np.linalg.norm(x - y))
        True

    Source: Shi et al., 2015, arXiv:1506.04214, without gates; Boissin et al., 2025,
    arXiv:2501.07930.
    """

    parametrization_class = AOC
    _input_sizes = "(steps, rows, columns, channels)"

    def __init__(
        self,
        filters: int,
        kernel_size,
        padding: str = "same",
        activation="tanh",
        use_bias: bool = True,
        *,
        return_sequences: bool = False,
        go_backwards: bool = False,
        unroll: bool = False,
        **kwargs,
    ):
        kwargs |= {"activation": activation, "use_bias": use_bias}
        super().__init__(filters, kernel_size, kwargs.pop("strides", 1), padding, **kwargs)
        self._check_step()
        self._set_flags(return_sequences, go_backwards, unroll)
        self.input_spec = keras.layers.InputSpec(ndim=5)

    def _check_step(self) -> None:
        """A state has the size and the layout of the images."""
        fixed = {
            "padding": ("same", "circular"),
            "strides": ((1, 1),),
            "data_format": ("channels_last",),
            "dilation_rate": ((1, 1),),
            "groups": (1,),
        }
        for name, allowed in fixed.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(
                    f"`{name}` of {type(self).__name__} must be "
                    f"{' or '.join(map(repr, allowed))}, so that a state is an image like those "
                    f"that it reads. Received: {name}={value!r}. Resize, transpose or split the "
                    "images before, by a layer in `keras.layers.TimeDistributed`."
                )
        if not self.is_guaranteed:
            raise ValueError(
                f"The parametrization of {type(self).__name__} must bound the norm of the "
                "convolution: what one step adds grows with their number. Received: "
                f"parametrization={self.parametrization!r}. Leave it out."
            )

    @property
    def input_factor(self) -> float:
        """What the inputs are multiplied by: `k_coef_lip`, or less where all states are wanted.

        A number that float32 has, so that no type rounds it twice.
        """
        steps = self.input_spec.axes.get(1, 1)
        factor = self.k_coef_lip / math.sqrt(steps) * (BELOW_ONE if steps > 1 else 1.0)
        return float(np.float32(factor))

    def compute_output_shape(self, input_shape):
        """`(batch, rows, columns, filters)`, or with the steps after the batch."""
        return (*input_shape[: 1 + self.return_sequences], *input_shape[-3:-1], self.filters)

    def build(self, input_shape):
        """Creates the weights; sequences have the length of this shape if all states are wanted."""
        channels = known_size(self, input_shape, -1)
        self._check_steps(input_shape)
        build_activation(self, (input_shape[0], *input_shape[2:-1], self.filters))
        super().build((input_shape[0], *input_shape[2:-1], channels + self.filters))
        steps = {1: input_shape[1]} if self.return_sequences else {}
        self.input_spec = keras.layers.InputSpec(ndim=5, axes={**steps, -1: channels})

    def effective_kernel(self):
        """`K` and `R` along the axis of inputs, of one convolution, in at least float32.

        Raises:
            ValueError: the layer is not built.
        """
        return super().effective_kernel() * (_CONVOLUTION_BELOW_ONE / self.k_coef_lip)

    def call(self, inputs, training=None):
        """The last state, or all of them."""
        kernel = ops.cast(self.effective_kernel(), self.compute_dtype)
        of_inputs, of_state = kernel[:, :, : -self.filters], kernel[:, :, -self.filters :]
        inputs = inputs if self.input_factor == 1 else inputs * self.input_factor
        images = ops.reshape(inputs, (-1, *ops.shape(inputs)[2:]))
        moved = self._apply_kernel(images, of_inputs)
        if self.bias is not None:
            moved = with_bias(moved, self.bias, None)
        moved = ops.reshape(moved, (-1, *ops.shape(inputs)[1:-1], self.filters))
        return self._states(moved, lambda state: self._apply_kernel(state, of_state))

    def vanilla_export(self) -> keras.layers.Layer:
        """A functional model of one `Conv2D` that is called once for each step, of the same name.

        Keras records it for known sizes only: built for unknown ones, the layer is copied.
        """
        shape: tuple = self.get_build_config()["input_shape"] if self.built else (None, None)
        if None in shape[1:]:
            return LipschitzLayer.vanilla_export(self)
        step = super().vanilla_export()
        step.name = f"{self.name}_step"
        inputs = keras.Input(shape[1:], dtype=self.compute_dtype)
        scaled = inputs
        if self.input_factor != 1:
            scaled = keras.layers.Rescaling(self.input_factor, dtype=self.dtype_policy)(inputs)
        order = reversed(range(shape[1])) if self.go_backwards else range(shape[1])
        images = [scaled[:, one] for one in order]
        # The state before the first step is zero.
        states = [step(ops.pad(images[0], [(0, 0)] * 3 + [(0, self.filters)]))]
        for image in images[1:]:
            states.append(step(ops.concatenate([image, states[-1]], axis=-1)))
        outputs = states[-1]
        if self.return_sequences:
            outputs = ops.concatenate([ops.expand_dims(state, 1) for state in states], axis=1)
        return keras.Model(inputs, outputs, name=self.name)

    @property
    def _built_shape(self) -> tuple:
        """Of an image and the state before it."""
        batch, _, *sizes, channels = super()._built_shape
        return (batch, *sizes, channels + self.filters)
