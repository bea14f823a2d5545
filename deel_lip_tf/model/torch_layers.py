"""What the tensors of a PyTorch module are in a layer of Keras."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

from deel_lip_tf.layers import BatchCentering, BatchLipNorm, Householder, LipResidual
from deel_lip_tf.layers.centering import Shifted
from deel_lip_tf.layers.constrained import ConstrainedKernel
from deel_lip_tf.semantics.graph import Call, Value

Values = list[tuple[Any, np.ndarray]]


@dataclass
class Module:
    """The tensors of one module.

    Attributes:
        name: its name in the network.
        tensors: by their last names; those that were taken are gone.
        is_raw: whether the kernel is still to be projected.
    """

    name: str
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    is_raw: bool = False

    def take(self, name: str) -> np.ndarray:
        """The tensor of a name.

        Raises:
            ValueError: there is none.
        """
        if name not in self.tensors:
            raise ValueError(f"the module has no `{name}`")
        return self.tensors.pop(name)

    def __str__(self) -> str:
        tensors = ", ".join(f"{name} {value.shape}" for name, value in self.tensors.items())
        return f"{self.name!r} ({tensors})"


def values_of(layer: keras.layers.Layer, call: Call, module: Module) -> Values:
    """The variables of a layer and their values, of which every shape fits.

    Args:
        layer: with weights.
        call: where the model calls it.
        module: whose tensors the values are.

    Raises:
        ValueError: the module is another one.
    """
    rest = Module(module.name, dict(module.tensors), module.is_raw)
    kind = next((kind for kind in _KINDS if isinstance(layer, kind)), None)
    if kind is None:
        raise ValueError(f"nothing is known of {type(layer).__name__} in PyTorch")
    if rest.is_raw and not isinstance(layer, ConstrainedKernel):
        raise ValueError(
            "the kernel of the module is raw, and nothing in the layer projects it: give the "
            "`state_dict()` of the network's `vanilla_export()`"
        )
    values = _KINDS[kind](layer, call, rest)
    for variable, value in values:
        if tuple(variable.shape) != value.shape:
            raise ValueError(
                f"`{variable.name}` of the layer has the shape {tuple(variable.shape)}, and that "
                f"of the module, transposed, has {value.shape}"
            )
    if rest.tensors:
        raise ValueError(f"the layer has no place for {', '.join(rest.tensors)} of the module")
    return values


def _with_bias(layer: Any, module: Module, *values: tuple) -> Values:
    variable = getattr(layer, "bias", None)
    if variable is None:
        return list(values)
    bias = module.take("bias")
    is_shared = isinstance(layer, Shifted) and bias.shape == (1,)  # one number for all channels
    return [*values, (variable, np.broadcast_to(bias, variable.shape) if is_shared else bias)]


def _kernel(layer: Any) -> Any:
    if isinstance(layer, ConstrainedKernel) and list(layer.raw_weights) != ["kernel"]:
        raise ValueError(f"the kernel of {type(layer).__name__} is made of several weights")
    return layer.kernel


def _dense(layer: layers.Dense, call: Call, module: Module) -> Values:
    kernel = module.take("weight").T
    places = places_before_flatten(call.inputs[0])
    if places is not None and kernel.ndim == 2 and len(places) == len(kernel):
        kernel = kernel[places]
    return _with_bias(layer, module, (_kernel(layer), kernel))


def _convolution(layer: Any, call: Call, module: Module) -> Values:
    """PyTorch has (outputs, inputs, *sizes), Keras (*sizes, inputs, outputs)."""
    kernel = module.take("weight")
    kernel = np.transpose(kernel, (*range(2, kernel.ndim), 1, 0))
    return _with_bias(layer, module, (_kernel(layer), kernel))


def _depthwise(layer: Any, call: Call, module: Module) -> Values:
    """PyTorch has (channels * multiplier, 1, *sizes), Keras (*sizes, channels, multiplier)."""
    kernel = module.take("weight")
    kernel = kernel.reshape(-1, layer.depth_multiplier, *kernel.shape[2:])
    kernel = np.moveaxis(kernel, (0, 1), (-2, -1))
    return _with_bias(layer, module, (_kernel(layer), kernel))


def _rectifier(layer: Any, call: Call, module: Module) -> Values:
    """PyTorch has one slope, or one for each channel."""
    slopes, shape = module.take("weight"), tuple(layer.alpha.shape)
    channels = 0 if _is_channels_first(call.inputs[0]) else len(shape) - 1
    if len(slopes) > 1:
        slopes = np.expand_dims(slopes, [i for i in range(len(shape)) if i != channels])
        if slopes.shape[channels] != shape[channels]:
            raise ValueError(f"{slopes.size} slopes do not fit {shape[channels]} channels")
    return [(layer.alpha, np.broadcast_to(slopes, shape))]


def _householder(layer: Any, call: Call, module: Module) -> Values:
    return [(layer.theta, module.take("theta"))]


def _residual(layer: Any, call: Call, module: Module) -> Values:
    return [(layer.alpha, module.take("alpha"))]


def _centering(layer: Any, call: Call, module: Module) -> Values:
    return _with_bias(layer, module)


def _batch_centering(layer: Any, call: Call, module: Module) -> Values:
    """deel-torchlip keeps sums over batches."""
    batches = module.take("running_num_batches").reshape(())
    mean = module.take("running_sum_bmean") / np.maximum(batches, 1)
    values = [(layer.moving_mean, mean), (layer.batches, batches)]
    if isinstance(layer, BatchLipNorm) and "running_sum_bmeansq" in module.tensors:
        squares = module.take("running_sum_bmeansq") / np.maximum(batches, 1)
        counts = [module.take(n) for n in ("total_num_samples", "running_mean_sample_per_batches")]
        count = counts[0] if counts[0].item() else counts[1]
        variance = (squares - mean**2) * count / np.maximum(count - 1, 1)
        # so deel-torchlip: a channel without variance counts as one of variance 1
        values.append((layer.moving_variance, np.where(variance < layer.epsilon, 1.0, variance)))
    elif isinstance(layer, BatchLipNorm):
        values.append((layer.moving_variance, np.ones_like(mean)))
    return _with_bias(layer, module, *values)


def _batch_normalization(layer: Any, call: Call, module: Module) -> Values:
    names = {"gamma": "weight", "beta": "bias"}
    names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    module.tensors.pop("num_batches_tracked", None)
    own = {name: getattr(layer, name, None) for name in names}
    return [(own[n], module.take(names[n])) for n in names if own[n] is not None]


# A subclass stands before its parent.
_KINDS: dict[type, Callable[[Any, Call, Module], Values]] = {
    layers.Dense: _dense,
    layers.DepthwiseConv1D: _depthwise,
    layers.DepthwiseConv2D: _depthwise,
    layers.Conv1DTranspose: _convolution,
    layers.Conv2DTranspose: _convolution,
    layers.Conv3DTranspose: _convolution,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Conv3D: _convolution,
    layers.PReLU: _rectifier,
    layers.BatchNormalization: _batch_normalization,
    Householder: _householder,
    LipResidual: _residual,
    BatchCentering: _batch_centering,
    Shifted: _centering,
}

# After a `Flatten`, these leave every entry where it is.
_IN_PLACE = (
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity),
    *(layers.Dropout, layers.GaussianNoise, layers.GaussianDropout, layers.Rescaling),
)


def places_before_flatten(value: Value) -> np.ndarray | None:
    """Where PyTorch has the entries of a row that a `Flatten` made.

    Args:
        value: the row, (batch, entries).

    Returns:
        (entries,) the place in PyTorch's row of each entry of Keras's; `None` where no `Flatten`
        makes it.

    Raises:
        ValueError: layers between the `Flatten` and here depend on the order of the entries.
    """
    call = value.call
    if call is None or not call.inputs:
        return None
    shape = call.inputs[0].shape[1:]
    if isinstance(call.operation, layers.Flatten | layers.Reshape) and len(shape) > 1:
        return _places(call.operation, shape, _is_channels_first(call.inputs[0]))
    if any(len(one.shape) != 2 for one in call.inputs) or isinstance(call.operation, layers.Dense):
        return None
    found = [places_before_flatten(one) for one in call.inputs]
    if isinstance(call.operation, _IN_PLACE) or all(_is_in_order(one) for one in found):
        return found[0]
    raise ValueError(
        f"PyTorch flattens channels first, and what {call.operation.name!r} does between the "
        "`Flatten` and this layer depends on the order"
    )


def _is_in_order(places: np.ndarray | None) -> bool:
    return places is None or bool((np.diff(places) == 1).all())


def _places(operation: Any, shape: tuple, is_channels_first: bool) -> np.ndarray:
    channels, sizes = (shape[0], shape[1:]) if is_channels_first else (shape[-1], shape[:-1])
    places = np.arange(math.prod(shape)).reshape(channels, *sizes)
    moves = isinstance(operation, layers.Flatten) and operation.data_format == "channels_first"
    # a `Flatten` of channels that come first moves them to the end
    places = places if is_channels_first and not moves else np.moveaxis(places, 0, -1)
    return places.ravel()


def _is_channels_first(value: Value) -> bool:
    """By the last layer before that says where its channels are."""
    while value.call is not None and value.call.inputs:
        data_format = getattr(value.call.operation, "data_format", None)
        if data_format is not None and not isinstance(value.call.operation, layers.Flatten):
            return data_format == "channels_first"
        value = value.call.inputs[0]
    return keras.config.image_data_format() == "channels_first"
