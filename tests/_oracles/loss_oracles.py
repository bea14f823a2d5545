"""Float64 loops for the losses, straight from their formulas; they never call the library.

And gradients, on the backend that Keras runs on.
"""

import math

import keras
import numpy as np


def kr_of(y, f):
    """Mean over columns of E[f | y > 0] - E[f | y <= 0]; an absent class gives 0."""
    total = 0.0
    for column in range(f.shape[1]):
        inside = [f[i, column] for i in range(len(f)) if y[i, column] > 0]
        outside = [f[i, column] for i in range(len(f)) if y[i, column] <= 0]
        total += sum(inside) / len(inside) if inside else 0.0
        total -= sum(outside) / len(outside) if outside else 0.0
    return total / f.shape[1]


def per_row(value):
    """Turns the loss of one row into the mean over rows."""
    return lambda y, f, **kw: float(np.mean([value(a, b, **kw) for a, b in zip(y, f, strict=True)]))


@per_row
def hinge_of(y, f, m=1.0):
    return sum(max(0.0, m / 2 - (1 if a > 0 else -1) * b) for a, b in zip(y, f, strict=True)) / len(
        f
    )


@per_row
def multiclass_hinge_of(y, f, m=1.0, tau=0.0):
    negatives = [j for j in range(len(f)) if y[j] <= 0]
    positives = [j for j in range(len(f)) if y[j] > 0]
    if tau == 0:
        total = sum((len(f) - 1) * max(0.0, m / 2 - f[j]) for j in positives)
        return (total + sum(max(0.0, m / 2 + f[j]) for j in negatives)) / len(f)
    partition = sum(math.exp(tau * f[j]) for j in negatives)
    total = sum(max(0.0, m / 2 - f[j]) for j in positives)
    return total + sum(math.exp(tau * f[j]) / partition * max(0.0, m / 2 + f[j]) for j in negatives)


@per_row
def multi_margin_of(y, f, m=1.0):
    true = int(np.argmax(y))
    return sum(max(0.0, m - f[true] + f[j]) for j in range(len(f)) if j != true) / len(f)


@per_row
def categorical_hinge_of(y, f, m=1.0):
    true = int(np.argmax(y))
    return max(0.0, m - (f[true] - max(f[j] for j in range(len(f)) if j != true)))


@per_row
def tau_ce_of(y, f, tau):
    log_partition = math.log(sum(math.exp(tau * v) for v in f))
    return sum(a * (log_partition - tau * b) for a, b in zip(y, f, strict=True)) / tau


@per_row
def annealing_of(y, f, offset, temperature, beta=0.0):
    """Of class indices: what takes the offset from the true logit, and then the softmax."""
    logits = [(v - offset * (j == y)) / temperature for j, v in enumerate(f)]
    p = math.exp(logits[y]) / sum(math.exp(v) for v in logits)
    return -temperature * (1 - p) ** beta * math.log(p)


@per_row
def emma_of(y, f, radius, divisors, offset=0.0, temperature=1.0, beta=0.0):
    """Of class indices; `divisors[i][j]` is the constant of `f_i - f_j`."""
    reach = [radius * divisors[y][j] if j != y else 0.0 for j in range(len(f))]
    lead = [f[y] - v for v in f]
    ratio = [min(max(a / b, 0.01), 1.0) if b else 0.0 for a, b in zip(lead, reach, strict=True)]
    worst = [r * b - a for r, a, b in zip(ratio, lead, reach, strict=True)]
    return annealing_of([y], np.array([worst]), offset=offset, temperature=temperature, beta=beta)


@per_row
def gloro_of(y, f, radius, divisors, trades=None):
    """Of class indices, with the probabilities written out."""
    best = int(np.argmax(f))
    bottom = max(f[j] + radius * divisors[best][j] for j in range(len(f)) if j != best)
    plain, longer = ([math.exp(v) for v in logits] for logits in (f, [*f, bottom]))
    p, q = ([v / sum(some) for v in some] for some in (plain, longer))
    if trades is None:
        return -math.log(q[y])
    return -math.log(p[y]) + trades * sum(a * math.log(a / b) for a, b in zip(p, q, strict=False))


@per_row
def tau_bce_of(y, f, tau):
    total = 0.0
    for label, score in zip(y, f, strict=True):
        p = 1 / (1 + math.exp(-tau * score))
        total -= math.log(p) if label > 0 else math.log(1 - p)
    return total / len(f) / tau


@per_row
def lse_hkr_of(y, f, alpha, temperature=1.0, penalty=1.0, m=1.0):
    z, true = temperature * f, int(np.argmax(y))
    t = math.log(max(len(f) - 1, 2)) / (penalty * m / 2)
    lse = math.log(sum(math.exp(t * z[j]) for j in range(len(f)) if j != true)) / t
    hinge = max(0.0, m / 2 - z[true]) + max(0.0, m / 2 + lse)
    return hinge if math.isinf(alpha) else -(z[true] - lse) + alpha * hinge


def one_hot(classes, count):
    return np.eye(count)[np.asarray(classes)]


def value_and_gradient(function, x):
    """The values of a function of one tensor at an array, and the gradient of their sum there."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        point = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(point)
            values = function(point)
        slopes = tape.gradient(values, point)
    elif backend == "jax":
        import jax

        values, pulled_back = jax.vjp(function, jax.numpy.asarray(x))
        (slopes,) = pulled_back(jax.numpy.ones_like(values))
    else:
        import torch

        point = torch.tensor(x, requires_grad=True)
        values = function(point)
        (slopes,) = torch.autograd.grad(values.sum(), point)
    return np.asarray(values), np.asarray(slopes)
