# %% [markdown]
# # First steps: what a known Lipschitz constant is good for
#
# A function `f` is `L`-Lipschitz if `|f(x) - f(y)| <= L |x - y|` for all `x` and `y`: no change of
# the input is ever amplified by more than `L`. For an ordinary network nobody knows the smallest
# such `L`; the networks of this library are built so that it is given, whatever training does.
#
# This notebook shows what the constant means where it can be seen: on a function of one variable,
# and on two classes of points in the plane.
#
# **Data:** none, everything is made here. **Needs:** the extra `demo`.

# %% tags=["parameters"]
epochs_1d = 300
epochs_moons = 150
samples = 400

# %%
import keras
import numpy as np
from sklearn.datasets import make_moons

import deel_lip_tf as lip

keras.utils.set_random_seed(0)

# %% [markdown]
# ## One variable
#
# The target `sin(3 x)` has slopes up to 3. The same network is fitted to noisy samples of it twice:
# once with the constant 1, once with the constant 3. `k_coef_lip` is that constant, and it belongs
# to the whole model: each of its `n` layers gets the `n`-th root.

# %%
random = np.random.default_rng(0)
x = random.uniform(-2, 2, size=(samples, 1)).astype("float32")
y = np.sin(3 * x) + 0.05 * random.normal(size=x.shape).astype("float32")


def fitted(constant):
    """A network of the given constant, fitted to the samples."""
    model = lip.Sequential(
        [
            keras.Input((1,)),
            lip.layers.SpectralDense(64),
            lip.layers.GroupSort2(),
            lip.layers.SpectralDense(64),
            lip.layers.GroupSort2(),
            lip.layers.SpectralDense(1),
        ],
        k_coef_lip=constant,
    )
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(x, y, batch_size=len(x), epochs=epochs_1d, verbose=0)
    return model


models = {f"L = {constant}": fitted(constant) for constant in (1, 3)}

# %% [markdown]
# From each of its points, the graph of a 1-Lipschitz function stays in the cone of slopes from -1
# to 1. The target leaves that cone, so the first network cannot follow it, and does not: it takes
# the best 1-Lipschitz compromise, a flattened wave. The second one has all the slope it needs.

# %%
grid = np.linspace(-2, 2, 401, dtype="float32")[:, None]
values = {name: model.predict(grid, verbose=0)[:, 0] for name, model in models.items()}
values["target"] = np.sin(3 * grid[:, 0])
lip.plots.lipschitz_cone(grid[:, 0], values, constant=1, at=[0.5], samples=(x[:, 0], y[:, 0]))

# %% [markdown]
# The constant is not measured but **proven**, from the weights, layer by layer, in arithmetic that
# is rounded upward. What is measured on the grid comes close to it, and never above.

# %%
for name, model in models.items():
    slopes = np.abs(np.diff(values[name].astype("float64")) / np.diff(grid[:, 0].astype("float64")))
    bound = lip.bounds.lipschitz_bound(model).value
    print(f"{name}: steepest slope on the grid {slopes.max():.4f}, proven bound {bound:.7f}")

print(lip.bounds.lipschitz_bound(models["L = 3"]))

# %% [markdown]
# An ordinary network, fitted to the same samples, has a bound, too: `lipschitz_bound` reads any
# Keras model. Nothing kept it small, so that it says little about the function that it computes:
# even where the layers are bounded together, which is less than the product of their norms.

# %%
plain = keras.Sequential(
    [
        keras.Input((1,)),
        keras.layers.Dense(64, "relu"),
        keras.layers.Dense(64, "relu"),
        keras.layers.Dense(1),
    ]
)
plain.compile(keras.optimizers.Adam(1e-2), "mse")
plain.fit(x, y, batch_size=len(x), epochs=epochs_1d, verbose=0)
report = lip.bounds.report(plain, x, samples=4)
print(f"an ordinary network: proven bound {report.bound.value:.1f}, at least {report.lower:.2f}")
lip.plots.layer_bounds(report)

# %% [markdown]
# ## Two moons
#
# Now a classifier: the sign of a 1-Lipschitz function `f` is the class. At a point where `|f(x)| =
# r`, no point nearer than `r` can have another sign, because `f` would have to change by more than
# `r` on the way. **The value of the function is a certificate**, for free.
#
# For certificates that are large, `f` should grow with full slope away from the border. That is
# what the hinge-Kantorovich-Rubinstein loss asks for: its KR term pushes the two classes apart as
# far as a 1-Lipschitz function can, its hinge term asks for a margin around the border, and `alpha`
# weighs the two.

# %%
points, classes = make_moons(samples, noise=0.06, random_state=0)
points, signs = points.astype("float32"), (2 * classes - 1).astype("float32")

classifier = lip.Sequential(
    [
        keras.Input((2,)),
        lip.layers.SpectralDense(64),
        lip.layers.FullSort(),
        lip.layers.SpectralDense(64),
        lip.layers.FullSort(),
        lip.layers.SpectralDense(32),
        lip.layers.FullSort(),
        lip.layers.SpectralDense(1),
    ]
)
classifier.compile(keras.optimizers.Adam(5e-3), lip.losses.HKR(alpha=20.0, min_margin=0.3))
history = classifier.fit(points, signs, batch_size=100, epochs=epochs_moons, verbose=0)
lip.plots.curves({"HKR": history.history["loss"]}, ylabel="loss")

# %%
certificates = lip.certificates.certify(classifier, points, classes)
print(certificates)

# %% [markdown]
# Each disc below is proven to lie on its side of the border, for some of the points. The gray lines
# are the level sets of `f`: where they are one unit of `f` apart they are at least one unit of
# length apart, everywhere in the plane and not only where there was data.

# %%
shown = np.where(np.arange(samples) % 20 == 0, certificates.radius, np.nan)
lip.plots.plane(
    lambda p: np.asarray(classifier(p.astype("float32"))),
    points,
    classes,
    shown,
    levels=[-0.4, -0.2, 0.2, 0.4],
)

# %% [markdown]
# An ordinary network with the usual cross-entropy separates the moons as well, even better. But its
# values are no distances (the level sets below are those of -20, -10, 10 and 20), and what can be
# proven from its Lipschitz bound are small discs, although its border is as far away.

# %%
usual = keras.Sequential(
    [
        keras.Input((2,)),
        keras.layers.Dense(64, "relu"),
        keras.layers.Dense(64, "relu"),
        keras.layers.Dense(1),
    ]
)
usual.compile(keras.optimizers.Adam(5e-3), keras.losses.BinaryCrossentropy(from_logits=True))
usual.fit(points, classes, batch_size=100, epochs=epochs_moons, verbose=0)
usual_certificates = lip.certificates.certify(usual, points, classes)
print(f"mean radius: {usual_certificates.radius.mean():.4f}", end="")
print(f", of the 1-Lipschitz network {certificates.radius.mean():.4f}")
lip.plots.plane(
    lambda p: np.asarray(usual(p.astype("float32"))),
    points,
    classes,
    np.where(np.arange(samples) % 20 == 0, usual_certificates.radius, np.nan),
    levels=[-20, -10, 10, 20],
)

# %% [markdown]
# ## Does it hold?
#
# A certificate is a claim about every point of a disc. Points drawn at random just inside the rims
# of all discs must keep the class that was certified.

# %%
angles = random.uniform(0, 2 * np.pi, size=(25, samples))
rim = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * certificates.radius[:, None] * 0.999
moved = (points + rim).reshape(-1, 2).astype("float32")
labels = np.asarray(classifier(moved))[:, 0] > 0
changed = labels.reshape(25, samples) != certificates.label
print(f"{changed[:, certificates.radius > 0].sum()} of {moved.shape[0]} points changed their class")

# %% [markdown]
# ## Where to go from here
#
# The constraint costs time in training only: `vanilla_export()` is a plain Keras model with the
# same values.

# %%
exported = classifier.vanilla_export()
print([type(layer).__name__ for layer in exported.layers])
difference = exported.predict(points, verbose=0) - classifier.predict(points, verbose=0)
print(f"largest difference {np.abs(difference).max():.1e}")

# %% [markdown]
# *Robust classification on MNIST* does the same with images and ten classes, *Wasserstein distance*
# uses the KR term alone, and *Is it true?* tries to refute what was proven here.
