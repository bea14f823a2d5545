# %% [markdown]
# # Margins that the loss learns
#
# A hinge loss needs a margin: too small and certificates are small, too large and accuracy suffers,
# and the right one differs from class to class. `MulticlassHKRauto` learns one for each class, with
# the optimizer that learns the weights.
#
#     python notebooks/learned_margins.py [cifar10 | mnist | FILE.npz] [epochs] [training images]

# %%
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf import layers
from deel_lip_tf.cli.quickstart.data import load

source = sys.argv[1] if len(sys.argv) > 1 else "cifar10"
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 10
data = load(source)
count = int(sys.argv[3]) if len(sys.argv) > 3 else len(data.x_train)
one_hot = np.eye(data.classes, dtype="float32")
x_train, y_train = data.x_train[:count], one_hot[data.y_train[:count]]
keras.utils.set_random_seed(0)

# %% [markdown]
# Convolutions as large as their strides give every pixel to one patch: with an orthogonal kernel
# they are isometries. The neurons of the head are bounded one by one.

# %%
inputs = keras.Input(data.image_shape)
x = inputs
for filters in (32, 64, 128):
    x = layers.SpectralConv2D(filters, (2, 2), strides=2, kernel_initializer="orthogonal")(x)
    x = layers.GroupSort2()(x)
x = keras.layers.Flatten()(x)
x = layers.SpectralDense(128)(x)
x = layers.GroupSort2()(x)
outputs = layers.FrobeniusDense(data.classes, disjoint_neurons=True)(x)
model = lip.LossVariableModel(inputs, outputs, optim_margin=True)

# %% [markdown]
# `alpha_margin` is what a larger margin earns: each margin settles where this fraction of the
# samples lies inside it. Wrong answers always lie inside, so a fraction below the error rate keeps
# every margin at `min_margin`, where they start.

# %%
loss = lip.losses.MulticlassHKRauto(
    alpha=50.0, min_margin=0.01, max_margin=10.0, soft_hinge_tau=20.0, alpha_margin=0.7
)
BATCH_SIZE = 128
steps = epochs * -(-len(x_train) // BATCH_SIZE)
model.compile(
    optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, steps)),
    loss=loss,
    metrics=["accuracy", lip.metrics.MulticlassKR()],
)
model.fit(
    x_train,
    y_train,
    batch_size=BATCH_SIZE,
    epochs=epochs,
    validation_data=(data.x_test, one_hot[data.y_test]),
    callbacks=[lip.callbacks.LossParamLog("hinge_margins", rate=2)],
    verbose=2,
)

# %% [markdown]
# Have the margins settled? Where they do, the active hinges of the samples of a class weigh as much
# as `loss.stationary_fraction` predicts, divided by how much more frequent the class is than the
# average one. The hinge of the true logit weighs one half, those of the others, by the softmax of
# the loss, the other half.


# %%
def fraction_inside(scores, true, margin, tau):
    """The share of active hinges among samples of the class `true`."""
    others = np.delete(scores, true, axis=1)
    threats = np.exp(tau * (others - others.max(axis=1, keepdims=True)))
    threats /= threats.sum(axis=1, keepdims=True)
    of_the_others = (threats * (-others < margin / 2)).sum(axis=1)
    return np.mean((scores[:, true] < margin / 2) + of_the_others) / 2


def report():
    margins, tau = loss.hinge_margins.numpy(), float(loss.soft_hinge_tau.numpy())
    scores = model.predict(x_train, batch_size=512, verbose=0).astype("float64")
    labels = np.argmax(y_train, axis=1)
    classes = range(data.classes)
    inside = [fraction_inside(scores[labels == c], c, margins[c], tau) for c in classes]
    shares = np.bincount(labels, minlength=data.classes) / len(labels)
    predicted = loss.stationary_fraction(data.classes) / (data.classes * shares)
    print(f"{'class':>6}{'margin':>9}{'inside':>9}{'predicted':>11}")
    for c in classes:
        print(f"{c:>6}{margins[c]:>9.3f}{inside[c]:>9.3f}{predicted[c]:>11.3f}")
    print(f"margins from {margins.min():.3f} to {margins.max():.3f}; they started at 0.01")
    print(f"largest distance to the prediction: {np.abs(inside - predicted).max():.3f}")


report()

# %% [markdown]
# The network was still getting better, and the margins follow with a delay. With the layers frozen
# they are all that is left to learn, and they reach the prediction.

# %%
for layer in model.layers:
    layer.trainable = False
settling = keras.optimizers.schedules.CosineDecay(1e-3, 5 * (steps // epochs))
model.compile(keras.optimizers.Adam(settling), loss)
assert [variable is loss.hinge_margins for variable in model.trainable_variables] == [True]
model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=5, verbose=2)
report()

# %% [markdown]
# The certificates are proven from the trained weights, not taken from the loss.

# %%
print(lip.bounds.lipschitz_bound(model))
print(lip.certificates.certify(model, data.x_test[:1000], data.y_test[:1000]))
path = Path(tempfile.mkdtemp()) / "learned_margins.keras"
model.save(path)
reloaded = keras.models.load_model(path)
np.testing.assert_array_equal(reloaded.loss.hinge_margins.numpy(), loss.hinge_margins.numpy())
print("saved and reloaded, margins included")
