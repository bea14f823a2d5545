# %% [markdown]
# # Does the label hold in the whole box?
#
# For users of decomon: a network is trained on MNIST, and for some test images it is proven that no
# change of the pixels by at most `eps` changes the label, or such a change is shown. The functions
# of decomon are there under their names; what they are made of is shown beside them.
#
#     python notebooks/verification_tutorial.py [mnist | FILE.npz] [epochs] [images] [folder] \
#         [seconds for a question]

# %%
import sys
from pathlib import Path

import keras
import numpy as np

from deel_lip_tf import verify
from deel_lip_tf.cli.quickstart.data import load
from deel_lip_tf.verify import decomon, figures

source = sys.argv[1] if len(sys.argv) > 1 else "mnist"
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 10
count = int(sys.argv[3]) if len(sys.argv) > 3 else 100
folder = Path(sys.argv[4] if len(sys.argv) > 4 else "verification-output")
limit = float(sys.argv[5]) if len(sys.argv) > 5 else 60.0
folder.mkdir(parents=True, exist_ok=True)
data = load(source)
keras.utils.set_random_seed(0)

# %% [markdown]
# An ordinary network of ordinary layers: nothing has to be known about verification when it is
# trained. The softmax at its end is left out by the proofs, and only by them.

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
model.fit(data.x_train, data.y_train, batch_size=32, epochs=epochs, verbose=2)
print("test loss and accuracy:", model.evaluate(data.x_test, data.y_test, verbose=0))

# %% [markdown]
# Only images that the network classifies correctly are worth a question.

# %%
predicted = model.predict(data.x_test, verbose=0).argmax(axis=1)
chosen = np.flatnonzero(predicted == data.y_test)[:count]
x, y = data.x_test[chosen], data.y_test[chosen]

# %% [markdown]
# ## With decomon's functions
#
# A box is given by its corners. A negative `get_adv_box` proves that no other label wins anywhere
# in it; a `check_adv_box` that is not negative proves that one does somewhere. Both at once never
# happen, and neither is possible: then nothing is known yet.

# %%
eps = 0.02
x_min, x_max = np.clip(x - eps, 0, 1), np.clip(x + eps, 0, 1)
converted = decomon.clone(model, method="crown")
proof = decomon.get_adv_box(converted, x_min, x_max, source_labels=y)
refutation = decomon.check_adv_box(converted, x_min, x_max, source_labels=y)
print(f"eps {eps}: proven {np.sum(proof < 0)}, refuted {np.sum(refutation >= 0)} of {len(x)}")
assert not np.any((proof < 0) & (refutation >= 0))

# %% [markdown]
# The methods differ in how tight they are, and in what they cost. Intervals lose track of where
# their ends come from; linear functions of the input do not.

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
# `robustness` tries methods from cheap to tight and attacks what is left. A refuted image comes
# with the image that refutes it.

# %%
answer = verify.robustness(model, x, y, eps=eps, norm="linf", clip=(0, 1), time_limit=limit)
print(answer)
for witness in answer.witness[answer.status == "falsified"][:3]:
    print("a counterexample is given the label", model.predict(witness[None], verbose=0).argmax())

# %% [markdown]
# Frames are green where the label is proven, red where a counterexample was found, and orange
# where neither was.

# %%
radii = (0.005, 0.01, 0.02, 0.05, 0.1)
shown = min(10, len(x))


def statuses_at(radius: float) -> np.ndarray:
    """Statuses of the images that are shown."""
    return verify.robustness(model, x[:shown], y[:shown], eps=radius, time_limit=limit / 2).status


rows = np.array([statuses_at(radius) for radius in radii])
figure = figures.status_figure(x[:shown], rows, radii, labels=y[:shown])
figure.savefig(folder / "status.png", dpi=120)

# %% [markdown]
# The share of images that each method proves, below what the attack leaves: no method can prove
# more than that.

# %%
curves = figures.verified_curves(
    model, x, y, radii, methods=("ibp", "crown", "auto"), time_limit=limit
)
print(curves)
for method, seconds in curves.seconds.items():
    print(f"{method:<10} seconds for {len(x)} images:", np.round(seconds, 2))
figures.curve_figure(curves).savefig(folder / "curves.png", dpi=120)

# %% [markdown]
# The largest radius that can be proven for each image, by bisection, in two norms.

# %%
for norm in ("linf", "l2"):
    radius = verify.certified_radius(model, x[:shown], y[:shown], norm=norm, method="crown")
    print(f"proven radius in {norm}:", np.round(radius, 4))

# %% [markdown]
# The same question as a file: other verifiers read it, and the network as ONNX beside it.
# `python -m deel_lip_tf verify model.keras question.vnnlib` answers it.

# %%
model.save(folder / "model.keras")
verify.to_vnnlib(folder / "question.vnnlib", model, x[0], label=int(y[0]), eps=eps)
print("written:", sorted(path.name for path in folder.iterdir()))

# %% [markdown]
# In a notebook, with ipywidgets, the radius is a slider.

# %%
try:
    import ipywidgets
    from IPython import get_ipython
    from IPython.display import display
except ImportError:
    get_ipython = None

if get_ipython is not None and get_ipython() is not None:

    def show(radius: float) -> None:
        """Draws the frames at one radius."""
        display(figures.status_figure(x[:shown], statuses_at(radius), (radius,), y[:shown]))

    slider = ipywidgets.FloatSlider(
        value=0.01, min=0.0, max=0.1, step=0.005, readout_format=".3f", continuous_update=False
    )
    ipywidgets.interact(show, radius=slider)
