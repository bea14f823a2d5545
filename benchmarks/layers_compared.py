"""Every parametrization of a convolution in one network, by one protocol.

    python benchmarks/layers_compared.py CIFAR10.npz [--epochs 6] [--images 10000] [--seed 0]
        [--only NAME ...] [--out layers_compared.json] [--figure FILE]

After the protocol of "1-Lipschitz Layers Compared" (Prach, Brau, Buttazzo, Lampert, CVPR 2024), in
a size for two cores: the same network, loss, epochs and schedule, and of two learning rates the
better one for each. A layer keeps the channels; between the three scales pixels become channels, of
which the first half is kept. The head is an orthogonal dense layer in all rows.

Printed are the certified accuracy, which is proven on all test images, the CPU-seconds of training,
and two constants: the proven one, and the largest quotient that was found near images, from below.
What lies between is what a row gives away, or what was not found. Rows that are done are kept in
the file, so that a run that was stopped goes on.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import recipes
from recipes import CIFAR_RADII, Images, Recipe

import deel_lip_tf as lip
from deel_lip_tf import layers, normalizers

WIDTHS, DEPTH, SIZE = (16, 32, 64), 2, 3
RATES = {"Adam": (1e-3, 1e-2), "StiefelMuon": (0.015, 0.05)}
AT = "36/255"


def sorted_pairs(convolution: type, **arguments) -> Callable[[int], list]:
    """A layer that keeps `width` channels, and sorts their pairs."""
    return lambda width: [convolution(width, SIZE, **arguments), layers.GroupSort2()]


def with_shift(width: int) -> list:
    """An orthogonal kernel of size 1, after a shift of an eighth of the channels each way."""
    shift = layers.SpatialShift2D(padding="zero")
    return [shift, layers.SpectralConv2D(width, 1), layers.GroupSort2()]


# Layers of one step in depth, made of a width.
ROWS = {
    "Spectral": sorted_pairs(layers.SpectralConv2D),
    "Spectral, 1x1 and shifts": with_shift,
    "AOC": sorted_pairs(layers.AOCConv2D),
    "BCOP": sorted_pairs(layers.BCOPConv2D),
    "Cayley": sorted_pairs(layers.SpectralConv2D, parametrization=normalizers.Cayley()),
    "BRO": sorted_pairs(layers.SpectralConv2D, parametrization=normalizers.BRO()),
    "AOL": sorted_pairs(layers.AOLConv2D),
    "Frobenius": sorted_pairs(layers.FrobeniusConv2D),
    "OperatorNorm": sorted_pairs(layers.SpectralConv2D, parametrization=normalizers.OperatorNorm()),
    "LiRes": sorted_pairs(layers.LiResConv2D),
    "LipNeXt": lambda width: [layers.LipNeXtBlock(width, padding="same")],
    "SLL": lambda width: [layers.SLLConv2D(SIZE)],
    "CPL": lambda width: [layers.CPLConv2D(SIZE)],
}


def stack(step: Callable[[int], list]) -> list:
    """Three scales of `DEPTH` steps each."""
    made = [keras.layers.Rescaling(1.0, -0.5), layers.InvertibleDownSampling(2)]
    for scale, width in enumerate(WIDTHS):
        down = [layers.InvertibleDownSampling(2), layers.FirstChannels(width)]
        made += down if scale else [layers.PadChannels(width)]
        made += [layer for _ in range(DEPTH) for layer in step(width)]
    return [*made, keras.layers.Flatten(), layers.SpectralDense(10)]


def measured(name: str, descent: type, rate: float, data: Images, options) -> dict:
    """A row at one rate."""
    recipe = Recipe(
        lambda: stack(ROWS[name]),
        lambda: lip.losses.OffsetCrossentropy(offset=2 * math.sqrt(2.0) * CIFAR_RADII[AT]),
        CIFAR_RADII,
        options.epochs,
        descent=descent,
        rate=rate,
        augmentation=recipes.flipped_and_shifted,
    )
    keras.utils.set_random_seed(options.seed)
    model = recipe.model(data)
    steps = options.epochs * -(-len(data.x_train) // recipe.batch_size)
    model.compile(recipe.optimizer(steps), recipe.loss())
    # Tracing and compiling are no part of an epoch.
    model.fit(data.x_train[:512], data.y_train[:512], batch_size=recipe.batch_size, verbose=0)
    start = time.process_time()
    arguments = {"batch_size": recipe.batch_size, "epochs": options.epochs, "verbose": 0}
    model.fit(data.x_train, data.y_train, **arguments)
    seconds = time.process_time() - start
    certificates = lip.certify(model, data.x_test, data.y_test)
    clean, *shares = map(float, certificates.certified_accuracy([0.0, *CIFAR_RADII.values()]))
    return {
        "optimizer": descent.__name__,
        "rate": rate,
        "weights": model.count_params(),
        "cpu_seconds": seconds,
        "clean": clean,
        "certified": dict(zip(CIFAR_RADII, shares, strict=True)),
        "proven": lip.lipschitz_bound(model).value,
        "found": float(lip.utils.evaluate_lip_const(model, data.x_test[:100], seed=0)),
    }


def line(name: str, best: dict) -> str:
    """A row, as under the header of `main`."""
    shares = "".join(f"{100 * share:>8.1f}" for share in best["certified"].values())
    suffix = f", {best['optimizer']}"
    return (
        f"{name.removesuffix(suffix):<26}{best['optimizer']:<12}{best['rate']:>6g}{best['weights']:>9}"
        f"{best['cpu_seconds']:>7.0f}{100 * best['clean']:>7.1f}{shares}"
        f"{60 * 100 * best['certified'][AT] / best['cpu_seconds']:>9.1f}"
        f"{best['proven']:>9.5f}{best['found']:>8.3f}{best['found'] / best['proven']:>7.3f}"
    )


def figure(results: dict, path: Path) -> None:
    """Certified accuracy against CPU-seconds, a point for each row."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 4.5), layout="constrained")
    ax = drawn.subplots()
    for name, one in results.items():
        at = one["cpu_seconds"], 100 * one["certified"][AT]
        ax.plot(*at, "o" if one["optimizer"] == "Adam" else "s", color="C0")
        ax.annotate(name, at, xytext=(5, 3), textcoords="offset points", fontsize=8)
    ax.set(xlabel="CPU-seconds of training", ylabel=f"proven certified accuracy at {AT}, %")
    ax.set_title("squares: the optimizer on the manifold; circles: Adam", fontsize=9)
    ax.grid(alpha=0.3)
    drawn.savefig(path, dpi=100)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the file of the images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=10_000, help="of training, the first ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(ROWS), help="rows")
    parser.add_argument("--out", type=Path, default=Path("layers_compared.json"))
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measures what is not in the file yet, and prints all of it."""
    options = arguments()
    data = recipes.images(options.data, options.images)
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    header = "".join(f"{at:>8}" for at in CIFAR_RADII)
    print(
        f"{'layer':<26}{'optimizer':<12}{'rate':>6}{'weights':>9}{'CPU-s':>7}{'clean':>7}{header}"
        f"{'% / min':>9}{'proven':>9}{'found':>8}{'share':>7}"
    )
    for name in options.only or ROWS:
        # The optimizer on the manifold where the layer has one; Adam everywhere.
        optimizers = [keras.optimizers.Adam]
        if name.startswith("Spectral"):
            optimizers.append(lip.optimizers.StiefelMuon)
        for descent in optimizers:
            label = name if len(optimizers) == 1 else f"{name}, {descent.__name__}"
            if label not in known:
                rates = RATES[descent.__name__]
                tried = [measured(name, descent, rate, data, options) for rate in rates]
                known[label] = max(tried, key=lambda one: one["certified"][AT])
                options.out.write_text(json.dumps(known, indent=1))
            print(line(label, known[label]), flush=True)
    if options.figure:
        figure(known, options.figure)


if __name__ == "__main__":
    main()
