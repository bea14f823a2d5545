"""The wait before the first step: importing, building, the first step, the first predict.

The first step also in eager mode, and the first predict also of a model that was not trained.

Each side is a process of its own, in which Keras and its backend have started. CPU-seconds of the
process, all threads together: another program on the machine counts for little. The ratio of the
seconds that pass, which is what a person feels, means something on an idle machine. The start of
Python and Keras is in neither.

All but importing is compared with plain Keras.

    python benchmarks/first_step.py [runs]                       # 3 by default
    KERAS_BACKEND=jax python benchmarks/first_step.py
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SIDES = ("plain", "ours")
CLAIM, IMPORT_CLAIM = 2.0, 0.2
IMPORT = """
import keras, time
start = time.process_time()
import deel_lip_tf
print(time.process_time() - start)
"""
THREE = "three dense 1024"
WHAT = ("building", "first train_on_batch", "first predict", "building and first step")
# What comes first in a process of its own, and what is claimed of it.
ALONE = {"first predict alone": 1.5, "first eager step": 3.0}


def three_dense(conv, dense, activation, pooling) -> tuple:
    """1024-1024-1024-1024, nothing between."""
    return (1024,), [dense(1024) for _ in range(3)]


def now() -> tuple[float, float]:
    """CPU-seconds of this process, and seconds."""
    return time.process_time(), time.perf_counter()


def measure(network: str, side: str, alone: str = "") -> np.ndarray:
    """Rows of CPU-seconds and seconds of each of `WHAT`, or of one of `ALONE`, in this process."""
    import train_step  # noqa: F401  sets the log level before TensorFlow is loaded

    # isort: split
    import keras
    import networks as nets

    keras.ops.convert_to_numpy(keras.ops.ones((2, 2)) @ keras.ops.ones((2, 2)))
    make, batch = {**nets.NETWORKS, THREE: (three_dense, 256)}[network]
    moments = [now()]
    made = make(**{"plain": nets.PLAIN, "ours": nets.OURS}[side])
    model = nets.compiled(made)
    moments.append(now())
    x, y = nets.batch_of(model, batch)
    if alone:
        start = now()
        if alone == "first eager step":
            eager_step(model, x, y)
        else:
            model.predict(x, batch_size=batch, verbose=0)
        return np.diff([start, now()], axis=0)
    model.train_on_batch(x, y)
    moments.append(now())
    model.predict(x, batch_size=batch, verbose=0)
    moments.append(now())
    seconds = np.diff(moments, axis=0)
    return np.vstack([seconds, seconds[0] + seconds[1]])


def eager_step(model, x, y) -> None:
    """A loop of one's own, in TensorFlow's eager mode."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = model.loss(y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    model.optimizer.apply(gradients, model.trainable_variables)


def in_its_own_process(*arguments: str) -> np.ndarray:
    """`measure`, elsewhere."""
    command = [sys.executable, str(Path(__file__)), *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return np.array(output.splitlines()[-1].split(), float).reshape(-1, 2)


def medians(runs: int, network: str, *alone: str) -> np.ndarray:
    """(sides, rows of `measure`, 2), of processes that take turns."""
    found = [[in_its_own_process(network, side, *alone) for side in SIDES] for _ in range(runs)]
    return np.median(found, axis=0)


def main(runs: int) -> None:
    """Prints the medians, and their ratios."""
    command = [sys.executable, "-c", IMPORT]
    imports = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(runs)
    ]
    print(f"importing, after Keras: {statistics.median(imports):.3f} CPU-s, <= {IMPORT_CLAIM}\n")
    titles = f"{'plain':>8}{'ours':>8}{'ratio':>8}{'claim':>8}{'ratio of seconds':>18}"
    print(f"{'CPU-seconds':<44}{titles}")
    is_tensorflow = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
    for network in ("MNIST convolutional", THREE):
        plain, ours = medians(runs, network)
        for what, *sides in zip(WHAT, plain, ours, strict=True):
            claim = f"<= {CLAIM}" if what == "building and first step" else ""
            print_row(f"{network}, {what}", *sides, claim)
        for what, limit in ALONE.items() if is_tensorflow else ():
            print_row(f"{network}, {what}", *medians(runs, network, what)[:, 0], f"<= {limit}")


def print_row(what: str, plain: np.ndarray, ours: np.ndarray, claim: str) -> None:
    """One line of the table."""
    cpu, felt = ours / plain
    print(
        f"{what:<44}{plain[0]:>8.2f}{ours[0]:>8.2f}{cpu:>8.1f}{claim:>8}{felt:>18.1f}", flush=True
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(*measure(*sys.argv[1:]).ravel())
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
