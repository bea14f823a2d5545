"""The orthogonal matrix nearest to a random kernel, with its gradient, against plain Bjorck.

Plain Bjorck is `W <- 1.5 W - 0.5 W W'W` from the kernel divided by a bound of its norm, with as
many steps as reach the same error, differentiated through.

    python benchmarks/orthogonalization.py [repetitions]
"""

import sys

import timing

# isort: split
import networks as nets
import numpy as np
import tensorflow as tf

from deel_lip_tf.normalizers import Spectral

# (rows, columns), and the ratio that is claimed.
SHAPES = {(1152, 128): 1 / 3, (2304, 256): 1 / 3, (4608, 512): 1 / 3}
LARGEST_ERROR = 1e-5


def error_of(factor) -> float:
    """`||W'W - I||_2` in float64."""
    factor = np.asarray(factor, np.float64)
    return np.linalg.norm(factor.T @ factor - np.eye(factor.shape[1]), 2)


def bjorck_steps_for(kernel) -> int:
    """How many steps of plain Bjorck this kernel needs."""
    for steps in range(1, 60):
        if error_of(nets.PlainBjorck(maxiter_bjorck=steps).project(kernel)) <= LARGEST_ERROR:
            return steps
    raise RuntimeError("plain Bjorck does not converge on this kernel")


def forward_and_gradient(project, kernel, upstream):
    """Value and gradient, as a function."""

    @tf.function(autograph=False)
    def both():
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            factor = project(kernel)
        return factor, tape.gradient(factor, kernel, upstream)

    return lambda: [value.numpy() for value in both()]


def main(repetitions: int) -> None:
    """Prints medians, quartiles, ratios, and the errors reached."""
    rng = np.random.default_rng(0)
    for shape, claim in SHAPES.items():
        kernel, upstream = (tf.constant(rng.normal(size=shape), "float32") for _ in range(2))
        steps = bjorck_steps_for(kernel)
        moved = Spectral().project(kernel) + 1e-5 * upstream
        sides = {
            f"plain Bjorck, {steps} steps": (nets.PlainBjorck(maxiter_bjorck=steps), kernel),
            "plain Bjorck, 15 steps": (nets.PlainBjorck(), kernel),
            "minimax steps, differentiated": (nets.DifferentiatedMinimax(), kernel),
            "this library": (Spectral(), kernel),
            "this library, on the manifold": (Spectral(), Spectral().retract(moved)),
        }
        functions = {
            name: forward_and_gradient(side.project, start, upstream)
            for name, (side, start) in sides.items()
        }
        functions["retraction after a small update"] = lambda moved=moved: retraction(moved)
        timing.print_table(
            f"{shape}", timing.alternate(functions, repetitions), {"this library": claim}
        )
        print(f"error of this library {error_of(Spectral().project(kernel)):.1e}")


@tf.function(autograph=False)
def _retract(moved):
    return Spectral().retract(moved)


def retraction(moved):
    """What a layer does to its kernel after an update."""
    return _retract(moved).numpy()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
