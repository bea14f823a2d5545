"""How the benchmarks measure: the sides take turns in one process; medians, quartiles, ratios."""

import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

_WARM_UP = 3


def alternate(sides: dict[str, Callable], repetitions: int, warm_up: int = _WARM_UP) -> dict:
    """Seconds of each side's calls, the sides taking turns; without those of the warm-up."""
    seconds = {name: [] for name in sides}
    for _ in range(repetitions + warm_up):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values[warm_up:]) for name, values in seconds.items()}


def print_table(title: str, seconds: dict[str, np.ndarray], claims: dict[str, float]) -> None:
    """Medians, quartiles, and the ratio of each median to that of the first side."""
    print(f"\n{title:<34}{'median ms':>10}{'quartiles ms':>20}{'ratio':>8}{'claim':>8}")
    base = np.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        low, middle, high = 1e3 * np.percentile(values, [25, 50, 75])
        spread, ratio = f"{low:.2f} to {high:.2f}", np.median(values) / base
        claim = f"<= {claims[name]:g}" if name in claims else ""
        print(f"{name:<34}{middle:>10.2f}{spread:>20}{ratio:>8.2f}{claim:>8}", flush=True)
