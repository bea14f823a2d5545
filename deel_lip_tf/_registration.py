"""The one place that names the serialization package of this library."""

from keras.saving import register_keras_serializable

PACKAGE = "deel_lip_tf"


def register(cls):
    """Class decorator: registers `cls` so that `.keras` files find it as `deel_lip_tf>Name`."""
    return register_keras_serializable(package=PACKAGE)(cls)
