"""The wait before the first step: importing, building, the first step, the first predict.

The first step also in eager mode, and the first predict also of a model that was not trained.

Each side is a process of its own, in which Keras and its backend have started. CPU-seconds of the
process, all threads together: another program on the machine counts for little. The start of Python
and Keras is not in them.

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

CLAIM, IMPORT_CLAIM = 2.0, 0.2
IMPORT = """
import keras, time
start = time.process_time()
import deel_lip_tf
print(time.process_time() - start)
"""
THREE = "three dense 1024"
WHAT = ("building", "first train_on_batch", "first predict")
# What comes first in a process of its own, and what is claimed of it.
ALONE = {"first predict alone": 1.5, "first eager step": 3.0}


def three_dense(conv, dense, activation, pooling) -> tuple:
    """1024-1024-1024-1024, nothing between."""
    return (1024,), [dense(1024) for _ in range(3)]


def measure(network: str, side: str, alone: str = "") -> list[float]:
    """CPU-seconds of each of `WHAT`, or of one of `ALONE`, in this process."""
    import train_step  # noqa: F401  sets the log level before TensorFlow is loaded

    # isort: split
    import keras
    import networks as nets
    import numpy as np

    keras.ops.convert_to_numpy(keras.ops.ones((2, 2)) @ keras.ops.ones((2, 2)))
    make, batch = {**nets.NETWORKS, THREE: (three_dense, 256)}[network]
    moments = [time.process_time()]
    made = make(**{"plain": nets.PLAIN, "ours": nets.OURS}[side])
    model = nets.compiled(made)
    moments.append(time.process_time())
    x, y = nets.batch_of(model, batch)
    if alone:
        start = time.process_time()
        if alone == "first eager step":
            eager_step(model, x, y)
        else:
            model.predict(x, batch_size=batch, verbose=0)
        return [time.process_time() - start]
    model.train_on_batch(x, y)
    moments.append(time.process_time())
    model.predict(x, batch_size=batch, verbose=0)
    moments.append(time.process_time())
    return np.diff(moments).tolist()


def eager_step(model, x, y) -> None:
    """A loop of one's own, in TensorFlow's eager mode."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = model.loss(y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    model.optimizer.apply(gradients, model.trainable_variables)


def in_its_own_process(*arguments: str) -> list[float]:
    """`measure`, elsewhere."""
    command = [sys.executable, str(Path(__file__)), *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(value) for value in output.splitlines()[-1].split()]


def main(runs: int) -> None:
    """Prints the medians, for one side after the other in each run, and their ratios."""
    command = [sys.executable, "-c", IMPORT]
    imports = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(runs)
    ]
    print(f"importing, after Keras: {statistics.median(imports):.3f} CPU-s, <= {IMPORT_CLAIM}\n")
    print(f"{'CPU-seconds':<44}{'plain':>8}{'ours':>8}{'ratio':>8}{'claim':>8}")
    is_tensorflow = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
    for network in ("MNIST convolutional", THREE):
        found: dict[str, list] = {"plain": [], "ours": []}
        for _ in range(runs):
            for side, seconds in found.items():
                each = in_its_own_process(network, side)
                seconds.append([*each, each[0] + each[1]])
        medians = [
            [statistics.median(column) for column in zip(*rows, strict=True)]
            for rows in found.values()
        ]
        for what, plain, ours in zip((*WHAT, "building and first step"), *medians, strict=True):
            claim = f"<= {CLAIM}" if what == "building and first step" else ""
            print_row(network, what, plain, ours, claim)
        for what, limit in ALONE.items() if is_tensorflow else ():
            sides = [
                statistics.median(in_its_own_process(network, side, what)[0] for _ in range(runs))
                for side in ("plain", "ours")
            ]
            print_row(network, what, *sides, f"<= {limit}")


def print_row(network: str, what: str, plain: float, ours: float, claim: str) -> None:
    """One line of the table."""
    numbers = f"{plain:>8.2f}{ours:>8.2f}{ours / plain:>8.1f}{claim:>8}"
    print(f"{network + ', ' + what:<44}{numbers}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(*measure(*sys.argv[1:]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
