# %% [markdown]
# # Robust classification on MNIST: one network, four losses
#
# A 1-Lipschitz classifier can be accurate or robust, and the loss decides how much of each. The
# same network is trained here with four losses:
#
# * `TauCategoricalCrossentropy(tau=100)`: cross-entropy of logits that are multiplied by 100. Any
#   gap between the logits looks large, so accuracy is all that is left to gain;
# * the same with `tau=3`: gaps must be large themselves, and so certificates become large;
# * `MulticlassHKR`: a hinge that asks for a margin of the logits, and a Kantorovich-Rubinstein term
#   that pushes classes apart as far as the constant allows;
# * `OffsetCrossentropy`: the true logit must lead by an offset, here by what certifies the radius
#   1.
#
# **Data:** MNIST, from the folder in the environment variable `DEEL_LIP_TF_DATA`, or through
# `tensorflow_datasets` or `keras.datasets`. **Needs:** the extra `demo`.

# %% tags=["parameters"]
source = ""  # where MNIST is; see `images.py`
training_images = 10_000
test_images = 2_000
epochs = 8
batch_size = 128

# %%
import images
import keras
import numpy as np

import deel_lip_tf as lip

data, names = images.load("mnist", source, training_images, test_images)
one_hot = np.eye(data.classes, dtype="float32")

# %% [markdown]
# ## The network
#
# Every layer but `Flatten` is 1-Lipschitz by construction, whatever the optimizer does to its
# weights, and most of them keep the norm of the gradient: orthogonal kernels, an activation that
# sorts pairs of channels, and a pooling that takes the norm of each window.


# %%
def network():
    """A 1-Lipschitz convolutional classifier."""
    return lip.Sequential(
        [
            keras.Input(data.image_shape),
            lip.layers.SpectralConv2D(16, (3, 3), kernel_initializer="orthogonal"),
            lip.layers.GroupSort2(),
            lip.layers.ScaledL2NormPooling2D(pool_size=(2, 2)),
            lip.layers.SpectralConv2D(32, (3, 3), kernel_initializer="orthogonal"),
            lip.layers.GroupSort2(),
            lip.layers.ScaledL2NormPooling2D(pool_size=(2, 2)),
            keras.layers.Flatten(),
            lip.layers.SpectralDense(64),
            lip.layers.GroupSort2(),
            lip.layers.SpectralDense(data.classes, activation=None, use_bias=False),
        ]
    )


LOSSES = {
    "tau = 100": lip.losses.TauCategoricalCrossentropy(tau=100.0),
    "tau = 3": lip.losses.TauCategoricalCrossentropy(tau=3.0),
    "HKR, margin 1": lip.losses.MulticlassHKR(min_margin=1.0, alpha=30.0),
    "offset": lip.losses.OffsetCrossentropy(offset=np.sqrt(2.0), temperature=0.25),
}

# %% [markdown]
# ## Four trainings
#
# Same seed, same batches, same schedule; only the loss differs.


# %%
def trained(loss):
    """The network after some epochs with a loss."""
    keras.utils.set_random_seed(0)
    model = network()
    steps = epochs * -(-len(data.x_train) // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, steps)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    labels = one_hot[data.y_train]
    history = model.fit(
        data.x_train, labels, batch_size=batch_size, epochs=epochs, verbose=0
    ).history
    return model, history["accuracy"]


models, accuracies = {}, {}
for name, loss in LOSSES.items():
    models[name], accuracies[name] = trained(loss)

lip.plots.curves(accuracies, ylabel="accuracy on the training images")

# %% [markdown]
# ## Certificates
#
# `certify` bounds the constant of each network from its weights, computes the logits in float64,
# and divides gaps of logits by how fast they can close. Within the radius, no change of the image
# changes the answer, whoever looks for it; a wrong answer has the radius 0.

# %%
certificates = {
    name: lip.certificates.certify(model, data.x_test, data.y_test)
    for name, model in models.items()
}
print(f"{'loss':<16}{'bound':>12}{'accuracy':>10}{'at 0.5':>8}{'at 1':>8}{'mean radius':>13}")
for name, one in certificates.items():
    clean, half, whole = one.certified_accuracy([0.0, 0.5, 1.0])
    row = f"{name:<16}{one.bound:>12.7f}{clean:>10.1%}{half:>8.1%}{whole:>8.1%}"
    print(f"{row}{one.radius.mean():>13.3f}")

# %% [markdown]
# The curve of each network starts at its accuracy, and falls where its certificates end. None is
# best everywhere: which one is wanted depends on the size of the changes that matter.

# %%
lip.plots.certified_accuracy(certificates)

# %% [markdown]
# The same as a choice: how much accuracy a larger mean radius costs. What another run beats in both
# is not on the dashed line.

# %%
runs = {
    name: {"": (one.radius.mean(), one.certified_accuracy(0.0))}
    for name, one in certificates.items()
}
lip.plots.frontier(runs)

# %% [markdown]
# ## What the radii look like
#
# Digits that are written clearly have large certificates, and those that could be another digit
# small ones. The sum of the squares of all 784 pixels of a digit is some 80 to 100, its norm 9 to
# 10: a radius of 1 is a change by a tenth of what is there.

# %%
one = certificates["tau = 3"]
order = np.argsort(one.radius)
right = order[one.correct[order]]
chosen = np.concatenate([order[:4], right[:4], right[-8:]])
lip.plots.images(
    data.x_test[chosen],
    data.y_test[chosen],
    one.label[chosen],
    [f"radius {radius:.2f}" for radius in one.radius[chosen]],
    names,
)

# %% [markdown]
# ## How tight is the proof?
#
# The report sets beside the proven bound the largest stretching that a search finds near images:
# the true constant lies between the two. Each layer reaches its bound; that all of them do for the
# same image is not asked of a network, and what is missing shows by how much radii could grow at
# most.

# %%
report = lip.bounds.report(models["tau = 3"], data.x_test, samples=4, steps=15)
print(f"proven {report.bound.value:.7f}, attained {report.lower:.4f}")
lip.plots.layer_bounds(report)
