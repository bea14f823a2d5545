# %% [markdown]
# # A critic for a generator, and a prior for an inverse problem
#
# Two uses of a 1-Lipschitz network where its constant is the point. A generator is trained against
# a critic that measures the Wasserstein distance, and cannot report more than there is. And a
# denoiser is plugged into an iteration that restores images: with a constant below 1, the
# iteration is a contraction, and its limit and its speed are proven before the first step.
#
# **Data:** points that are made here, and the digits of scikit-learn. **Needs:** the extra `demo`.

# %% tags=["parameters"]
samples = 400
rounds = 30
denoiser_epochs = 60
iterations = 60

# %%
import keras
import numpy as np
import tensorflow as tf
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits

import deel_lip_tf as lip

keras.utils.set_random_seed(0)
random = np.random.default_rng(0)


def eight(count):
    """Points around eight places on a circle of radius 2."""
    angle = np.pi / 4 * random.integers(0, 8, count)
    places = 2.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (places + random.normal(0.0, 0.1, (count, 2))).astype("float32")


# %% [markdown]
# ## A Wasserstein critic
#
# The critic of a Wasserstein GAN has to be 1-Lipschitz, or its value is no distance. Clipped
# weights and gradient penalties approach that; here it holds for any weights, and `NegKR` is the
# whole loss. The generator follows the gradient of the critic, which has slope 1 nearly
# everywhere: it never vanishes, however good the critic is.

# %%
critic = lip.Sequential(
    [
        keras.Input((2,)),
        *(
            layer
            for _ in range(3)
            for layer in (lip.layers.SpectralDense(64), lip.layers.FullSort())
        ),
        lip.layers.SpectralDense(1),
    ]
)
generator = keras.Sequential(
    [keras.Input((4,)), *(keras.layers.Dense(64, "relu") for _ in range(3)), keras.layers.Dense(2)]
)
learns = {critic: keras.optimizers.Adam(2e-3), generator: keras.optimizers.Adam(1e-3)}
distance = lip.losses.NegKR()


def update(model, value):
    """One step of a model down the gradient of a value."""
    with tf.GradientTape() as tape:
        loss = value()
    weights = model.trainable_variables
    learns[model].apply(tape.gradient(loss, weights), weights)


turns, batch = 5, 128
sides = np.repeat([[1.0], [0.0]], batch, axis=0).astype("float32")


@tf.function
def turn(real, latent):
    """The critic learns for some turns, the generator once."""
    for index in range(turns):
        points = tf.concat([real[index], generator(latent[index])], 0)
        update(critic, lambda points=points: distance(sides, critic(points)))
    update(generator, lambda: -tf.reduce_mean(critic(generator(latent[0]))))


# %% [markdown]
# Each round measures, on points that neither has seen, what the critic says and what is true: the
# cost of the best assignment of generated to real points, by linear programming. The critic's value
# is a lower bound of it at every moment, whatever its weights.


# %%
def measured():
    """The critic's value and the exact distance, of as many new points of each kind."""
    real = eight(samples)
    made = np.asarray(generator(random.normal(size=(samples, 4)).astype("float32")))
    costs = np.linalg.norm(real[:, None].astype("float64") - made[None], axis=2)
    exact = costs[linear_sum_assignment(costs)].mean()
    values = [np.asarray(critic(points), "float64").mean() for points in (real, made)]
    return made, values[0] - values[1], exact


def draws():
    """Real points and numbers for the generator, for all turns of a step."""
    real = np.stack([eight(batch) for _ in range(turns)])
    return tf.constant(real), tf.random.normal((turns, batch, 4))


history = []
for _ in range(rounds):
    for _ in range(20):
        turn(*draws())
    made, value, exact = measured()
    history.append((value, exact))
values, exact = np.array(history).T
print(f"proven constant of the critic: {lip.bounds.lipschitz_bound(critic).value:.7f}")
print(f"distance {exact[0]:.3f} after one round, {exact[-1]:.3f} after {rounds}")
print(f"the critic says {values[-1]:.3f}, and never more than there is: {np.all(values <= exact)}")

# %%
lip.plots.curves(
    {"exact distance": exact, "critic": values}, xlabel="round", ylabel="Wasserstein-1 distance"
)

# %% [markdown]
# The exact distance does not fall to 0: two draws of the eight places themselves are as far apart
# as is printed here, because samples are finite. The critic is large where real points are and the
# generator is not yet, and small where it puts too many.

# %%
costs = np.linalg.norm(eight(samples)[:, None] - eight(samples)[None], axis=2)
print(f"between two draws of real points: {costs[linear_sum_assignment(costs)].mean():.3f}")
points = np.concatenate([eight(samples), made])
level = np.mean(critic(points))
lip.plots.plane(
    lambda p: np.asarray(critic(p.astype("float32"))) - level,
    points,
    np.repeat([1, 0], samples),
    names=["generated", "real"],
)

# %% [markdown]
# ## A denoiser as a prior
#
# Let `y = A x + noise` be what is measured of an image, and `D` a denoiser. Plug-and-play iteration
# takes gradient steps of `|A x - y|**2 / 2`, and denoises after each:
#
#     x_(k+1) = D(x_k - t A' (A x_k - y))
#
# Where `D` is a network, nothing says that this converges. With `D` of constant `c` and `I - t
# A'A` of norm `n`, a step shrinks distances by `q = c n`. For `0 <= t <= 2 / |A|**2`, `n` is at
# most 1. So a denoiser of constant `c < 1` makes every step a contraction (Banach): there is one
# limit, from whatever start, and
#
#     |x_k - limit| <= q**k |x_0 - limit|,   |x_k - limit| <= q / (1 - q) |x_k - x_(k-1)|.
#
# The denoiser is a network with `k_coef_lip=0.95`; it is trained with that constant, and learns to
# live with it. The images are digits of 8 by 8, around 0.

# %%
digits = (load_digits().images.reshape(-1, 64) / 16 - 0.5).astype("float32")
train, test = digits[:1500], digits[1500:]
noise = 0.2


def denoiser(dense, activation, model=keras.Sequential, **options):
    """Three layers, from images to images."""
    layers = [keras.Input((64,))]
    for _ in range(2):
        layers += [dense(256), activation()]
    return model([*layers, dense(64)], **options)


contracting = denoiser(
    lip.layers.SpectralDense, lip.layers.GroupSort2, lip.Sequential, k_coef_lip=0.95
)
ordinary = denoiser(keras.layers.Dense, keras.layers.ReLU)
clean = np.tile(train, (4, 1))
noisy = clean + noise * random.normal(size=clean.shape).astype("float32")


def error(found):
    """Root of the mean square of what is left."""
    return np.sqrt(np.mean((np.asarray(found) - test) ** 2))


spoiled = test + noise * random.normal(size=test.shape).astype("float32")
for name, model in (("contracting", contracting), ("ordinary", ordinary)):
    model.compile(keras.optimizers.Adam(2e-3), "mse")
    model.fit(noisy, clean, batch_size=256, epochs=denoiser_epochs, verbose=0)
    bound = lip.bounds.lipschitz_bound(model).value
    print(f"{name}: error {error(spoiled):.3f} becomes {error(model(spoiled)):.3f}", end="")
    print(f", proven constant {bound:.4g}")

# %% [markdown]
# ## The contraction, as one model
#
# A step is a network: a dense layer that holds the gradient step, and the denoiser. Its proven
# constant is the rate `q`, rounding of the weights included, and no part of the theory has to be
# believed. What is measured here is a blur.

# %%
places = np.arange(8)
row = np.exp(-0.5 * (places[:, None] - places[None]) ** 2 / 0.8**2)
row /= row.sum(axis=1, keepdims=True)
blur = np.kron(row, row)
step = 1.0 / np.linalg.norm(blur, 2) ** 2
measurements = test @ blur.T + 0.05 * random.normal(size=test.shape)


def iteration(model, seen):
    """The step for one measurement, as a model."""
    gradient = keras.layers.Dense(64)
    gradient.build((None, 64))
    gradient.set_weights([np.eye(64) - step * blur.T @ blur, step * blur.T @ seen])
    return keras.Sequential([keras.Input((64,)), gradient, model])


chosen = 3
models = {
    name: iteration(model, measurements[chosen])
    for name, model in (("contracting", contracting), ("ordinary", ordinary))
}
rate = lip.bounds.lipschitz_bound(models["contracting"]).value
print(f"proven rate of the contraction: {rate:.4f}")
print(f"of the ordinary denoiser: {lip.bounds.lipschitz_bound(models['ordinary']).value:.4g}")

# %% [markdown]
# Two starts that have nothing to do with each other, zeros and noise. The distance between the two
# sequences shrinks by the rate at least, in every step.


# %%
def path(model, start):
    """The iterates from a start."""
    found = [start]
    for _ in range(iterations):
        found.append(np.asarray(model(found[-1][None].astype("float32"))[0], "float64"))
    return np.array(found)


starts = np.zeros(64), 3.0 * random.normal(size=64)
distances = {}
for name, model in models.items():
    first, second = (path(model, start) for start in starts)
    distances[name] = np.linalg.norm(first - second, axis=1)
apart = distances["contracting"]
proven = apart[0] * rate ** np.arange(iterations + 1)
print(f"within what is proven at every step: {np.all(apart <= proven * (1 + 1e-6) + 1e-6)}")
print(f"apart {apart[0]:.2f} at the start, {apart[20]:.2g} after 20 steps")
floor = 1e-7
lip.plots.curves(
    {
        **{name: np.log10(np.maximum(one, floor)) for name, one in distances.items()},
        "proven": np.log10(np.maximum(proven, floor)),
    },
    np.arange(iterations + 1),
    xlabel="step",
    ylabel="log10 of the distance",
)

# %% [markdown]
# When to stop is proven as well: the second inequality bounds the distance to a limit that nobody
# has seen, by the length of the last step.

# %%
first = path(models["contracting"], starts[0])
limit = first[-1]
lengths = np.linalg.norm(np.diff(first, axis=0), axis=1)
bounds = rate / (1 - rate) * lengths
to_limit = np.linalg.norm(first[1:] - limit, axis=1)
slack = bounds[-1]  # the limit is not its last iterate
print(f"the bound on the distance to the limit holds: {np.all(to_limit <= bounds + slack + 1e-6)}")
print(f"after 30 steps at most {bounds[29]:.2g} from the limit")

# %% [markdown]
# And what comes out: the digit, its measurement, and both limits. The iteration with the ordinary
# denoiser converges here, too. That it would, nobody could know before it was run; with another
# measurement or another step it may not.

# %%
restored = {name: path(model, starts[0])[-1] for name, model in models.items()}
shown = {"digit": test[chosen], "measured": measurements[chosen], **restored}
for name, image in shown.items():
    print(f"{name}: error {np.sqrt(np.mean((image - test[chosen]) ** 2)):.3f}")
lip.plots.images(np.stack(list(shown.values())).reshape(-1, 8, 8, 1) + 0.5, notes=list(shown))
