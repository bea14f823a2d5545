"""What sorting neighbouring channels costs against a ReLU, forward and backward, in one run.

deel-lip's Keras 3 branch takes 2.9, 4.9 and 2.8 times as long as a ReLU on the three shapes.

    python benchmarks/activations.py [repetitions]
"""

import sys

import timing

# isort: split
import keras
import tensorflow as tf

from deel_lip_tf import layers

# Shape of the input, and the ratio to a ReLU that is claimed.
SHAPES = {(256, 28, 28, 16): 1.5, (128, 32, 32, 32): 2.5, (256, 1024): 1.6}


def forward_and_backward(layer, shape: tuple, training: bool, jit_compile: bool):
    """One evaluation of the layer and of its gradient on a random input, as a function."""
    x, upstream = tf.random.normal(shape), tf.random.normal(shape)
    layer.build(shape)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def both():
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=training)
        # Sums, so that what is timed is not the copy of the result.
        return tf.reduce_sum(outputs), tf.reduce_sum(tape.gradient(outputs, x, upstream))

    return lambda: [value.numpy() for value in both()]


class ReLU(keras.layers.ReLU):
    """Takes the argument that the others take."""

    def call(self, inputs, training=None):
        """As in Keras."""
        return super().call(inputs)


def main(repetitions: int) -> None:
    """Prints medians, quartiles, ratios and claims."""
    for jit_compile in (False, True):
        for shape, claim in SHAPES.items():
            sides = {
                "ReLU": (ReLU(), True),
                "GroupSort2, training": (layers.GroupSort2(), True),
                "GroupSort2, inference": (layers.GroupSort2(), False),
                "FullSort": (layers.FullSort(), True),
                "Householder": (layers.Householder(), True),
            }
            functions = {
                name: forward_and_backward(layer, shape, training, jit_compile)
                for name, (layer, training) in sides.items()
            }
            timing.print_table(
                f"{shape}{', jit_compile' if jit_compile else ''}",
                timing.alternate(functions, repetitions),
                {} if jit_compile else {"GroupSort2, training": claim},
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
