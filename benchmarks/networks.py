"""The networks and the sides that the benchmarks compare."""

import math
from dataclasses import dataclass

import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf import layers
from deel_lip_tf.normalizers import Spectral
from deel_lip_tf.normalizers.polar.cubics import bjorck_cubics, divided_by_bound, minimax_cubic

PLAIN = {
    "conv": lambda filters: keras.layers.Conv2D(filters, 3, padding="same"),
    "dense": keras.layers.Dense,
    "activation": keras.layers.ReLU,
    "pooling": lambda: keras.layers.AveragePooling2D(2),
}
CONSTRAINED = {
    **PLAIN,
    "conv": lambda filters: layers.SpectralConv2D(filters, 3),
    "dense": layers.SpectralDense,
}
SORTED = {**PLAIN, "activation": layers.GroupSort2, "pooling": layers.ScaledL2NormPooling2D}
OURS = {**CONSTRAINED, **{name: SORTED[name] for name in ("activation", "pooling")}}


def mnist_network(conv, dense, activation, pooling) -> tuple:
    """Filters 16 and 32, dense 64, on 28x28."""
    return (28, 28, 1), [
        *(conv(16), activation(), pooling()),
        *(conv(32), activation(), pooling()),
        *(keras.layers.Flatten(), dense(64), activation(), dense(10)),
    ]


def cifar_network(conv, dense, activation, pooling) -> tuple:
    """Filters 32, 32, 64, 64, 128, 128, on 32x32."""
    blocks = [
        layer
        for filters in (32, 64, 128)
        for layer in (conv(filters), activation(), conv(filters), activation(), pooling())
    ]
    return (32, 32, 3), [*blocks, keras.layers.Flatten(), dense(10)]


def dense_network(conv, dense, activation, pooling) -> tuple:
    """784-1024-1024-512-10."""
    hidden = [layer for units in (1024, 1024, 512) for layer in (dense(units), activation())]
    return (784,), [*hidden, dense(10)]


# With the batch size.
NETWORKS = {
    "MNIST convolutional": (mnist_network, 256),
    "CIFAR convolutional": (cifar_network, 128),
    "dense 1024": (dense_network, 256),
}


def compiled(network: tuple, learning_rate: float = 1e-3, **arguments) -> keras.Model:
    """A network `(input shape, layers)` with tau-crossentropy and Adam.

    Of this library's class where a layer is: it traces a step once, where Keras's traces it twice.
    """
    shape, stack = network
    is_ours = any(isinstance(layer, layers.LipschitzLayer) for layer in stack)
    model = (lip if is_ours else keras).Sequential([keras.Input(shape), *stack])
    loss = lip.losses.TauSparseCategoricalCrossentropy(tau=3.0)
    model.compile(keras.optimizers.Adam(learning_rate), loss, **arguments)
    return model


def batch_of(model: keras.Model, size: int) -> tuple:
    """Random inputs and labels; the same for every model of an input shape."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(0, 10, size)


@dataclass(frozen=True)
class PlainBjorck(Spectral):
    """What the peers do: Bjorck's steps on the kernel itself, differentiated through."""

    is_retracting = False

    def project(self, matrix):
        """`maxiter_bjorck` steps from the kernel divided by a bound of its norm."""
        from keras import ops

        factor = divided_by_bound(matrix, 3)
        for a, b in bjorck_cubics(0.5, self.maxiter_bjorck):
            gram = ops.matmul(ops.swapaxes(factor, -1, -2), factor)
            factor = a * factor + b * ops.matmul(factor, gram)
        return factor


@dataclass(frozen=True)
class DifferentiatedMinimax(Spectral):
    """Minimax steps, as many for every kernel, differentiated through."""

    is_retracting = False

    def project(self, matrix):
        """As many steps as the worst kernel needs."""
        from deel_lip_tf.normalizers import polar_factor

        # The last step, Björck's, squares the error: sqrt(2 eps / 3) before it is eps after it.
        lower, upper, delta, cubics = 1e-4, 1.0, 1.0, []
        while delta > math.sqrt(2 * self.eps_bjorck / 3):
            *cubic, delta = minimax_cubic(lower, upper)
            cubics.append(cubic)
            lower, upper = 1 - delta, 1 + delta
        return polar_factor(matrix, tuple(cubics[: self.maxiter_bjorck - 1]))


@dataclass(frozen=True)
class Unretracted(Spectral):
    """This library's, without the retraction after each update."""

    is_retracting = False

    def project(self, matrix):
        """The nearest orthogonal matrix, from wherever the optimizer has taken the kernel."""
        from deel_lip_tf.normalizers.polar.factor import nearest_orthogonal

        return nearest_orthogonal(matrix, self.eps_bjorck, self.maxiter_bjorck)


def with_parametrization(layer, parametrization):
    """The layer, computing with another parametrization."""
    layer.parametrization = parametrization
    return layer


def sides_with(parametrization) -> dict:
    """`OURS` with another parametrization of every constrained kernel."""
    return {
        **OURS,
        "conv": lambda n: with_parametrization(layers.SpectralConv2D(n, 3), parametrization),
        "dense": lambda n: with_parametrization(layers.SpectralDense(n), parametrization),
    }
