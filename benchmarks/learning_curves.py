"""Accuracy and certificates per epoch and per second on MNIST, for four losses.

The network of `notebooks/2_robust_mnist.py` on 10,000 images: with kernels kept by plain Bjorck
steps differentiated through, as the peers do, and as this library does, with and without the
retraction after each update.

    python benchmarks/learning_curves.py MNIST.npz [epochs] [figure.png]
"""

import sys
import time
from pathlib import Path

import timing  # noqa: F401  sets the log level before TensorFlow is loaded

# isort: split
import keras
import networks as nets
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf.cli.quickstart.data import load

DEFAULT_DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "mnist_10k.npz"
BATCH_SIZE = 256

LOSSES = {
    "tau = 100": lip.losses.TauCategoricalCrossentropy(tau=100.0),
    "tau = 3": lip.losses.TauCategoricalCrossentropy(tau=3.0),
    "HKR(0.1, 50)": lip.losses.MulticlassHKR(min_margin=0.1, alpha=50.0),
    "HKR(1, 30)": lip.losses.MulticlassHKR(min_margin=1.0, alpha=30.0),
}
SIDES = {
    "plain Bjorck": nets.sides_with(nets.PlainBjorck()),
    "without retraction": nets.sides_with(nets.Unretracted()),
    "this library": nets.OURS,
}


class Curve(keras.callbacks.Callback):
    """Accuracy and mean certificate after each epoch, and the seconds of training alone."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.rows, self.seconds = x, y, [], 0.0

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Stops it; the first epoch, which traces and compiles, counts as the others do later."""
        spent = time.perf_counter() - self.started
        self.seconds += spent if epoch else 0.0
        logits = self.model.predict(self.x, batch_size=2000, verbose=0)
        top, second = np.sort(logits, axis=1)[:, [-1, -2]].T
        correct = logits.argmax(axis=1) == self.y
        radius = np.where(correct, top - second, 0) / np.sqrt(2)
        self.rows.append((self.seconds, correct.mean(), radius.mean()))


def train(data, loss, parts: dict, epochs: int) -> np.ndarray:
    """(epochs, 3): seconds, accuracy and mean certificate after each epoch."""
    keras.utils.set_random_seed(0)
    shape, stack = nets.mnist_network(**parts)
    model = keras.Sequential([keras.Input(shape), *stack])
    steps = epochs * -(-len(data.x_train) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(rate), loss)
    labels = np.eye(data.classes, dtype="float32")[data.y_train]
    curve = Curve(data.x_test, data.y_test)
    model.fit(
        data.x_train,
        labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[curve],
    )
    return np.array(curve.rows)


def draw(curves: dict, path: str) -> None:
    """Mean certificate against seconds, one panel for each loss."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(LOSSES), figsize=(4 * len(LOSSES), 3.5), squeeze=False)
    for axis, name in zip(axes[0], LOSSES, strict=True):
        for side in SIDES:
            seconds, _, certificate = curves[name, side].T
            axis.plot(seconds, certificate, marker=".", label=side)
        axis.set(title=name, xlabel="seconds of training", ylabel="mean certificate")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main(path: str, epochs: int, figure: str | None) -> None:
    """Prints the last epoch of each side, and where it was when plain Bjorck had done a third."""
    data, curves = load(path), {}
    header = f"{'loss':<14}{'side':<20}{'accuracy':>10}{'certificate':>13}{'s/epoch':>9}"
    print(f"{header}{'certificate at equal seconds':>31}", flush=True)
    for name, loss in LOSSES.items():
        ours = {side: train(data, loss, parts, epochs) for side, parts in SIDES.items()}
        # When the fastest side is done, the slower ones have done fewer epochs.
        limit = min(curve[-1, 0] for curve in ours.values())
        for side, curve in ours.items():
            curves[name, side] = curve
            seconds, accuracy, certificate = curve[-1]
            equal = np.interp(limit, curve[:, 0], curve[:, 2])
            print(
                f"{name:<14}{side:<20}{accuracy:>10.4f}{certificate:>13.4f}"
                f"{seconds / max(epochs - 1, 1):>9.3f}{equal:>22.4f} at {limit:.1f}",
                flush=True,
            )
    if figure:
        draw(curves, figure)


if __name__ == "__main__":
    source = sys.argv[1] if len(sys.argv) > 1 else str(DEFAULT_DATA)
    if not Path(source).exists():
        sys.exit(f"There is no file {source}: give the path of an .npz file of MNIST.")
    main(
        source,
        int(sys.argv[2]) if len(sys.argv) > 2 else 8,
        sys.argv[3] if len(sys.argv) > 3 else None,
    )
