"""What a certificate costs, and how large it is: global, local, and for float32 execution.

Two networks of plain ReLU layers and one of this library are trained on 10,000 images of MNIST.

    python benchmarks/certification.py [images for the local bound, 1000 by default]

Needs `mnist_10k.npz` (x_train, y_train, x_test, y_test) in `../shared/data`.
"""

import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf.certificates import certify, class_divisors

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "mnist_10k.npz"
# Claims: seconds for 10,000 images once the bounds are known, by how much the mean radius of the
# images that are certified grows with the local bound, and how much longer an epoch takes whose
# metrics report what is proven at four radii.
SECONDS = 20.0
GAIN = 1.2
EPOCH = 1.05


def dense_relu():
    """784-128-64-10, ReLU."""
    hidden = [keras.layers.Dense(units, activation="relu") for units in (128, 64)]
    return keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), *hidden, keras.layers.Dense(10)]
    )


def convolutional_relu():
    """Filters 16 and 32, dense 64, ReLU and average pooling."""
    blocks = [
        layer
        for filters in (16, 32)
        for layer in (
            keras.layers.Conv2D(filters, 3, padding="same", activation="relu"),
            keras.layers.AveragePooling2D(2),
        )
    ]
    head = [keras.layers.Flatten(), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *blocks, *head])


def sorting():
    """The same in constrained layers that sort."""
    blocks = [
        layer
        for filters in (16, 32)
        for layer in (
            lip.layers.SpectralConv2D(filters, 3),
            lip.layers.GroupSort2(),
            lip.layers.ScaledL2NormPooling2D(2),
        )
    ]
    head = [lip.layers.SpectralDense(64), lip.layers.GroupSort2(), lip.layers.SpectralDense(10)]
    return lip.Sequential([keras.Input((28, 28, 1)), *blocks, keras.layers.Flatten(), *head])


NETWORKS = {"dense ReLU": dense_relu, "convolutional ReLU": convolutional_relu, "sorting": sorting}


def trained(make, x, y):
    """Three epochs of crossentropy."""
    keras.utils.set_random_seed(0)
    model = make()
    loss = lip.losses.TauSparseCategoricalCrossentropy(tau=10.0 if make is sorting else 1.0)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=3, verbose=0)
    return model


def timed(model, x, y, **options):
    """Certificates, and seconds without those of the proof of the bounds."""
    start = time.perf_counter()
    class_divisors(model)
    proved = time.perf_counter()
    certificates = certify(model, x, y, **options)
    return certificates, max(0.0, time.perf_counter() - proved - (proved - start))


def row(name, certificates, seconds, claim):
    """One line: images, seconds, mean radius of the certified, and shares at two radii."""
    certified = certificates.radius[certificates.radius > 0]
    shares = certificates.certified_accuracy([0.1, 0.3])
    mean = certified.mean() if len(certified) else 0.0
    print(
        f"{name:<32}{len(certificates.radius):>7}{seconds:>9.1f}{mean:>13.5f}"
        f"{shares[0]:>9.2%}{shares[1]:>9.2%}  {claim}",
        flush=True,
    )
    return mean


def epochs(make, x, y, validation, rounds: int = 5) -> dict[str, float]:
    """CPU-seconds of an epoch with its validation, by metrics; the sides take turns."""
    radii = (0.1, 0.3, 0.5, 1.0)
    certified = [lip.metrics.CertifiedRobustAccuracy(radius=r, name=f"at {r}") for r in radii]
    loss = lip.losses.TauSparseCategoricalCrossentropy(tau=10.0)
    spent: dict[str, list[float]] = {"accuracy": [], "and four certified ones": []}
    models = {}
    for name, metrics in zip(spent, ([], certified), strict=True):
        models[name] = make()
        models[name].compile("adam", loss, metrics=["accuracy", *metrics])
        # Tracing and compiling are no part of an epoch.
        models[name].fit(x[:256], y[:256], batch_size=128, validation_data=validation, verbose=0)
    for _ in range(rounds):
        for name, model in models.items():
            start = time.process_time()
            model.fit(x, y, batch_size=128, validation_data=validation, verbose=0)
            spent[name].append(time.process_time() - start)
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


def main(count: int) -> None:
    """Prints seconds, radii and what was claimed of them."""
    with np.load(DATA) as data:
        images = {name: data[name] for name in data.files}
    x, x_test = (images[name][..., None] / 255.0 for name in ("x_train", "x_test"))
    y, y_test = images["y_train"], images["y_test"]
    print(
        f"{'certificates':<32}{'images':>7}{'seconds':>9}{'mean radius':>13}{'at 0.1':>9}{'0.3':>8}"
    )
    for name, make in NETWORKS.items():
        model = trained(make, x, y)
        print(f"{name}: accuracy {model.evaluate(x_test, y_test, verbose=0)[1]:.2%}")
        found, seconds = timed(model, x_test, y_test)
        row("  global", found, seconds, f"claim: {SECONDS:.0f} s at most")
        found, seconds = timed(model, x_test, y_test, semantics="float32")
        row("  global, float32", found, seconds, f"claim: {SECONDS:.0f} s at most")
        some = x_test[:count], y_test[:count]
        before = row("  global", *timed(model, *some), "")
        after = row("  local", *timed(model, *some, local=True), "")
        row("  local, float32", *timed(model, *some, local=True, semantics="float32"), "")
        claim = f", claim: {GAIN} at least" if "ReLU" in name else ", no claim"
        print(f"  gain of the local bound {after / before:.2f}{claim}")
    without, with_metrics = epochs(sorting, x, y, (x_test, y_test)).values()
    ratio = with_metrics / without
    print(f"an epoch of {without:.1f} s with four certified metrics: {ratio:.3f}, claim: {EPOCH}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
