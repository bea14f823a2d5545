"""Models of nested models: which output is taken, by what name, how often, and where it goes.

All are linear, of one input (4,) and one output (3,), so that pushing the identity through the
model itself tells all there is to know of them. The heads differ by a factor of 1000: whoever
follows another one is far off.
"""

import keras
import numpy as np
from keras import layers

__all__ = ["NESTINGS", "matrix_of"]

SIZE, CLASSES = 4, 3


def heads(names=None):
    """A model of two outputs, the first a thousand times as small as the second."""
    x = keras.Input((SIZE,))
    small, large = layers.Dense(CLASSES), layers.Dense(CLASSES)
    outputs = [small(x), large(x)]
    model = keras.Model(x, dict(zip(names, outputs, strict=True)) if names else outputs)
    rng = np.random.default_rng(0)
    for layer, scale in ((small, 0.01), (large, 10.0)):
        layer.set_weights([scale * rng.normal(size=(SIZE, CLASSES)), rng.normal(size=CLASSES)])
    return model


def closed(outputs_of):
    x = keras.Input((SIZE,))
    return keras.Model(x, outputs_of(x))


def taken(index):
    return lambda: closed(lambda x: heads()(x)[index])


def nested_twice(index):
    def make():
        x = keras.Input((SIZE,))
        middle = keras.Model(x, heads()(x)[::-1])
        return closed(lambda y: middle(y)[index])

    return make


def called_twice(first, second):
    """The same nested model on two tensors, another output of it each time."""

    def make():
        model = heads()
        return closed(lambda x: layers.Subtract()([model(x)[first], model(2.0 * x)[second]]))

    return make


def added():
    return closed(lambda x: layers.Add()(heads()(x)))


def fed_back():
    """An output goes through a layer that is shared with the other one."""

    def outputs_of(x):
        shared = layers.Dense(CLASSES, use_bias=False)
        small, large = heads()(x)
        return shared(layers.Subtract()([large, shared(small)]))

    return closed(outputs_of)


def fed_into_itself():
    """A nested model is given its own output, made as wide as its input."""

    def outputs_of(x):
        model = heads()
        wide = layers.ZeroPadding1D((0, 1))(layers.Reshape((CLASSES, 1))(model(x)[1]))
        return model(layers.Flatten()(wide))[0]

    return closed(outputs_of)


def by_name(name):
    # Keras sorts dictionaries by their keys: "b" comes after "a" here, and is made first.
    return lambda: closed(lambda x: heads(("b", "a"))(x)[name])


def two_inputs(pair):
    """A nested model of two inputs, `f(p, q) = 2 p - q`, that is called in some form."""

    def make():
        z, a = keras.Input((SIZE,), name="z"), keras.Input((SIZE,), name="a")
        inner = keras.Model(pair(z, a), layers.Subtract()([2.0 * z, a]))

        def outputs_of(x):
            joined = inner(pair(layers.Dense(SIZE)(x), x))
            return layers.Dense(CLASSES)(joined)

        return closed(outputs_of)

    return make


def list_called_by_names():
    z, a = keras.Input((SIZE,), name="z"), keras.Input((SIZE,), name="a")
    inner = keras.Model([z, a], layers.Subtract()([2.0 * z, a]))
    return closed(
        lambda x: layers.Dense(CLASSES)(inner({"a": x, "z": layers.Dense(SIZE)(x), "other": x}))
    )


def unused_output_without_bound():
    """What nobody takes is not asked for."""

    def outputs_of(x):
        y = keras.Input((SIZE,))
        inner = keras.Model(y, [layers.Multiply()([y, y]), layers.Dense(CLASSES)(y)])
        return inner(x)[1]

    return closed(outputs_of)


def sequential_in_sequential():
    inner = keras.Sequential([keras.Input((SIZE,)), layers.Dense(5), layers.Dense(SIZE)])
    return keras.Sequential([keras.Input((SIZE,)), inner, layers.Identity(), layers.Dense(CLASSES)])


NESTINGS = {
    "first": taken(0),
    "second": taken(1),
    "last": taken(-1),
    "nested twice, first": nested_twice(0),
    "nested twice, second": nested_twice(1),
    "called twice, 0 and 1": called_twice(0, 1),
    "called twice, 1 and 0": called_twice(1, 0),
    "added": added,
    "fed back": fed_back,
    "fed into itself": fed_into_itself,
    "by name, a": by_name("a"),
    "by name, b": by_name("b"),
    "dictionary": two_inputs(lambda z, a: {"z": z, "a": a}),
    "list": two_inputs(lambda z, a: [z, a]),
    "dictionary in a list": two_inputs(lambda z, a: [{"z": z}, a]),
    "list called by names": list_called_by_names,
    "unused output": unused_output_without_bound,
    "sequential": sequential_in_sequential,
}


def matrix_of(model) -> tuple[np.ndarray, np.ndarray]:
    """`(matrix, offset)` of a linear model, (inputs, outputs), by running it."""
    points = np.concatenate([np.zeros((1, SIZE)), np.eye(SIZE)]).astype("float32")
    outputs = np.asarray(model(points)).astype(np.float64)
    return outputs[1:] - outputs[0], outputs[0]
