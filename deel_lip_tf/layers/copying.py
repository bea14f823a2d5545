"""Copies of layers in one process, where functions need not be written down."""

import types
import warnings

import keras


def configuration(layer: keras.layers.Layer) -> dict:
    """`layer.get_config()`, with the functions among its arguments as they are.

    Keras writes a lambda down as bytecode and refuses to read it back, rightly: it may come from
    anyone. This one never leaves the process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*includes a `lambda`")
        config = layer.get_config()
    functions = {name: getattr(layer, name, None) for name in config}
    return config | {n: f for n, f in functions.items() if isinstance(f, types.FunctionType)}


def copy_of(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A new layer of the same class and arguments, without the weights."""
    config = configuration(layer)
    if type(layer) is keras.layers.Lambda:
        # its `from_config` takes functions only as they are written down
        return keras.layers.Lambda(**{**config, "output_shape": layer._output_shape})
    return type(layer).from_config(config)
