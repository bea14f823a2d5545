"""Certified accuracy at equal CPU-seconds, beside the libraries for PyTorch that do the same.

    python benchmarks/peers.py MNIST.npz --peers PYTHON [--seconds 60] [--seed 0]

PYTHON is an interpreter whose environment has `torch`, `orthogonium` and `deel-torchlip`; what it
lacks is left out. Each side is a process of its own with the same network (two 4x4 convolutions of
stride 2, two dense layers of 128, pairs of channels sorted, a head), loss (cross-entropy with an
offset), batches of 256 without augmentation, and a learning rate that rises for a tenth of the time
and falls as a cosine. The time is of the CPU, of all threads, from the first step on, tracing
included. Of two rates each side has the better one, by its certified accuracy at 0.3.

The radii of this library are those of `certify`: the constant is proven. Of the others the constant
is taken as 1, as they say; it is not proven.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

RADII = (0.3, 0.5, 1.0, 1.58)
BATCH, OFFSET, TEMPERATURE = 256, math.sqrt(2.0) * 0.9, 0.25
SIDES = {"this library": (0.015, 0.03), "orthogonium": (1e-3, 1e-2), "torchlip": (1e-3, 1e-2)}


def share(done: float) -> float:
    """Of the largest learning rate, when this share of the time is over."""
    return done / 0.1 if done < 0.1 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.1) / 0.9)


def images(path: str) -> tuple[np.ndarray, ...]:
    """Pixels from 0 to 1 as `(n, 28, 28, 1)`, and classes."""
    with np.load(path) as file:
        x = [file[f"x_{part}"][..., None].astype("float32") / 255 for part in ("train", "test")]
        y = [file[f"y_{part}"].reshape(-1).astype("int64") for part in ("train", "test")]
    return x[0], y[0], x[1], y[1]


def run(step: Callable, count: int, seconds: float, seed: int) -> int:
    """Steps on shuffled batches until the time is over; returns their number."""
    rng, start, steps = np.random.default_rng(seed), time.process_time(), 0
    while True:
        order = rng.permutation(count)
        for batch in order[: count // BATCH * BATCH].reshape(-1, BATCH):
            done = (time.process_time() - start) / seconds
            if done >= 1:
                return steps
            step(batch, share(done))
            steps += 1


def ours(path: str, rate: float, seconds: float, seed: int) -> dict:
    """This library, in this process."""
    import keras

    import deel_lip_tf as lip
    from deel_lip_tf import layers

    keras.utils.set_random_seed(seed)
    x, y, x_test, y_test = images(path)
    hidden = [layers.SpectralConv2D(filters, 4, strides=2) for filters in (32, 64)]
    dense = [layers.SpectralDense(128) for _ in range(2)]
    stack = [keras.Input((28, 28, 1))]
    for linear in (*hidden, keras.layers.Flatten(), *dense):
        is_flat = isinstance(linear, keras.layers.Flatten)
        stack += [linear] if is_flat else [linear, layers.GroupSort2()]
    model = lip.Sequential([*stack, layers.SpectralDense(10)])
    loss = lip.losses.OffsetCrossentropy(offset=OFFSET, temperature=TEMPERATURE)
    model.compile(lip.optimizers.StiefelMuon(rate), loss)

    def step(batch: np.ndarray, part: float) -> None:
        model.optimizer.learning_rate.assign(rate * part)
        model.train_on_batch(x[batch], y[batch])

    steps = run(step, len(x), seconds, seed)
    shares = lip.certify(model, x_test, y_test).certified_accuracy([0.0, *RADII])
    return {"steps": steps, "shares": shares.tolist()}


def theirs(name: str) -> list:
    """The layers of a library for PyTorch."""
    from torch import nn

    if name == "orthogonium":
        from orthogonium.layers import AdaptiveOrthoConv2d, OrthoLinear
        from orthogonium.layers.custom_activations import MaxMin

        def convolution(channels: int, filters: int) -> nn.Module:
            return AdaptiveOrthoConv2d(channels, filters, 4, stride=2, padding=1)

        dense, activation = OrthoLinear, MaxMin
    else:
        from deel import torchlip

        def convolution(channels: int, filters: int) -> nn.Module:
            return torchlip.SpectralConv2d(channels, filters, 4, stride=2, padding=1)

        dense, activation = torchlip.SpectralLinear, torchlip.GroupSort2
    return [
        *(convolution(1, 32), activation(), convolution(32, 64), activation(), nn.Flatten()),
        *(dense(64 * 49, 128), activation(), dense(128, 128), activation(), dense(128, 10)),
    ]


def in_torch(name: str, path: str, rate: float, seconds: float, seed: int) -> dict:
    """A library for PyTorch, in this process."""
    import torch
    from torch.nn.functional import cross_entropy, one_hot

    torch.manual_seed(seed)
    x, y, x_test, y_test = (torch.from_numpy(one) for one in images(path))
    x, x_test = (one.permute(0, 3, 1, 2).contiguous() for one in (x, x_test))
    model = torch.nn.Sequential(*theirs(name))
    optimizer = torch.optim.Adam(model.parameters(), rate)

    def step(batch: np.ndarray, part: float) -> None:
        optimizer.param_groups[0]["lr"] = rate * part
        logits, labels = model(x[batch]), y[batch]
        shifted = (logits - OFFSET * one_hot(labels, 10)) / TEMPERATURE
        optimizer.zero_grad()
        (TEMPERATURE * cross_entropy(shifted, labels)).backward()
        optimizer.step()

    steps = run(step, len(x), seconds, seed)
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in x_test.split(1000)]).double()
    best = logits.topk(2).values
    radius = (best[:, 0] - best[:, 1]) / math.sqrt(2.0)
    correct = logits.argmax(1) == y_test
    shares = [float((correct & (radius >= at)).double().mean()) for at in (0.0, *RADII)]
    return {"steps": steps, "shares": shares}


def line(name: str, rate: float, seconds: float, found: dict) -> str:
    """A row, as under the header of `main`."""
    shares = "".join(f"{100 * one:>8.1f}" for one in found["shares"])
    return f"{name:<14}{rate:>7g}{found['steps']:>7}{1e3 * seconds / found['steps']:>9.1f}{shares}"


def main() -> None:
    """All sides in turn, or one of them in this process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="the file of the images")
    parser.add_argument("--peers", help="an interpreter that has the other libraries")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the CPU, for each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        given = options.data, options.rate, options.seconds, options.seed
        is_ours = options.side == "this library"
        print(json.dumps(ours(*given) if is_ours else in_torch(options.side, *given)))
        return
    radii = "".join(f"{at:>8}" for at in ("clean", *RADII))
    print(f"{'library':<14}{'rate':>7}{'steps':>7}{'ms/step':>9}{radii}   at equal CPU-seconds")
    for name, rates in SIDES.items():
        python = sys.executable if name == "this library" else options.peers
        results = {}
        for rate in rates if python else ():
            command = [python, str(Path(__file__)), options.data, "--side", name]
            command += ["--rate", str(rate), "--seconds", str(options.seconds)]
            command += ["--seed", str(options.seed)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name} at {rate:g}: {done.stderr.strip().splitlines()[-1][:100]}")
            else:
                results[rate] = json.loads(done.stdout.splitlines()[-1])
        if results:
            best = max(results, key=lambda rate: results[rate]["shares"][1])
            print(line(name, best, options.seconds, results[best]), flush=True)


if __name__ == "__main__":
    main()
