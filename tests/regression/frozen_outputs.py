"""What frozen models compute in a process of their own, and whether it rounds as the first did.

    python frozen_outputs.py RELEASE OUTPUTS.npz

How TensorFlow optimizes a graph, and so how it rounds, depends on its options where the graph is
traced, and a graph is traced once: after other tests, bits would depend on which these were.
"""

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

import deel_lip_tf  # noqa: F401  (its classes register themselves)
from tests.regression.arithmetic import arithmetic
from tests.regression.frozen_files import frozen, load, numbered, read


def computed(release: Path) -> dict[str, np.ndarray]:
    """Outputs of every model of a release."""
    found = {"is_same": np.array(arithmetic() == read(release / "arithmetic.json"))}
    for path in sorted(release.glob("models/*.keras")):
        (inputs,) = frozen(path, "inputs").values()
        found |= numbered(f"{path.stem}/outputs", load(path)(inputs))
    return found


@cache
def computed_apart(release: Path) -> dict[str, np.ndarray]:
    """The same, by a new process."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "outputs.npz"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", __spec__.name, str(release), str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        with np.load(path) as archive:
            return dict(archive)


if __name__ == "__main__":
    np.savez(sys.argv[2], **computed(Path(sys.argv[1])))
