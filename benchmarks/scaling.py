"""Where the constraint stops mattering: its cost against width, depth, batch and image size.

Every ratio is that of a training step with constrained kernels to one with free ones, the rest of
the network being the same. The growth of both is fitted by a power of what varies.

    python benchmarks/scaling.py [steps]
"""

import sys

import timing

# isort: split
import keras
import networks as nets
import numpy as np


def dense(width: int = 256, depth: int = 3, batch: int = 256) -> dict:
    """Both sides of a dense network, and the batch."""
    return {
        side: (
            (width,),
            [layer for _ in range(depth) for layer in (parts["dense"](width), keras.layers.ReLU())],
            batch,
        )
        for side, parts in (("plain", nets.PLAIN), ("constrained", nets.CONSTRAINED))
    }


def convolutional(size: int = 16, filters: int = 32, batch: int = 64) -> dict:
    """Both sides of a convolutional network of three layers."""
    return {
        side: (
            (size, size, 3),
            [
                *(
                    layer
                    for _ in range(3)
                    for layer in (parts["conv"](filters), keras.layers.ReLU())
                ),
                keras.layers.GlobalAveragePooling2D(),
            ],
            batch,
        )
        for side, parts in (("plain", nets.PLAIN), ("constrained", nets.CONSTRAINED))
    }


SWEEPS = {
    "width of a dense network": [(n, dense(width=n)) for n in (64, 128, 256, 512, 1024)],
    "depth of a dense network": [(n, dense(depth=n)) for n in (1, 2, 4, 8)],
    "batch of a dense network": [(n, dense(batch=n)) for n in (32, 128, 512, 2048)],
    "image size": [(n, convolutional(size=n)) for n in (8, 16, 32, 64)],
    "filters": [(n, convolutional(filters=n)) for n in (8, 16, 32, 64)],
    "batch of images": [(n, convolutional(batch=n)) for n in (16, 64, 256)],
}


def stepper(shape: tuple, stack: list, batch: int):
    """One training step, as a function."""
    model = nets.compiled((shape, stack))
    x, _ = nets.batch_of(model, batch)
    y = np.zeros(batch, int)
    return lambda: model.train_on_batch(x, y)


def main(steps: int) -> None:
    """Prints milliseconds, ratios and fitted powers."""
    for title, sweep in SWEEPS.items():
        print(f"\n{title:<28}{'plain ms':>10}{'constrained ms':>16}{'ratio':>8}")
        medians = []
        for value, sides in sweep:
            functions = {name: stepper(*side) for name, side in sides.items()}
            seconds = timing.alternate(functions, steps, warm_up=6)
            plain, constrained = (1e3 * np.median(seconds[name]) for name in sides)
            medians.append((plain, constrained - plain))
            print(f"{value:<28}{plain:>10.2f}{constrained:>16.2f}{constrained / plain:>8.2f}")
        values = np.log([value for value, _ in sweep])
        powers = [
            np.polyfit(values, np.log(np.maximum(column, 1e-2)), 1)[0]
            for column in np.transpose(medians)
        ]
        print(f"grows as a power of {powers[0]:.2f}; what the constraint adds, of {powers[1]:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
