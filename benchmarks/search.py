"""A search: models that are made, trained, evaluated and forgotten one after the other.

Each side is a process of its own. What a model takes, in CPU-seconds of all threads, and what the
process holds after it, in MiB: the first one pays for what TensorFlow does once, later ones for
what it does again for each model.

    python benchmarks/search.py [models]                       # 20 by default
"""

import subprocess
import sys
import time
from pathlib import Path

CLAIM, MEMORY_CLAIM = 1.2, 1.2
# The model that the claim is about, and the first one from which memory is counted.
LATER, WARM = 8, 4
BATCHES = 4


def search(side: str, models: int) -> None:
    """Prints seconds and MiB of each model; in this process."""
    import train_step  # noqa: F401  sets the log level before TensorFlow is loaded

    # isort: split
    import gc

    import keras
    import networks as nets
    from soak import resident

    make, batch = nets.NETWORKS["MNIST convolutional"]
    keras.ops.convert_to_numpy(keras.ops.ones((2, 2)) @ keras.ops.ones((2, 2)))
    for number in range(1, models + 1):
        start = time.process_time()
        made = make(**{"plain": nets.PLAIN, "ours": nets.OURS}[side])
        model = nets.compiled(made, learning_rate=1e-3 / number)
        x, y = nets.batch_of(model, BATCHES * batch)
        model.fit(x, y, batch_size=batch, verbose=0)
        model.evaluate(x, y, batch_size=batch, verbose=0)
        seconds = time.process_time() - start
        del model, made
        keras.backend.clear_session()
        gc.collect()
        print(seconds, resident(), flush=True)


def in_its_own_process(side: str, models: int) -> list[list[float]]:
    """`search`, elsewhere: a row of seconds and MiB for each model."""
    command = [sys.executable, str(Path(__file__)), side, str(models)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [[float(one) for one in line.split()] for line in output.splitlines()[-models:]]


def main(models: int) -> None:
    """Prints what each model takes, and the ratios."""
    plain, ours = (in_its_own_process(side, models) for side in ("plain", "ours"))
    print(f"{'model':<12}{'plain CPU-s':>12}{'ours':>8}{'ratio':>8}{'plain MiB':>12}{'ours':>8}")
    for number, (((a, low), (b, high)), claim) in enumerate(
        zip(zip(plain, ours, strict=True), _claims(models), strict=True), start=1
    ):
        print(f"{number:<12}{a:>12.2f}{b:>8.2f}{b / a:>8.2f}{low:>12.0f}{high:>8.0f}{claim}")
    kept = [(rows[-1][1] - rows[WARM - 1][1]) / (models - WARM) for rows in (plain, ours)]
    print(f"MiB that a model leaves: {kept[0]:.2f}, {kept[1]:.2f}, claim <= {MEMORY_CLAIM} times")


def _claims(models: int) -> list[str]:
    return [f"  <= {CLAIM}" if number == LATER else "" for number in range(1, models + 1)]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        search(sys.argv[1], int(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
