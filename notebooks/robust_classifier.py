# %% [markdown]
# # A provably robust classifier with the HKR loss
#
# For users of torchlip: the network and the loss of its introduction, in Keras. The head bounds
# each neuron by itself (`FrobeniusDense`), the loss is the hinge-Kantorovich-Rubinstein loss, and
# every certificate is compared with the adversarial example that an attack finds.
#
#     python notebooks/robust_classifier.py [mnist | FILE.npz] [epochs]

# %%
import sys

import foolbox
import keras
import numpy as np
import tensorflow as tf

import deel_lip_tf as lip
from deel_lip_tf.cli.quickstart.data import load

source = sys.argv[1] if len(sys.argv) > 1 else "mnist"
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 10
data = load(source)
one_hot = np.eye(data.classes, dtype="float32")
keras.utils.set_random_seed(0)

# %% [markdown]
# torchlip writes its loss as `(1 - alpha) * (-KR) + alpha * hinge`, this library as deel-lip does,
# `-KR + alpha * hinge`. The two differ by a factor; `alpha_from_torchlip` translates. An `alpha`
# near 1 (there) asks for accuracy, a smaller one for larger certificates.

# %%
alpha = lip.losses.alpha_from_torchlip(0.98)
print(f"torchlip's alpha = 0.98 is alpha = {alpha:g} here")

model = lip.Sequential(
    [
        keras.Input(data.image_shape),
        lip.layers.SpectralConv2D(16, (3, 3), padding="same"),
        lip.layers.GroupSort2(),
        lip.layers.ScaledL2NormPooling2D((2, 2)),
        lip.layers.SpectralConv2D(32, (3, 3), padding="same"),
        lip.layers.GroupSort2(),
        lip.layers.ScaledL2NormPooling2D((2, 2)),
        keras.layers.Flatten(),
        lip.layers.SpectralDense(64),
        lip.layers.GroupSort2(),
        lip.layers.FrobeniusDense(data.classes, use_bias=True, disjoint_neurons=True),
    ],
    name="hkr_classifier",
    k_coef_lip=1.0,
)
model.summary()

# %%
model.compile(
    optimizer=keras.optimizers.Adam(1e-3),
    loss=lip.losses.MulticlassHKR(alpha=alpha, min_margin=0.25),
    metrics=[
        "accuracy",
        lip.metrics.MulticlassKR(),
        lip.metrics.CategoricalProvableRobustAccuracy(epsilon=0.25, disjoint_neurons=True),
    ],
)
history = model.fit(
    data.x_train,
    one_hot[data.y_train],
    batch_size=128,
    epochs=epochs,
    validation_data=(data.x_test, one_hot[data.y_test]),
    verbose=2,
)

# %% [markdown]
# The metric during training takes the constants at their word: each logit is 1-Lipschitz, so half
# the gap of the two largest is a certificate. `certify` proves the constants of the trained weights
# and uses the distance of the head's columns instead of 2, so its radii are larger, and proven.

# %%
print(lip.bounds.lipschitz_bound(model))
certificates = lip.certificates.certify(model, data.x_test, data.y_test)
print(certificates)

# %% [markdown]
# The export computes the same function without the constraints' cost. Attacking it must never find
# an adversarial example nearer than the certificate.

# %%
exported = model.vanilla_export()
np.testing.assert_allclose(
    exported.predict(data.x_test[:100], verbose=0),
    model.predict(data.x_test[:100], verbose=0),
    rtol=1e-5,
    atol=1e-5,
)
chosen = np.flatnonzero(certificates.radius > 0)[:10]
images, labels = tf.constant(data.x_test[chosen]), tf.constant(data.y_test[chosen], tf.int64)
attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=6, steps=300)
adversarials, _, success = attack(
    foolbox.TensorFlowModel(exported, bounds=(0, 1)), images, labels, epsilons=None
)
distances = np.linalg.norm((adversarials - images).numpy().reshape(len(chosen), -1), axis=1)

# %%
print(f"{'label':>6}{'certificate':>13}{'attack':>9}")
for label, radius, distance, found in zip(
    data.y_test[chosen], certificates.radius[chosen], distances, success.numpy(), strict=True
):
    print(f"{label:>6}{radius:>13.3f}{distance if found else float('nan'):>9.3f}")
broken = (distances < certificates.radius[chosen]) & success.numpy()
print(f"certificates broken: {broken.sum()} of {len(chosen)}")
