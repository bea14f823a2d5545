"""Peak memory of training steps against the same network in plain Keras.

Each side is a process of its own: the largest resident set while it trains, less what it had
before the model was made. What a batch takes is what larger batches add. The peak is the sum of
three parts (on Linux with glibc 2.33 or later):

* pages of programs: of TensorFlow's code, read from its file when it first runs, once for a
  process, and shared with other processes; those of XLA among them;
* alive: allocated after the last step: weights, the optimizer's, graphs, compiled loops;
* freed again: activations, gradients, what tracing and compiling took, and the holes among them
  that the allocator keeps.

    python benchmarks/memory.py
"""

import ctypes
import resource
import subprocess
import sys
from pathlib import Path

CLAIM = 1.3
STEPS = 5
# The second batch is this many times as large.
LARGER = 6

PARTS = ("pages of programs", "alive", "freed again")


class _Allocated(ctypes.Structure):
    """glibc's `struct mallinfo2`, summed over its arenas: ten numbers of bytes or blocks."""

    _fields_ = [("numbers", ctypes.c_size_t * 10)]

    def total(self) -> int:
        """Bytes that are in use: blocks that are mapped (`hblkhd`), all others (`uordblks`)."""
        return self.numbers[4] + self.numbers[7]


def resident() -> tuple[float, float, float]:
    """MiB: the largest resident set so far; of it now, pages of files; what is allocated."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = Path("/proc/self/status").read_text().splitlines()
    files = next(float(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1024
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Allocated
    return peak, files, mallinfo2().total() / 2**20


def measure(network: str, side: str, times: str) -> list[float]:
    """The peak of training with a batch that is `times` as large, and its parts; here."""
    import train_step  # noqa: F401  sets the log level before TensorFlow is loaded

    # isort: split
    import networks as nets

    before = resident()
    make, batch = nets.NETWORKS[network]
    model = nets.compiled(make(**{"plain": nets.PLAIN, "ours": nets.OURS}[side]))
    x, y = nets.batch_of(model, batch * int(times))
    for _ in range(STEPS):
        model.train_on_batch(x, y)
    peak, files, alive = (b - a for a, b in zip(before, resident(), strict=True))
    return [peak, files, alive, peak - files - alive]


def in_its_own_process(network: str, side: str, times: int) -> list[float]:
    """`measure`, elsewhere."""
    command = [sys.executable, str(Path(__file__)), network, side, str(times)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(number) for number in output.splitlines()[-1].split()]


def main() -> None:
    """Prints the peaks and their parts, what a larger batch adds, and the ratios."""
    import networks as nets

    print(f"{'peak MiB':<44}{'plain':>8}{'ours':>8}{'ratio':>8}{'claim':>8}")
    for network, (_, batch) in nets.NETWORKS.items():
        plain, ours, more_plain, more_ours = (
            in_its_own_process(network, side, times)
            for times in (1, LARGER)
            for side in ("plain", "ours")
        )
        _print_row(f"{network}, batch {batch}", plain[0], ours[0], f"<= {CLAIM}")
        for part, low, high in zip(PARTS, plain[1:], ours[1:], strict=True):
            _print_row(f"  {part}", low, high, "")
        name = f"{network}, {(LARGER - 1) * batch} samples more"
        _print_row(name, more_plain[0] - plain[0], more_ours[0] - ours[0], f"<= {CLAIM}")


def _print_row(name: str, plain: float, ours: float, claim: str) -> None:
    print(f"{name:<44}{plain:>8.0f}{ours:>8.0f}{ours / plain:>8.2f}{claim:>8}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(*measure(*sys.argv[1:]))
    else:
        main()
