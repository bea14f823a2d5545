# %% [markdown]
# # Margins that the loss learns, on CIFAR-10
#
# A hinge loss needs a margin: too small and certificates are small, too large and accuracy suffers,
# and the right one differs from class to class. `MulticlassHKRauto` learns one for each class, with
# the optimizer that learns the weights. This notebook shows the margins while they move, where they
# settle, and why there.
#
# **Data:** CIFAR-10, from the folder in the environment variable `DEEL_LIP_TF_DATA`, or through
# `tensorflow_datasets` or `keras.datasets`. **Needs:** the extra `demo`.

# %% tags=["parameters"]
source = ""  # where CIFAR-10 is; see `images.py`
training_images = 10_000
test_images = 1_000
epochs = 12
settling_epochs = 6

# %%
import tempfile
from pathlib import Path

import images
import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf import layers

data, names = images.load("cifar10", source, training_images, test_images)
one_hot = np.eye(data.classes, dtype="float32")
keras.utils.set_random_seed(0)
lip.plots.images(data.x_train[:16], [names[label] for label in data.y_train[:16]])

# %% [markdown]
# ## The network
#
# Keras's own layers of augmentation come first: they act in training only, and `certify` knows that
# they are the identity afterwards. Convolutions as large as their strides give every pixel to one
# patch: with an orthogonal kernel they are isometries. The neurons of the head are bounded one by
# one.

# %%
inputs = keras.Input(data.image_shape)
x = keras.layers.RandomFlip("horizontal")(inputs)
x = keras.layers.RandomTranslation(0.06, 0.06, fill_mode="reflect")(x)
for filters in (32, 64, 128):
    x = layers.SpectralConv2D(filters, (2, 2), strides=2, kernel_initializer="orthogonal")(x)
    x = layers.GroupSort2()(x)
x = keras.layers.Flatten()(x)
x = layers.SpectralDense(128)(x)
x = layers.GroupSort2()(x)
outputs = layers.FrobeniusDense(data.classes, disjoint_neurons=True)(x)
model = lip.LossVariableModel(inputs, outputs, optim_margin=True)

# %% [markdown]
# ## The loss
#
# `alpha_margin` is what a larger margin earns: each margin settles where this fraction of the
# samples lies inside it. Wrong answers always lie inside, so that a fraction below the error rate
# leaves every margin at `min_margin`, where it starts. On CIFAR-10 a small 1-Lipschitz network is
# wrong about half of the time, and 0.1, which is often seen, never moves anything; 0.7 does.

# %%
loss = lip.losses.MulticlassHKRauto(
    alpha=50.0, min_margin=0.01, max_margin=10.0, soft_hinge_tau=20.0, alpha_margin=0.7
)
BATCH_SIZE = 128
steps = epochs * -(-len(data.x_train) // BATCH_SIZE)
model.compile(
    optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
    loss=loss,
    metrics=["accuracy", lip.metrics.MulticlassKR()],
)
margins = [loss.hinge_margins.numpy()]
watch = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: margins.append(loss.hinge_margins.numpy())
)
history = model.fit(
    data.x_train,
    one_hot[data.y_train],
    batch_size=BATCH_SIZE,
    epochs=epochs,
    validation_data=(data.x_test, one_hot[data.y_test]),
    callbacks=[watch],
    verbose=0,
).history
lip.plots.curves(
    {"training images": history["accuracy"], "test images": history["val_accuracy"]},
    ylabel="accuracy",
)

# %% [markdown]
# ## The margins move, and differ
#
# Classes that are told apart easily get large margins, and those that are mistaken for each other
# small ones.

# %%
lip.plots.margins(np.array(margins), names, start=0)

# %% [markdown]
# ## Have they settled?
#
# Where they do, the active hinges of the samples of a class weigh as much as
# `loss.stationary_fraction` predicts, divided by how much more frequent the class is than the
# average one. The hinge of the true logit weighs one half, those of the others, by the softmax of
# the loss, the other half. The samples are those that the loss saw: flipped and shifted.


# %%
def fraction_inside(scores, true, margin, tau):
    """The share of active hinges among samples of the class `true`."""
    others = np.delete(scores, true, axis=1)
    threats = np.exp(tau * (others - others.max(axis=1, keepdims=True)))
    threats /= threats.sum(axis=1, keepdims=True)
    of_the_others = (threats * (-others < margin / 2)).sum(axis=1)
    return np.mean((scores[:, true] < margin / 2) + of_the_others) / 2


def report():
    """Margins, and the shares of hinges that are active, found and predicted."""
    learned, tau = loss.hinge_margins.numpy(), float(loss.soft_hinge_tau.numpy())
    batches = np.array_split(data.x_train, -(-len(data.x_train) // 500))
    scores = [np.asarray(model(batch, training=True)) for batch in batches]
    scores = np.concatenate(scores).astype("float64")
    labels, classes = data.y_train, range(data.classes)
    inside = [fraction_inside(scores[labels == c], c, learned[c], tau) for c in classes]
    shares = np.bincount(labels, minlength=data.classes) / len(labels)
    predicted = loss.stationary_fraction(data.classes) / (data.classes * shares)
    print(f"{'class':<12}{'margin':>9}{'inside':>9}{'predicted':>11}")
    for c in classes:
        print(f"{names[c]:<12}{learned[c]:>9.3f}{inside[c]:>9.3f}{predicted[c]:>11.3f}")
    print(f"margins from {learned.min():.3f} to {learned.max():.3f}; they started at 0.01")
    print(f"largest distance to the prediction: {np.abs(inside - predicted).max():.3f}")


report()

# %% [markdown]
# The network was still getting better, and margins follow with a delay. With the layers frozen they
# are all that is left to learn, and they come to where the prediction is.

# %%
for layer in model.layers:
    layer.trainable = False
settling = keras.optimizers.schedules.CosineDecay(2e-3, settling_epochs * (steps // epochs))
model.compile(keras.optimizers.Adam(settling), loss)
print("trainable:", [variable.name for variable in model.trainable_variables])
model.fit(
    data.x_train,
    one_hot[data.y_train],
    batch_size=BATCH_SIZE,
    epochs=settling_epochs,
    callbacks=[watch],
    verbose=0,
)
report()

# %% [markdown]
# ## Certificates
#
# They are proven from the trained weights, not taken from the loss. They are small here: this loss
# buys accuracy with margins that are a tenth of those that MNIST allows, and the network is one
# that trains in a minute.

# %%
certificates = lip.certificates.certify(model, data.x_test, data.y_test)
print(certificates.summary([0, 0.01, 0.02, 0.05, 0.1]))

# %%
lip.plots.certified_accuracy(certificates)

# %%
order = np.argsort(-certificates.radius)
chosen = np.concatenate([order[:8], np.flatnonzero(~certificates.correct)[:8]])
lip.plots.images(
    data.x_test[chosen],
    data.y_test[chosen],
    certificates.label[chosen],
    [f"radius {radius:.2f}" for radius in certificates.radius[chosen]],
    names,
)

# %% [markdown]
# Margins are part of the model's state: they are saved and loaded with it.

# %%
path = Path(tempfile.mkdtemp()) / "learned_margins.keras"
model.save(path)
reloaded = keras.models.load_model(path)
same = np.array_equal(reloaded.loss.hinge_margins.numpy(), loss.hinge_margins.numpy())
print("saved and reloaded with the same margins:", same)
