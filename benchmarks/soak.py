"""What a process keeps of models that it has forgotten, round for round.

Each side is a process of its own, and both run at the same time, each as long as was asked for. A
round makes a network, trains and evaluates it, saves and loads it, certifies, verifies and exports
what was loaded, and calls `clear_session`; plain Keras does the same without certificates and
verification. The first rounds are left out: TensorFlow allocates what it will use again.

    python benchmarks/soak.py --minutes 30
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL = 1.3
WARM_UP = 3


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def traced() -> int:
    """Functions that TensorFlow has traced, and that somebody still holds."""
    import gc

    from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction

    # some objects raise where they are asked for their class
    return sum(issubclass(type(one), ConcreteFunction) for one in gc.get_objects())


def counted() -> tuple[float, int, int, int]:
    """MiB, open files, threads of the system, traced functions."""
    threads = len(os.listdir("/proc/self/task"))
    return resident(), len(os.listdir("/proc/self/fd")), threads, traced()


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


def started(side: str, minutes: float) -> subprocess.Popen:
    """A process of one side."""
    command = [sys.executable, __file__, "--side", side, "--minutes", str(minutes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def growth(process: subprocess.Popen) -> tuple[int, float, list[int]]:
    """Rounds, the MiB that each adds, and what all add: open files, threads, traced functions."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a side ended with {process.returncode}")
    table = [[float(one) for one in line.split()] for line in output.splitlines()][WARM_UP - 1 :]
    steps = len(table) - 1
    added = [last - first for first, last in zip(table[0], table[-1], strict=True)]
    return steps, added[1] / steps, [round(one) for one in added[2:]]


def main() -> None:
    """Prints the growth of both sides."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--side", choices=("ours", "plain"))
    options = parser.parse_args()
    if options.side:
        rounds(options.side, options.minutes)
        return
    print(f"{'':<8}{'rounds':>8}{'MiB each':>10}{'files':>8}{'threads':>9}{'traced':>8}")
    running = {side: started(side, options.minutes) for side in ("plain", "ours")}
    found = {side: growth(process) for side, process in running.items()}
    for side, (steps, memory, (files, threads, functions)) in found.items():
        print(f"{side:<8}{steps:>8}{memory:>10.2f}{files:>8}{threads:>9}{functions:>8}")
    print(f"ratio of memory {found['ours'][1] / found['plain'][1]:.2f}, goal <= {GOAL}")


if __name__ == "__main__":
    main()
