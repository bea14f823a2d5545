"""Peak memory of training steps against the same network in plain Keras.

Each side is a process of its own: the largest resident set while it trains, less what it had
before the model was made. What TensorFlow keeps of the graphs and of the loops that it compiled is
in it, once for a program; what a batch takes is what larger batches add.

    python benchmarks/memory.py
"""

import resource
import subprocess
import sys
from pathlib import Path

CLAIM = 1.3
STEPS = 5
# The second batch is this many times as large.
LARGER = 6


def measure(network: str, side: str, times: str) -> float:
    """MiB that training takes with a batch that is `times` as large; in this process."""
    import train_step  # noqa: F401  sets the log level before TensorFlow is loaded

    # isort: split
    import networks as nets

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = peak()
    make, batch = nets.NETWORKS[network]
    model = nets.compiled(make(**{"plain": nets.PLAIN, "ours": nets.OURS}[side]))
    x, y = nets.batch_of(model, batch * int(times))
    for _ in range(STEPS):
        model.train_on_batch(x, y)
    return peak() - before


def in_its_own_process(network: str, side: str, times: int) -> float:
    """`measure`, elsewhere."""
    command = [sys.executable, str(Path(__file__)), network, side, str(times)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1])


def main() -> None:
    """Prints the peaks, what a larger batch adds, and their ratios."""
    import networks as nets

    print(f"{'peak MiB':<44}{'plain':>8}{'ours':>8}{'ratio':>8}{'claim':>8}")
    for network, (_, batch) in nets.NETWORKS.items():
        peaks = {
            side: [in_its_own_process(network, side, times) for times in (1, LARGER)]
            for side in ("plain", "ours")
        }
        rows = {
            f"{network}, batch {batch}": [peaks[side][0] for side in peaks],
            f"{network}, {(LARGER - 1) * batch} samples more": [b - a for a, b in peaks.values()],
        }
        for name, (plain, ours) in rows.items():
            ratio = ours / plain
            print(f"{name:<44}{plain:>8.0f}{ours:>8.0f}{ratio:>8.2f}{f'<= {CLAIM}':>8}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(measure(*sys.argv[1:]))
    else:
        main()
