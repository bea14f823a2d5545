"""The 1-Lipschitz convolutional network of the main job, its losses and its training."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import numpy as np

from deel_lip_tf.cli.quickstart.data import Dataset

DEFAULT_LOSS = "CategoricalHinge"
LOSS_ARGUMENTS = {
    "CategoricalHinge": {"min_margin": 1.0},
    "TauCategoricalCrossentropy": {"tau": 5.0},
    "MulticlassHKR": {"alpha": 50.0, "min_margin": 1.0},
    "MulticlassHinge": {"min_margin": 1.0},
    "MultiMargin": {"min_margin": 1.0},
}
DEFAULT_EPOCHS = 30
BATCH_SIZE = 64
LEARNING_RATE = 1e-2
HIDDEN_UNITS = 128
SMALL = 4


def stage_filters(image_shape: tuple[int, int, int]) -> list[int]:
    """Filters of each convolution; each halves the image, at least two do, until it is small.

    Kernels as large as their strides give every pixel to one patch, so that the orthogonal kernel
    of a convolution makes it an isometry wherever it has filters enough: nothing is lost to the
    gain that overlapping patches would need.
    """
    size, stages = max(image_shape[:2]), 0
    while stages < 2 or size > SMALL:
        size, stages = -(-size // 2), stages + 1
    return [32] + [64] * (stages - 2) + [128]


def build(data: Dataset, loss: str, epochs: int):
    """A compiled 1-Lipschitz convolutional classifier for the images of `data`.

    Args:
        data: gives the shape of the images, their number and that of the classes.
        loss: a key of `LOSS_ARGUMENTS`, the name of a class in `deel_lip_tf.losses`.
        epochs: how long it will be trained; the learning rate falls to zero along a cosine.

    Returns:
        A `deel_lip_tf.Sequential` from images (n, height, width, channels) to logits (n, classes).
    """
    import keras

    import deel_lip_tf
    from deel_lip_tf import layers, losses

    convolutions = [
        layer
        for filters in stage_filters(data.image_shape)
        for layer in (
            layers.SpectralConv2D(filters, 2, strides=2, padding="same"),
            layers.GroupSort2(),
        )
    ]
    model = deel_lip_tf.Sequential(
        [
            keras.Input(data.image_shape),
            *convolutions,
            keras.layers.Flatten(),
            layers.SpectralDense(HIDDEN_UNITS),
            layers.GroupSort2(),
            layers.SpectralDense(data.classes),
        ],
        name="quickstart",
    )
    steps = -(-len(data.x_train) // BATCH_SIZE) * epochs
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=getattr(losses, loss)(**LOSS_ARGUMENTS[loss]),
        metrics=["accuracy"],
    )
    return model


def train(model, data: Dataset, epochs: int) -> bool:
    """Fits the model, with Keras's progress bars.

    Returns:
        Whether all epochs were run; False after Ctrl-C, which ends the training after the batch
        at hand. A second Ctrl-C is an ordinary `KeyboardInterrupt`.
    """
    import keras

    with _interrupt_noted() as interrupted:

        def stop_if_interrupted(*_, **__) -> None:
            if interrupted.is_set():
                model.stop_training = True

        model.fit(
            data.x_train,
            np.eye(data.classes, dtype=np.float32)[data.y_train],
            validation_data=(data.x_test, np.eye(data.classes, dtype=np.float32)[data.y_test]),
            batch_size=BATCH_SIZE,
            epochs=epochs,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=stop_if_interrupted)],
        )
    return not interrupted.is_set()


def describe(loss: str, epochs: int, seed: int, finished: bool) -> str:
    """The settings of a run in one line."""
    arguments = ", ".join(f"{name}={value:g}" for name, value in LOSS_ARGUMENTS[loss].items())
    stopped = "" if finished else ", STOPPED EARLY by Ctrl-C"
    return f"trained with {loss}({arguments}), {epochs} epochs, seed {seed}{stopped}"


@contextlib.contextmanager
def _interrupt_noted() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into an event that is set; the next one raises as ever."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # only the main thread may set a signal handler
        return

    def note(*_) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
