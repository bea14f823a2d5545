"""The highest proven certified accuracy per minute: one table of recipes, one command each.

    python benchmarks/certified_accuracy.py RECIPE --data FILE.npz [--epochs N] [--images N]
        [--seed S] [--out FOLDER] [--backend tensorflow|jax|torch] [--certify]
        [--test-images N] [--optimizer stiefel-muon|adam] [--rate R]

trains a recipe of `recipes.py`, and writes `RECIPE-SEED.keras` and `RECIPE-SEED.json` into the
folder: the accuracy, the proven certified accuracy at each radius, the seconds of training, and the
machine. A run that was stopped goes on from its last epoch when the same command is given again.
`--certify` only certifies what an earlier run wrote: what was trained on another backend, for one,
which certifies nothing by itself, because certificates are computed in float64 on a CPU.

Without a recipe it prints the table of all results in the folder; `--figure FILE` draws them, too.

The file holds `x_train`, `y_train`, `x_test` and `y_test`; or, for images that are stored as JPEG,
`jpeg_train`, `offsets_train`, `y_train`, and the same for `test`. CIFAR-10 stored so has lost some
of its detail: figures for it are not those of CIFAR-10 as published, which is said in the table.
"""

import argparse
import json
import os
import platform
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", help="a name of `recipes.RECIPES`")
    parser.add_argument("--data", type=Path, help="the file of the images")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--images", type=int, help="as many training images, the first ones")
    parser.add_argument("--test-images", type=int, help="as many are certified, the first ones")
    parser.add_argument("--optimizer", choices=("stiefel-muon", "adam"), help="at its best rate")
    parser.add_argument("--rate", type=float, help="the largest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("certified_accuracy"))
    parser.add_argument("--backend", choices=("tensorflow", "jax", "torch"))
    parser.add_argument("--figure", type=Path, help="of all results in the folder")
    parser.add_argument("--certify", action="store_true", help="do not train")
    options = parser.parse_args()
    if options.recipe and options.data is None:
        parser.error("--data is needed: the file of the images")
    return options


def run(options: argparse.Namespace) -> None:
    """Trains, certifies, writes the result."""
    import recipes
    import training

    recipe = recipes.RECIPES[options.recipe]
    if options.epochs:
        recipe = replace(recipe, epochs=options.epochs)
    if options.optimizer:
        descent, rate = recipes.OPTIMIZERS[options.optimizer]
        recipe = replace(recipe, descent=descent, rate=rate)
    if options.rate:
        recipe = replace(recipe, rate=options.rate)
    data = recipes.images(options.data, options.images, options.test_images)
    name = f"{options.recipe}-{options.seed}"
    options.out.mkdir(parents=True, exist_ok=True)
    model, result = options.out / f"{name}.keras", options.out / f"{name}.json"
    known = json.loads(result.read_text()) if result.exists() else {}
    if not options.certify:
        known = {
            "recipe": options.recipe,
            "seed": options.seed,
            "data": data.name,
            "images": len(data.x_train),
            "epochs": recipe.epochs,
            "rate": recipe.rate,
            **training.train(recipe, data, options.out, name, options.seed),
            "backend": training.backend(),
            "machine": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
        }
        result.write_text(json.dumps(known, indent=1))
        if training.backend() != "tensorflow":
            print(f"{model} is trained; the same with --certify and TensorFlow certifies it")
            return
    known |= training.certified(model, recipe, data)
    result.write_text(json.dumps(known, indent=1))
    print(training.row(known))


def main() -> None:
    """Runs a recipe, or prints the table."""
    options = arguments()
    if options.backend:
        os.environ["KERAS_BACKEND"] = options.backend
    if options.recipe:
        run(options)
        return
    import training

    results = [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]
    print(training.HEADER)
    results = [result for result in results if "certified" in result]
    for result in results:
        print(training.row(result))
    if options.figure:
        training.figure(results, options.figure)


if __name__ == "__main__":
    main()
