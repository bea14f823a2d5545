"""Residual connections that keep the constant of their branches."""

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.layers.base import LipschitzLayer
from deel_lip_tf.normalizers.parametrization import at_least_float32


@register
class LipResidual(LipschitzLayer, keras.layers.Layer):
    """`k_coef_lip * (a * x + (1 - a) * y)` with the learned share `a = sigmoid(alpha)`.

    A convex combination: if `x` and `y` are 1-Lipschitz functions of one input, the result is
    `k_coef_lip`-Lipschitz. As a function of the pair `(x, y)` it is so too.

    Args:
        k_coef_lip: the Lipschitz constant, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call it on a list `[x, y]` of two tensors of one shape. `alpha` is a scalar weight, 0 at first:
    equal shares.

    Raises:
        TypeError, ValueError: `k_coef_lip` is not a positive finite number.
        ValueError: not two inputs of the same shape.

    Example:
        >>> layer = lip.layers.LipResidual()
        >>> x, y = np.array([[2.0, 0.0]]), np.array([[0.0, 4.0]])
        >>> print(np.asarray(layer([x, y])))
        [[1. 2.]]
        >>> layer.shares()
        (0.5, 0.5)

    Source: `LipResidual` of deel-torchlip.
    """

    def __init__(self, k_coef_lip: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.set_klip_factor(k_coef_lip)

    def build(self, input_shape):
        """Creates `alpha`."""
        shapes = [tuple(shape) for shape in input_shape if isinstance(shape, list | tuple)]
        if len(shapes) != 2 or len(shapes) != len(input_shape) or shapes[0][1:] != shapes[1][1:]:
            raise ValueError(
                "LipResidual takes a list of two inputs of the same shape. Received: input_shape="
                f"{input_shape}. Bring the branches to one shape first."
            )
        self.alpha = self.add_weight(name="alpha", shape=(), initializer="zeros", autocast=False)
        self.built = True

    def shares(self) -> tuple[float, float]:
        """`(a, 1 - a)` as Python floats, each times `k_coef_lip`."""
        share = self._share()
        first, second = (float(ops.convert_to_numpy(s)) for s in (share, 1 - share))
        return self.k_coef_lip * first, self.k_coef_lip * second

    def _share(self):
        return ops.sigmoid(at_least_float32(ops.convert_to_tensor(self.alpha)))

    def call(self, inputs):
        """The combination of `inputs`, a list of two tensors."""
        first, second = inputs
        share = ops.cast(self._share(), self.compute_dtype)
        return (share * first + (1 - share) * second) * self.k_coef_lip

    def compute_output_shape(self, input_shape):
        """The shape of each input."""
        return tuple(input_shape[0])

    def vanilla_export(self) -> keras.layers.Layer:
        """A Keras model of the same name: both inputs rescaled, then added."""
        if not self.built:
            return super().vanilla_export()
        shapes = self.get_build_config()["input_shape"]
        inputs = [keras.Input(shape[1:], dtype=self.compute_dtype) for shape in shapes]
        scaled = [
            keras.layers.Rescaling(share, dtype=self.dtype_policy)(tensor)
            for share, tensor in zip(self.shares(), inputs, strict=True)
        ]
        outputs = keras.layers.Add(dtype=self.dtype_policy)(scaled)
        return keras.Model(inputs, outputs, name=self.name)
