"""What the constraint costs in a prediction, and what an exported model costs, in one run.

An exported model is made of Keras's own layers and of this library's activations, with the kernels
that were computed once; the model itself compares its kernels with those of the last batch.

    python benchmarks/predict.py [repetitions]
"""

import sys

import timing

# isort: split
import networks as nets

import deel_lip_tf as lip

CLAIMS = {"the model against its export": 1.1, "the export against plain Keras": 1.0}
BATCHES = 4


def predictor(model, x):
    """One call of `predict`, in batches of 256, as a function."""
    return lambda: model.predict(x, batch_size=256, verbose=0)


def main(repetitions: int) -> None:
    """Prints medians, quartiles and ratios."""
    for name, (make, _) in nets.NETWORKS.items():
        model = nets.compiled(make(**nets.OURS))
        x, _ = nets.batch_of(model, 256 * BATCHES)
        exported = lip.vanillaModel(model)
        # The same activations and poolings, kernels without a constraint.
        plain = nets.compiled(make(**nets.SORTED))
        sides = {
            "plain Keras": predictor(plain, x),
            "export": predictor(exported, x),
            "model": predictor(model, x),
        }
        seconds = timing.alternate(sides, repetitions)
        for title, base, other in (
            ("the export against plain Keras", "plain Keras", "export"),
            ("the model against its export", "export", "model"),
        ):
            pair = {base: seconds[base], other: seconds[other]}
            timing.print_table(f"{name}\n{title}", pair, {other: CLAIMS[title]})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
