# %% [markdown]
# # Accuracy or robustness: one network, four losses
#
# The same 1-Lipschitz convolutional network is trained on MNIST with two temperatures of the
# cross-entropy and two settings of the HKR loss. Each run reports the accuracy on the test set and
# the mean proven certificate: the radius, in pixels from 0 to 1, within which no change of the
# image changes a correct answer (0 where the answer is wrong).
#
#     python notebooks/four_losses.py [mnist | FILE.npz] [epochs]

# %%
import sys

import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf.cli.quickstart.data import load

source = sys.argv[1] if len(sys.argv) > 1 else "mnist"
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 12
data = load(source)
BATCH_SIZE = 256
one_hot = np.eye(data.classes, dtype="float32")


# %% [markdown]
# Every layer but `Flatten` is 1-Lipschitz by construction, whatever the optimizer does to its
# weights, and most of them preserve the norm of the gradient.


# %%
def network():
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
    "HKR, margin 0.1, alpha 50": lip.losses.MulticlassHKR(min_margin=0.1, alpha=50.0),
    "HKR, margin 1, alpha 30": lip.losses.MulticlassHKR(min_margin=1.0, alpha=30.0),
}


# %% [markdown]
# A small temperature, or a large margin, asks for large gaps between the logits of every image:
# larger certificates, at the price of some accuracy.


# %%
def train(loss):
    keras.utils.set_random_seed(0)
    model = network()
    steps = epochs * -(-len(data.x_train) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(optimizer=keras.optimizers.Adam(rate), loss=loss, metrics=["accuracy"])
    labels = one_hot[data.y_train]
    model.fit(data.x_train, labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=2)
    return model


rows = []
for name, loss in LOSSES.items():
    model = train(loss)
    bound = lip.bounds.lipschitz_bound(model).value
    certificates = lip.certificates.certify(model, data.x_test, data.y_test)
    accuracy = certificates.certified_accuracy([0.0])[0]
    rows.append((name, accuracy, certificates.radius.mean(), bound))

# %%
print(f"{'loss':<28}{'accuracy':>10}{'certificate':>13}{'Lipschitz bound':>17}")
for name, accuracy, certificate, bound in rows:
    print(f"{name:<28}{accuracy:>10.3f}{certificate:>13.3f}{bound:>17.6f}")
