"""What a process keeps of models that it has forgotten, round for round.

Each side is a process of its own. A round makes a network, trains and evaluates it, saves and loads
it, certifies, verifies and exports what was loaded, and calls `clear_session`; plain Keras does
the same without certificates and verification. The first rounds are left out: TensorFlow
allocates what it will use again.

    python benchmarks/soak.py --minutes 30
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

GOAL = 1.3
WARM_UP = 3


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def counted() -> tuple[float, int, int]:
    """MiB, open files and threads."""
    return resident(), len(os.listdir("/proc/self/fd")), threading.active_count()


def ours(x, y, folder: Path) -> None:
    """A round with this library."""
    import keras

    import deel_lip_tf as lip

    hidden = lip.layers.SpectralDense(16, activation=lip.layers.GroupSort2())
    model = lip.Sequential([keras.Input((8,)), hidden, lip.layers.SpectralDense(3)])
    model.compile(
        "adam", lip.losses.TauSparseCategoricalCrossentropy(tau=3.0), metrics=["accuracy"]
    )
    loaded = trained(model, x, y, folder)
    certificates = lip.certificates.certify(loaded, x, y)
    certificates.save(folder / "certificates.npz")
    lip.verify.robustness(loaded, x[:2], y[:2], eps=0.01, time_limit=5.0)
    lip.verify.to_onnx(loaded, folder / "model.onnx")


def plain(x, y, folder: Path) -> None:
    """A round of Keras alone."""
    import keras

    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    trained(model, x, y, folder)


def trained(model, x, y, folder: Path):
    """The model after training, an evaluation, a file and an export; as it is loaded."""
    import keras

    model.fit(x, y, epochs=2, verbose=0)
    model.evaluate(x, y, verbose=0)
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    loaded.predict(x, verbose=0)
    loaded.export(folder / "served", verbose=False)
    return loaded


def rounds(side: str, minutes: float) -> None:
    """Prints what is there after each round."""
    import gc

    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = rng.random(size=(64, 8)).astype("float32"), np.arange(64) % 3
    start, number = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        while number < WARM_UP + 2 or time.monotonic() - start < 60 * minutes:
            {"ours": ours, "plain": plain}[side](x, y, Path(folder))
            keras.backend.clear_session()
            gc.collect()
            number += 1
            print(number, *counted(), flush=True)


def measured(side: str, minutes: float) -> tuple[int, float, int, int]:
    """Rounds, and what each of them adds: MiB, open files, threads."""
    command = [sys.executable, __file__, "--side", side, "--minutes", str(minutes)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    table = [[float(one) for one in line.split()] for line in output.splitlines()][WARM_UP - 1 :]
    steps = len(table) - 1
    growth = [(last - first) / steps for first, last in zip(table[0], table[-1], strict=True)]
    return steps, growth[1], round(steps * growth[2]), round(steps * growth[3])


def main() -> None:
    """Prints the growth of both sides."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--side", choices=("ours", "plain"))
    options = parser.parse_args()
    if options.side:
        rounds(options.side, options.minutes)
        return
    print(f"{'':<8}{'rounds':>8}{'MiB each':>10}{'files':>8}{'threads':>9}")
    found = {side: measured(side, options.minutes / 2) for side in ("plain", "ours")}
    for side, (steps, memory, files, threads) in found.items():
        print(f"{side:<8}{steps:>8}{memory:>10.2f}{files:>8}{threads:>9}")
    print(f"ratio of memory {found['ours'][1] / found['plain'][1]:.2f}, goal <= {GOAL}")


if __name__ == "__main__":
    main()
