"""Training and certifying a recipe of `certified_accuracy.py`."""

import fractions
import json
import sys
import time
from pathlib import Path

import keras
import recipes

import deel_lip_tf as lip

HEADER = f"{'recipe':<22}{'seed':>5}{'clean':>8}  proven certified accuracy at radius"


def backend() -> str:
    """The name of Keras's backend."""
    return keras.config.backend()


class Clock(keras.callbacks.Callback):
    """Seconds of training, kept beside the model so that a run that goes on keeps counting.

    CPU-seconds too, of all threads: they are what a busy machine does not change much.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.spent = {"seconds": 0.0, "cpu_seconds": 0.0}
        if path.exists():
            self.spent = {key: json.loads(path.read_text())[key] for key in self.spent}

    def _now(self) -> dict[str, float]:
        return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}

    def on_epoch_begin(self, epoch, logs=None):
        """Starts."""
        self._started = self._now()

    def on_epoch_end(self, epoch, logs=None):
        """Stops, tracing and compiling included."""
        now = self._now()
        self.spent = {key: self.spent[key] + now[key] - self._started[key] for key in now}
        self.path.write_text(json.dumps({"epochs": epoch + 1, **self.spent}))


def train(recipe: recipes.Recipe, data: recipes.Images, out: Path, name: str, seed: int) -> dict:
    """Writes the trained model, and a backup after each epoch; says what was spent, and by what."""
    keras.utils.set_random_seed(seed)
    model = recipe.model(data)
    steps = recipe.epochs * -(-len(data.x_train) // recipe.batch_size)
    if backend() == "jax":
        # Keras compiles no step with RandomTranslation, which TensorFlow's XLA cannot; JAX can.
        for layer in model.layers:
            layer.supports_jit = True
    model.compile(recipe.optimizer(steps), recipe.loss(), metrics=["accuracy"])
    clock = Clock(out / f"{name}.seconds")
    backup = keras.callbacks.BackupAndRestore(out / f"{name}.backup")
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        verbose=1 if sys.stderr.isatty() else 2,
        callbacks=[backup, clock, *recipe.callbacks(steps)],
    )
    model.save(out / f"{name}.keras")
    return {"optimizer": type(model.optimizer).__name__, **clock.spent}


def certified(path: Path, recipe: recipes.Recipe, data: recipes.Images) -> dict:
    """What is proven of the weights as they were saved, on all test images."""
    model = keras.models.load_model(path, compile=False)
    start = time.perf_counter()
    certificates = lip.certificates.certify(model, data.x_test, data.y_test)
    shares = certificates.certified_accuracy([0.0, *recipe.radii.values()])
    return {
        "clean": float(shares[0]),
        "certified": dict(zip(recipe.radii, map(float, shares[1:]), strict=True)),
        "constant": certificates.bound,
        "seconds of certification": time.perf_counter() - start,
    }


def row(result: dict) -> str:
    """A result in one line, as under `HEADER`."""
    shares = "  ".join(f"{at}: {100 * v:.1f}" for at, v in result["certified"].items())
    return (
        f"{result['recipe']:<22}{result['seed']:>5}{100 * result['clean']:>8.1f}  {shares}  "
        f"L <= {result['constant']:.5f}  {result['epochs']} epochs of {result['images']} images "
        f"of {result['data']} in {result['seconds'] / 60:.1f} min "
        f"({result['cpu_seconds'] / 60:.1f} of CPU), {result['optimizer']} {result['rate']}, "
        f"{result['backend']}, "
        f"{result['machine']}"
    )


def figure(results: list[dict], path: Path) -> None:
    """Proven certified accuracy against radius, with the minutes: a panel for each data set."""
    from matplotlib.figure import Figure

    names = sorted({one["data"] for one in results})
    drawn = Figure(figsize=(5.5 * len(names), 4.5), layout="constrained")
    for ax, data in zip(drawn.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for one in sorted(results, key=lambda one: one["cpu_seconds"]):
            if one["data"] != data:
                continue
            radii = [0.0, *(float(fractions.Fraction(text)) for text in one["certified"])]
            shares = [100 * share for share in (one["clean"], *one["certified"].values())]
            minutes = f"{one['cpu_seconds'] / 60:.1f} CPU-minutes"
            line = "o-" if one["optimizer"] == "StiefelMuon" else "s--"
            label = f"{one['recipe']}, {one['optimizer']}, {minutes}"
            ax.plot(radii, shares, line, label=label)
        ax.set(title=data, xlabel="L2 radius, pixels from 0 to 1", ylim=(0, 100), xlim=(0, None))
        ax.set_ylabel("proven certified accuracy, %")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="lower left" if "mnist" in data else "upper right")
    drawn.savefig(path, dpi=110)
