"""Sequential models as functions that make them, so that tables of tests hold no models."""

import keras


def net(shape, *parts):
    return lambda: keras.Sequential([keras.Input(shape), *(part() for part in parts)])


def layer(cls, *args, **kwargs):
    return lambda: cls(*args, **kwargs)
