# %% [markdown]
# # Formal verification: does the label hold in the whole box?
#
# A network is trained on MNIST as anybody would, and for some test images one of three things is
# found: a proof that no change of the pixels by at most `eps` changes the label, a change that
# does, or neither. Nothing has to be known about verification when the network is trained.
#
# The functions of decomon are there under their names; what they are made of is shown beside them.
#
# **Data:** MNIST, from the folder in the environment variable `DEEL_LIP_TF_DATA`, or through
# `tensorflow_datasets` or `keras.datasets`. **Needs:** the extra `demo`; the slider needs
# ipywidgets.

# %% tags=["parameters"]
source = ""  # where MNIST is; see `images.py`
training_images = 10_000
epochs = 8
count = 60  # images that are asked about
limit = 20.0  # seconds for one question about all of them
eps = 0.02

# %%
import tempfile
from pathlib import Path

import images
import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf import verify
from deel_lip_tf.verify import decomon, figures

data, _ = images.load("mnist", source, training_images)
keras.utils.set_random_seed(0)

# %% [markdown]
# ## An ordinary network
#
# The softmax at its end is left out by the proofs, and only by them: it never changes which output
# is the largest.

# %%
model = keras.Sequential(
    [
        keras.Input(data.image_shape),
        keras.layers.Flatten(),
        keras.layers.Dense(100, activation="relu"),
        keras.layers.Dense(100, activation="relu"),
        keras.layers.Dense(data.classes, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(data.x_train, data.y_train, batch_size=64, epochs=epochs, verbose=0)
loss, accuracy = model.evaluate(data.x_test, data.y_test, batch_size=1000, verbose=0)
print(f"accuracy on the test images {accuracy:.2%}")

# %% [markdown]
# Only images that the network classifies correctly are worth a question.

# %%
predicted = model.predict(data.x_test, batch_size=1000, verbose=0).argmax(axis=1)
chosen = np.flatnonzero(predicted == data.y_test)[:count]
x, y = data.x_test[chosen], data.y_test[chosen]

# %% [markdown]
# ## With decomon's functions
#
# A box is given by its corners. A negative `get_adv_box` proves that no other label wins anywhere
# in it; a `check_adv_box` that is not negative proves that one does somewhere. Both at once never
# happen, and neither is possible: then nothing is known yet.

# %%
x_min, x_max = np.clip(x - eps, 0, 1), np.clip(x + eps, 0, 1)
converted = decomon.clone(model, method="crown")
proof = decomon.get_adv_box(converted, x_min, x_max, source_labels=y)
refutation = decomon.check_adv_box(converted, x_min, x_max, source_labels=y)
print(f"eps {eps}: proven {np.sum(proof < 0)}, refuted {np.sum(refutation >= 0)} of {len(x)}")
print(f"proven and refuted at once: {np.sum((proof < 0) & (refutation >= 0))}")

# %% [markdown]
# The same question to every method. They differ in how tight they are, and in what they cost:
# intervals lose track of where their ends come from, linear functions of the input do not.

# %%
for method in ("forward-ibp", "forward-hybrid", "crown-forward-ibp", "crown"):
    scores = decomon.get_adv_box(decomon.clone(model, method), x_min, x_max, y)
    print(f"{method:<20} proven {np.sum(scores < 0):>4} of {len(x)}")

# %% [markdown]
# Bounds of the outputs themselves, before the softmax: what the network can say in the box of the
# first image. Two outputs with overlapping bounds may still never change their order, which is why
# the proofs above bound differences.

# %%
upper, lower = decomon.get_range_box(converted, x_min[:1], x_max[:1])
for label in range(data.classes):
    print(f"output {label}: from {lower[0, label]:8.3f} to {upper[0, label]:8.3f}")

# %% [markdown]
# ## One question, one answer
#
# `robustness` tries methods from cheap to tight, attacks what they leave, and splits boxes at the
# kinks of ReLU until the time is up. A refuted image comes with the image that refutes it.

# %%
answer = verify.robustness(model, x, y, eps=eps, norm="linf", clip=(0, 1), time_limit=limit)
print(answer)

# %%
refuted = np.flatnonzero(answer.status == "falsified")[:3]
witnesses = answer.witness[refuted].astype("float32")
became = model.predict(witnesses, verbose=0).argmax(axis=1) if len(refuted) else []
lip.plots.adversarials(x[refuted], witnesses, y[refuted], became)

# %% [markdown]
# ## Frames over the radius
#
# Green and solid: proven. Red and dotted: refuted. Orange and dashed: neither, in the time that was
# given.

# %%
radii = (0.01, 0.02, 0.03, 0.05)
shown = min(8, len(x))


def statuses_at(radius):
    """Statuses of the images that are shown."""
    return verify.robustness(model, x[:shown], y[:shown], eps=radius, time_limit=limit / 2).status


lip.plots.statuses(x[:shown], [statuses_at(radius) for radius in radii], radii, y[:shown])

# %% [markdown]
# The share of images that each method proves, below what an attack leaves: no method can prove more
# than that.

# %%
curves = figures.verified_curves(
    model, x, y, radii, methods=("ibp", "crown-ibp", "crown", "auto"), time_limit=limit
)
print(curves)
for method, seconds in curves.seconds.items():
    print(f"{method:<10} seconds for {len(x)} images:", np.round(seconds, 2))
figures.curve_figure(curves)

# %% [markdown]
# The largest radius that can be proven for each image, by bisection, in two norms.

# %%
for norm in ("linf", "l2"):
    radius = verify.certified_radius(model, x[:shown], y[:shown], norm=norm, method="crown")
    print(f"proven radius in {norm}:", np.round(radius, 4))

# %% [markdown]
# ## Questions as files
#
# The same question as a VNN-LIB file: other verifiers read it, and the network as ONNX beside it.
# `python -m deel_lip_tf verify model.keras question.vnnlib` answers it on the command line.

# %%
folder = Path(tempfile.mkdtemp())
model.save(folder / "model.keras")
verify.to_vnnlib(folder / "question.vnnlib", model, x[0], label=int(y[0]), eps=eps)
question = verify.read_vnnlib(folder / "question.vnnlib")
print(verify.decide(model, question, time_limit=limit).status, "means that the label is proven")

# %% [markdown]
# ## A slider
#
# With ipywidgets, the radius is a slider.

# %%
try:
    import ipywidgets
except ImportError:
    print("pip install ipywidgets")
else:
    ipywidgets.interact(
        lambda radius: lip.plots.statuses(x[:shown], statuses_at(radius), (radius,), y[:shown]),
        radius=ipywidgets.FloatSlider(
            value=0.01, min=0.0, max=0.1, step=0.005, readout_format=".3f", continuous_update=False
        ),
    )
