"""What a training step costs against the same network in plain Keras, in one run.

Plain Keras means ReLU and average pooling. deel-lip's Keras 3 branch takes 1.94 times as long on
the MNIST network, 1.34 on the CIFAR network and 15.8 on the dense one.

    python benchmarks/train_step.py [steps]
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf import layers

PLAIN = dict(
    conv=lambda filters: keras.layers.Conv2D(filters, 3, padding="same"),
    dense=keras.layers.Dense,
    activation=keras.layers.ReLU,
    pooling=lambda: keras.layers.AveragePooling2D(2),
)
CONSTRAINED = {
    **PLAIN,
    "conv": lambda n: layers.SpectralConv2D(n, 3),
    "dense": layers.SpectralDense,
}
SORTED = {**PLAIN, "activation": layers.GroupSort2, "pooling": layers.ScaledL2NormPooling2D}
OURS = {**CONSTRAINED, **{name: SORTED[name] for name in ("activation", "pooling")}}


def mnist_network(conv, dense, activation, pooling):
    """Filters 16 and 32, dense 64: batch 256 of 28x28."""
    return (28, 28, 1), [
        *(conv(16), activation(), pooling()),
        *(conv(32), activation(), pooling()),
        *(keras.layers.Flatten(), dense(64), activation(), dense(10)),
    ]


def cifar_network(conv, dense, activation, pooling):
    """Filters 32, 32, 64, 64, 128, 128: batch 128 of 32x32."""
    blocks = [
        layer
        for filters in (32, 64, 128)
        for layer in (conv(filters), activation(), conv(filters), activation(), pooling())
    ]
    return (32, 32, 3), [*blocks, keras.layers.Flatten(), dense(10)]


def dense_network(conv, dense, activation, pooling):
    """784-1024-1024-512-10, batch 256."""
    hidden = [layer for units in (1024, 1024, 512) for layer in (dense(units), activation())]
    return (784,), [*hidden, dense(10)]


NETWORKS = {
    "MNIST convolutional": (mnist_network, 256),
    "CIFAR convolutional": (cifar_network, 128),
    "dense 1024": (dense_network, 256),
}
SIDES = {
    "plain": PLAIN,
    "constraint alone": CONSTRAINED,
    "sorted, no constraint": SORTED,
    "all": OURS,
}


# Ratios to plain Keras that are claimed; the dense network has none: it is slow.
CLAIMS = {("MNIST convolutional", "all"): 2.0, ("CIFAR convolutional", "all"): 1.34}


def stepper(make, parts, batch: int):
    """One training step on a fixed random batch, as a function."""
    shape, stack = make(**parts)
    model = keras.Sequential([keras.Input(shape), *stack])
    loss = lip.losses.TauSparseCategoricalCrossentropy(tau=3.0)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(batch, *shape)).astype("float32"), rng.integers(0, 10, batch)
    return lambda: model.train_on_batch(x, y)


def alternate(sides: dict, steps: int) -> dict:
    """Seconds of each side's steps, the sides taking turns; the first three are warm-up."""
    seconds = {name: [] for name in sides}
    for _ in range(steps + 3):
        for name, step in sides.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values[3:]) for name, values in seconds.items()}


def main(steps: int) -> None:
    """Prints medians, quartiles and the ratio to plain Keras."""
    print(
        f"{'network':<22}{'side':<24}{'median ms':>10}{'quartiles ms':>18}{'ratio':>8}{'claim':>8}"
    )
    for name, (make, batch) in NETWORKS.items():
        seconds = alternate({k: stepper(make, parts, batch) for k, parts in SIDES.items()}, steps)
        plain = np.median(seconds["plain"])
        for side, values in seconds.items():
            low, middle, high = 1e3 * np.percentile(values, [25, 50, 75])
            spread, ratio = f"{low:.1f} to {high:.1f}", middle / plain / 1e3
            claim = CLAIMS.get((name, side), "")
            print(
                f"{name:<22}{side:<24}{middle:>10.1f}{spread:>18}{ratio:>8.2f}{claim:>8}",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
