"""Peak memory of training steps against the same network in plain Keras.

Each side is a process of its own: the largest resident set while it trains, less what it had
before the model was made.

    python benchmarks/memory.py
"""

import resource
import subprocess
import sys
from pathlib import Path

CLAIM = 1.3
STEPS = 5


def measure(network: str, side: str) -> float:
    """MiB that training takes; in this process."""
    import train_step  # noqa: F401  sets the log level before TensorFlow is loaded

    # isort: split
    import networks as nets

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = peak()
    make, batch = nets.NETWORKS[network]
    model = nets.compiled(make(**{"plain": nets.PLAIN, "ours": nets.OURS}[side]))
    x, y = nets.batch_of(model, batch)
    for _ in range(STEPS):
        model.train_on_batch(x, y)
    return peak() - before


def in_its_own_process(network: str, side: str) -> float:
    """`measure`, elsewhere."""
    command = [sys.executable, str(Path(__file__)), network, side]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1])


def main() -> None:
    """Prints the peaks and their ratio."""
    import networks as nets

    print(f"{'network':<24}{'plain MiB':>12}{'ours MiB':>12}{'ratio':>8}{'claim':>8}")
    for network in nets.NETWORKS:
        plain, ours = (in_its_own_process(network, side) for side in ("plain", "ours"))
        ratio = ours / plain
        print(f"{network:<24}{plain:>12.0f}{ours:>12.0f}{ratio:>8.2f}{f'<= {CLAIM}':>8}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(measure(*sys.argv[1:]))
    else:
        main()
