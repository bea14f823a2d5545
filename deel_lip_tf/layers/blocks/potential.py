"""Convex potential layers: the input minus the gradient of a convex function of it."""

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import whole_number
from deel_lip_tf.layers.base import Condensable, LipschitzLayer, kernel_in_use
from deel_lip_tf.layers.constrained import ConstrainedKernel, check_built, with_bias
from deel_lip_tf.layers.convolution.direct import AOLConv2D
from deel_lip_tf.layers.convolution.padding import extended_shape, padded_model
from deel_lip_tf.layers.dense import AOLDense
from deel_lip_tf.normalizers import SLL, OperatorNorm, Parametrization
from deel_lip_tf.normalizers.convolution import EXTENDING

_OF_BRANCH = {
    "use_bias": True,
    "kernel_initializer": "glorot_normal",
    "bias_initializer": "zeros",
    "kernel_regularizer": None,
    "bias_regularizer": None,
}


class _ConvexPotential(LipschitzLayer, Condensable, keras.layers.Layer):
    """`k_coef_lip * (x - 2 V relu(V^T x + bias))` with `||V||_2 <= 1`.

    The difference of two outputs is `I - 2 V D V^T` times that of the inputs, for a diagonal `D`
    of numbers between 0 and 1. Since `0 <= V D V^T <= V V^T <= I`, its norm is at most 1. For
    kernels as they are rounded, `bounds` proves `max(1, 2 ||V||**2 - 1)`.

    `V^T` is a constrained layer of this library, `branch`, and so is its gradient. A class says
    its `parametrization_class`, and a family how to make it.
    """

    parametrization_class: type[Parametrization]
    _own_arguments: tuple[str, ...] = ("hidden",)

    def __init__(self, hidden, k_coef_lip, arguments: dict):
        chosen = {name: arguments.pop(name) for name in _OF_BRANCH if name in arguments}
        super().__init__(**arguments)
        self.hidden = None if hidden is None else whole_number("hidden", hidden)
        self.set_klip_factor(k_coef_lip)
        default = _OF_BRANCH["kernel_initializer"]
        chosen["kernel_initializer"] = chosen.get("kernel_initializer") or default
        self._of_branch = chosen

    @classmethod
    def _keyword_defaults(cls) -> dict:
        return dict(_OF_BRANCH)

    def _made(self, width: int) -> ConstrainedKernel:
        """The branch of so many hidden units."""
        raise NotImplementedError

    def _arguments(self) -> dict:
        """Of every branch."""
        own = {"parametrization": self.parametrization_class(), "activation": "relu"}
        return {**self._of_branch, **own, "dtype": self.dtype_policy, "name": "branch"}

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        branch = self._made(1).get_config()
        chosen = {name: branch[name] for name in _OF_BRANCH}
        return {**super().get_config(), **chosen}

    def build(self, input_shape):
        """Creates the weights, those of the branch; `hidden` is that of the input by default."""
        shape = tuple(input_shape)
        width = self.hidden or shape[self._axis] or 1
        self.branch = self._made(width)
        self.branch.build(shape)
        self.built = True

    @property
    def _axis(self) -> int:
        """Of the channels."""
        return 1 if getattr(self, "data_format", None) == "channels_first" else -1

    def effective_kernel(self):
        """`V`, in the layout of Keras's kernels: (..., inputs, hidden).

        Raises:
            ValueError: the layer is not built.
        """
        check_built(self)
        return self.branch.effective_kernel()

    @property
    def kernel(self):
        """The raw kernel."""
        return self.branch.kernel

    @property
    def bias(self):
        """The bias of the hidden units, or None."""
        return self.branch.bias

    @staticmethod
    def _adjoint(kernel):
        """The kernel of `V`, of an operation of the same kind as `V^T`."""
        axes = tuple(range(len(kernel.shape) - 2))
        return ops.swapaxes(ops.flip(kernel, axes) if axes else kernel, -1, -2)

    def call(self, inputs):
        """The input minus the gradient."""
        kernel = ops.cast(kernel_in_use(self.branch), self.compute_dtype)
        hidden = self.branch._apply_kernel(inputs, kernel)
        if self.bias is not None:
            hidden = with_bias(hidden, self.bias, getattr(self, "data_format", None))
        gradient = self.branch._apply_kernel(ops.relu(hidden), self._adjoint(kernel))
        outputs = inputs - 2 * gradient
        return outputs if self.k_coef_lip == 1 else outputs * self.k_coef_lip

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return tuple(input_shape)

    def condense(self) -> None:
        """Writes the projected kernel into the raw one, where that computes the same."""
        self.branch.condense()

    def vanilla_export(self) -> keras.layers.Layer:
        """A Keras model of the same name: two plain layers with `V^T` and `-2 V`, and a sum.

        For circular padding of unknown sizes, which Keras does not record, a copy of the layer.
        """
        shape = tuple(self.get_build_config()["input_shape"]) if self.built else (None, None)
        pads = getattr(self, "padding", None) in EXTENDING
        if not self.built or (pads and None in shape[1:]):
            return super().vanilla_export()
        inputs = keras.Input(shape[1:], dtype=self.compute_dtype)
        hidden = self.branch.vanilla_export()(inputs)
        gradient = self._plain_adjoint(tuple(hidden.shape), shape[self._axis])(hidden)
        outputs = keras.layers.Add(dtype=self.dtype_policy)([inputs, gradient])
        if self.k_coef_lip != 1:
            outputs = keras.layers.Rescaling(self.k_coef_lip, dtype=self.dtype_policy)(outputs)
        return keras.Model(inputs, outputs, name=self.name)

    def _plain_adjoint(self, shape: tuple, width: int) -> keras.layers.Layer:
        """The plain Keras layer of `-2 V`, on hidden units of this shape."""
        plain = self._made(width)
        config = {**plain._plain_config(), "use_bias": False, "activation": None}
        layer = plain.plain_class.from_config({**config, "name": "gradient"})
        pads = getattr(self, "padding", None) in EXTENDING
        amounts = self.branch._amounts if pads else ()
        layer.build(extended_shape(shape, amounts, self.data_format) if pads else shape)
        kernel = ops.cast(-2 * self._adjoint(self.effective_kernel()), self.variable_dtype)
        layer.set_weights([ops.convert_to_numpy(kernel)])
        return padded_model(layer, amounts, self.padding, shape) if pads else layer


class _DensePotential(_ConvexPotential):
    """The family of products."""

    def __init__(self, hidden: int | None = None, k_coef_lip: float = 1.0, **kwargs):
        super().__init__(hidden, k_coef_lip, kwargs)

    def _made(self, width):
        return AOLDense(width, **self._arguments())


class _ConvolutionPotential(_ConvexPotential):
    """The family of convolutions."""

    _own_arguments: tuple[str, ...] = ("kernel_size", "padding", "data_format")

    def __init__(
        self,
        kernel_size,
        hidden: int | None = None,
        padding: str = "same",
        data_format: str | None = None,
        k_coef_lip: float = 1.0,
        **kwargs,
    ):
        super().__init__(hidden, k_coef_lip, kwargs)
        self._of_branch |= {"kernel_size": kernel_size, "data_format": data_format}
        branch = self._made_with(padding)
        self.kernel_size, self.data_format = branch.kernel_size, branch.data_format
        self.padding = branch.padding
        if any(k % 2 == 0 for k in self.kernel_size) or self.padding not in ("same", "circular"):
            raise ValueError(
                f"{type(self).__name__} adds to each pixel what is around it: it needs odd kernel "
                'sizes, and padding="same" or "circular". Received: '
                f"kernel_size={kernel_size} and padding={padding!r}."
            )

    def _made_with(self, padding: str, width: int = 1) -> AOLConv2D:
        return AOLConv2D(width, padding=padding, **self._arguments())

    def _made(self, width):
        return self._made_with(self.padding, width)


@register
class SLLDense(_DensePotential):
    """SDP-based Lipschitz layer: `x - 2 W T^-1 relu(W^T x + b)`, 1-Lipschitz in closed form.

    `T` is diagonal, `T_ii = sum_j |W^T W|_ij q_j / q_i` with `q = exp(scales)` learned, one for
    each hidden unit. With `V = W T^(-1/2)`, `||V|| <= 1`, the layer is computed as
    `k_coef_lip * (x - 2 V relu(V^T x + bias))`, which is the same function with
    `b = T^(1/2) bias`, and has no quotient that is not safe at zero. It is `k_coef_lip`-Lipschitz
    for any finite weights. Zero columns of `W` do nothing.

    Args:
        hidden: number of hidden units; `None`, the default, for as many as inputs.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        **kwargs: `use_bias`, True by default; `kernel_initializer`, "glorot_normal" by default;
            `bias_initializer`, `kernel_regularizer`, `bias_regularizer`; every argument of
            `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: `(batch, ..., inputs)`, and so is the output.

    Raises:
        TypeError, ValueError: `hidden` is no integer of at least 1; `k_coef_lip` is not positive.

    Example:
        >>> layers = [lip.layers.SLLDense(16) for _ in range(3)]
        >>> model = lip.Sequential([keras.Input((8,)), *layers])
        >>> lip.bounds.lipschitz_bound(model).value <= 1 + 1e-6
        True
        >>> plain = model.vanilla_export()  # Dense, Dense and Add
        >>> np.allclose(plain(np.eye(8)), model(np.eye(8)), atol=1e-5)
        True

    Source: Araujo et al., 2023, arXiv:2303.03169.
    """

    parametrization_class = SLL


@register
class SLLConv2D(_ConvolutionPotential):
    """SDP-based Lipschitz convolution: `x - 2 W T^-1 relu(W^T x + b)`, in closed form.

    `W^T` is the convolution with the kernel, and `W` its adjoint. `T` is diagonal, over the
    autocorrelation of the kernel: `T_ii = sum_j sum_t |(K * K)_t|_ij q_j / q_i` with
    `q = exp(scales)` learned, one for each hidden channel. With `V = W T^(-1/2)`, `||V|| <= 1`, the
    layer is computed as `k_coef_lip * (x - 2 V relu(V^T x + bias))`, the same function with
    `b = T^(1/2) bias`. It is `k_coef_lip`-Lipschitz for any finite weights and every size of
    image. Zero filters do nothing.

    Args:
        kernel_size: an odd integer or a pair of them.
        hidden: number of hidden channels; `None`, the default, for as many as the input has.
        padding: `"same"` (the default) with zeros, or `"circular"`.
        data_format: "channels_last", "channels_first", or `None`, the default, for Keras's.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        **kwargs: `use_bias`, True by default; `kernel_initializer`, "glorot_normal" by default;
            `bias_initializer`, `kernel_regularizer`, `bias_regularizer`; every argument of
            `keras.layers.Layer`: `name`, `dtype`, `trainable`. There are no strides.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`; so is the
    output.

    Raises:
        TypeError: an argument that there is not, `strides` among them.
        ValueError: an even kernel size, another padding, `k_coef_lip` not positive.

    Example:
        >>> layer = lip.layers.SLLConv2D(3, hidden=8)
        >>> layer.build((None, 8, 8, 4))
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
        >>> x, y = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 4))
        >>> bool(np.linalg.norm(layer(x) - layer(y)) <= np.linalg.norm(x - y))
        True

    Source: Araujo et al., 2023, arXiv:2303.03169.
    """

    parametrization_class = SLL


@register
class CPLDense(_DensePotential):
    """Convex potential layer: `x - 2 / ||W||**2 * W relu(W^T x + b)`, 1-Lipschitz.

    `||W||` is bounded from above, by Gram iteration, where the source takes a power iteration. With
    `V = W / ||W||` the layer is computed as `k_coef_lip * (x - 2 V relu(V^T x + bias))`, the same
    function with `b = ||W|| bias`. It is `k_coef_lip`-Lipschitz for any finite weights; a zero
    kernel does nothing.

    Args:
        hidden: number of hidden units; `None`, the default, for as many as inputs.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        **kwargs: `use_bias`, True by default; `kernel_initializer`, "glorot_normal" by default;
            `bias_initializer`, `kernel_regularizer`, `bias_regularizer`; every argument of
            `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: `(batch, ..., inputs)`, and so is the output.

    Raises:
        TypeError, ValueError: `hidden` is no integer of at least 1; `k_coef_lip` is not positive.

    Example:
        >>> layer = lip.layers.CPLDense(16)
        >>> layer.build((None, 8))
        >>> norm = np.linalg.norm(layer.effective_kernel(), 2)
        >>> bool(0.95 < norm <= 1), lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        (True, True)

    Source: Meunier et al., 2022, arXiv:2110.12690.
    """

    parametrization_class = OperatorNorm


@register
class CPLConv2D(_ConvolutionPotential):
    """Convex potential convolution: `x - 2 / ||W||**2 * W relu(W^T x + b)`, 1-Lipschitz.

    `W^T` is the convolution with the kernel, and `W` its adjoint. `||W||` is bounded from above, by
    `normalizers.Operation.norm_bound`, where the source takes a power iteration. With
    `V = W / ||W||` the layer is computed as `k_coef_lip * (x - 2 V relu(V^T x + bias))`, the same
    function with `b = ||W|| bias`. It is `k_coef_lip`-Lipschitz for any finite weights and every
    size of image; a zero kernel does nothing.

    Args:
        kernel_size: an odd integer or a pair of them.
        hidden: number of hidden channels; `None`, the default, for as many as the input has.
        padding: `"same"` (the default) with zeros, or `"circular"`.
        data_format: "channels_last", "channels_first", or `None`, the default, for Keras's.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        **kwargs: `use_bias`, True by default; `kernel_initializer`, "glorot_normal" by default;
            `bias_initializer`, `kernel_regularizer`, `bias_regularizer`; every argument of
            `keras.layers.Layer`: `name`, `dtype`, `trainable`. There are no strides.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`; so is the
    output.

    Raises:
        TypeError: an argument that there is not, `strides` among them.
        ValueError: an even kernel size, another padding, `k_coef_lip` not positive.

    Example:
        >>> layer = lip.layers.CPLConv2D(3, hidden=8)
        >>> layer.build((None, 8, 8, 4))
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True

    Source: Meunier et al., 2022, arXiv:2110.12690.
    """

    parametrization_class = OperatorNorm
