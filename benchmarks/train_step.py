"""What a training step costs against the same network in plain Keras, in one run.

Plain Keras means ReLU and average pooling. deel-lip's Keras 3 branch takes 1.94 times as long on
the MNIST network, 1.34 on the CIFAR network and 15.8 on the dense one.

    python benchmarks/train_step.py [steps] [--jit] [--ablation]
"""

import sys

import timing

# isort: split
import networks as nets

SIDES = {
    "plain Keras": nets.PLAIN,
    "constraint alone": nets.CONSTRAINED,
    "sorted, no constraint": nets.SORTED,
    "all": nets.OURS,
}
# What each choice buys, from what the peers do to what this library does.
ABLATION = {
    "plain Keras": nets.PLAIN,
    "15 steps of Bjorck": nets.sides_with(nets.PlainBjorck()),
    "minimax steps": nets.sides_with(nets.DifferentiatedMinimax()),
    "as needed, exact gradient": nets.sides_with(nets.Unretracted()),
    "and retracted: all": nets.OURS,
}
# Ratios to plain Keras that are claimed.
CLAIMS = {
    "MNIST convolutional": {"constraint alone": 1.05, "all": 1.4},
    "CIFAR convolutional": {"constraint alone": 1.05, "all": 1.15},
    "dense 1024": {"constraint alone": 5, "all": 5},
}


def stepper(make, parts: dict, batch: int, jit_compile: bool):
    """One training step on a fixed random batch, as a function."""
    model = nets.compiled(make(**parts), jit_compile=jit_compile)
    x, y = nets.batch_of(model, batch)
    return lambda: model.train_on_batch(x, y)


def main(steps: int, jit_compile: bool, ablation: bool) -> None:
    """Prints medians, quartiles and the ratio to plain Keras."""
    for name, (make, batch) in nets.NETWORKS.items():
        sides = {
            side: stepper(make, parts, batch, jit_compile)
            for side, parts in (ABLATION if ablation else SIDES).items()
        }
        # Adam's first updates are its largest, and large updates take more to retract.
        seconds = timing.alternate(sides, steps, warm_up=10 if ablation else 40)
        title = f"{name}{', jit_compile' if jit_compile else ''}"
        timing.print_table(title, seconds, {} if ablation or jit_compile else CLAIMS[name])


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    main(numbers[0] if numbers else 15, "--jit" in sys.argv, "--ablation" in sys.argv)
