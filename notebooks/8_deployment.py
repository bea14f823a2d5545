# %% [markdown]
# # Deployment: what leaves the laboratory
#
# The constraint is a matter of training. What is deployed is a plain model with the same values, in
# the format that the receiving side reads, with certificates that can be checked against it. This
# notebook exports one classifier as a Keras model, as a SavedModel that is called from a process in
# which this library does not exist, as a LiteRT file and as an ONNX file, and hands the
# certificates on.
#
# **Data:** the handwritten digits that come with scikit-learn; no network is needed. **Needs:** the
# extras `demo` and `verify`.

# %% tags=["parameters"]
epochs = 20

# %%
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import onnx.reference
import tensorflow as tf

import deel_lip_tf as lip
from deel_lip_tf.cli.quickstart.data import load

tf.get_logger().setLevel("ERROR")  # not where each file was written

data = load("digits")
folder = Path(tempfile.mkdtemp())
keras.utils.set_random_seed(0)
model = lip.Sequential(
    [
        keras.Input(data.image_shape),
        lip.layers.SpectralConv2D(32, 2, strides=2),
        lip.layers.GroupSort2(),
        keras.layers.Flatten(),
        lip.layers.SpectralDense(64),
        lip.layers.GroupSort2(),
        lip.layers.SpectralDense(data.classes),
    ]
)
model.compile(
    keras.optimizers.Adam(1e-2),
    lip.losses.TauSparseCategoricalCrossentropy(tau=5),
    metrics=["accuracy"],
)
model.fit(data.x_train, data.y_train, epochs=epochs, verbose=0)
wanted = model.predict(data.x_test, verbose=0)
print(f"accuracy on held-out images {np.mean(wanted.argmax(axis=1) == data.y_test):.1%}")


def compare(name, logits):
    """How far the outputs of an export are from those of the model."""
    agree = np.mean(np.argmax(logits, axis=1) == wanted.argmax(axis=1))
    difference = np.abs(np.asarray(logits) - wanted).max()
    print(f"{name:<22} largest difference {difference:.1e}, same label for {agree:.0%}")


# %% [markdown]
# ## A plain Keras model
#
# `vanilla_export()` puts the effective kernels into Keras's own layers. Nothing is projected any
# more when it is called, and its bound is proven from its own weights, as that of any Keras model.

# %%
exported = model.vanilla_export()
print([type(layer).__name__ for layer in exported.layers])
print(f"proven of the model {lip.bounds.lipschitz_bound(model).value:.7f}", end="")
print(f", of the export {lip.bounds.lipschitz_bound(exported).value:.7f}")
compare("vanilla_export", exported.predict(data.x_test, verbose=0))
singular = dict(lip.compute_layer_sv.compute_model_sv(exported))
attained = {name: extremes[1] for name, extremes in singular.items() if extremes[1] is not None}
lip.plots.layer_bounds(lip.bounds.lipschitz_bound(exported), attained)

# %% [markdown]
# ## SavedModel, without this library
#
# A program that serves it needs TensorFlow and nothing else. The process below makes sure of it:
# importing this library, or Keras, is an error there.

# %%
exported.export(folder / "saved_model", verbose=False)
np.save(folder / "images.npy", data.x_test)
SERVER = """
import sys
sys.modules["deel_lip_tf"] = sys.modules["keras"] = None
import numpy as np
import tensorflow as tf
served = tf.saved_model.load("saved_model")
np.save("served.npy", served.serve(np.load("images.npy")))
"""
environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
subprocess.run(
    [sys.executable, "-c", SERVER], cwd=folder, env=environment, check=True, stderr=subprocess.PIPE
)
compare("SavedModel, served", np.load(folder / "served.npy"))

# %% [markdown]
# A SavedModel can also come back: `verify.from_saved_model` builds a Keras model of the operators
# that it runs, which is bounded, certified and verified as any other. What is claimed then is
# claimed of what was shipped.

# %%
returned = lip.verify.from_saved_model(folder / "saved_model")
compare("SavedModel, returned", returned.predict(data.x_test, verbose=0))
print(f"proven of what was shipped: {lip.bounds.lipschitz_bound(returned).value:.7f}")

# %% [markdown]
# ## LiteRT
#
# For small devices. All operators are built into the interpreter, so that no custom code has to be
# shipped with the file.

# %%
content = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model")).convert()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the interpreter is moving to a package of its own
    interpreter = tf.lite.Interpreter(model_content=content)
(given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
interpreter.resize_tensor_input(given["index"], data.x_test.shape)
interpreter.allocate_tensors()
interpreter.set_tensor(given["index"], data.x_test)
interpreter.invoke()
compare(f"LiteRT, {len(content) / 1000:.0f} kB", interpreter.get_tensor(result["index"]))

# %% [markdown]
# ## ONNX
#
# For other runtimes and for other verifiers, here computed by ONNX's reference implementation.

# %%
lip.verify.to_onnx(exported, folder / "model.onnx")
reference = onnx.reference.ReferenceEvaluator(str(folder / "model.onnx"))
(name,) = reference.input_names
(logits,) = reference.run(None, {name: data.x_test})
compare("ONNX", logits)

# %% [markdown]
# ## Certificates that travel
#
# Certificates are saved with a fingerprint of the model and of the samples that they are about.
# Whoever receives both checks that they belong together; after another step of training, or with
# one other pixel, they do not.

# %%
certificates = lip.certificates.certify(exported, data.x_test, data.y_test)
exported.save(folder / "classifier.keras")
certificates.save(folder / "certificates.npz")

received = keras.models.load_model(folder / "classifier.keras")
loaded = lip.certificates.Certificates.load(folder / "certificates.npz")
print(loaded.check(received, data.x_test))

# %%
kernel = received.layers[0].kernel
kernel.assign(kernel + 1e-6)
try:
    loaded.check(received, data.x_test)
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# What it certified can be looked at without the model: radii, labels, and the constant that was
# proven. For a program in float32 such as all the exports above, `certify(...,
# semantics="float32")` proves the radii of what runs, rounding included. The two curves lie upon
# each other: what rounding costs is less than a line is wide.

# %%
program = lip.certificates.certify(exported, data.x_test, data.y_test, semantics="float32")
lip.plots.certified_accuracy({"exact function": loaded, "float32 program": program})
