"""Questions about two inputs and two outputs, and a small model of images."""

import keras
from keras import layers

from deel_lip_tf.verify.specification.vnnlib import read_vnnlib

DECLARED = "".join(f"(declare-const {v}_{i} Real)\n" for v in "XY" for i in range(2))
BOX = "(assert (and (>= X_0 -1) (<= X_0 1.0) (>= X_1 -1e0) (<= X_1 +1)))\n"


def parsed(tmp_path, text):
    path = tmp_path / "property.vnnlib"
    path.write_text(text, encoding="utf-8")
    return read_vnnlib(path)


def image_model(classes=3, final=None):
    inputs = keras.Input((2, 3, 1))
    x = layers.Flatten()(layers.Conv2D(2, 2, activation="relu")(inputs))
    return keras.Model(inputs, layers.Dense(classes, final)(x))
