"""Layers of augmentation belong into models: they return their input at inference."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip
from tests._tables.verify_cases import AUGMENTATIONS


def classifier(*front, dtype="float32"):
    stack = [*front, layers.Rescaling(0.5), layers.Flatten(), lip.layers.SpectralDense(3)]
    return lip.Sequential([keras.Input((4, 4, 3), dtype=dtype), *stack])


@pytest.mark.parametrize("kind", AUGMENTATIONS, ids=lambda kind: kind.__name__)
def test_is_the_identity_at_inference_and_warns_of_nothing(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = classifier(kind(**AUGMENTATIONS[kind]))
    x = np.random.default_rng(0).uniform(-300, 300, (5, 4, 4, 3)).astype("float32")
    np.testing.assert_array_equal(model.layers[0](x, training=False), x)
    assert lip.bounds.lipschitz_bound(model).value <= 0.5 * (1 + 1e-6)


def test_certificates_are_those_of_the_model_without():
    bare = classifier()
    model = classifier(layers.RandomFlip(), layers.RandomTranslation(0.5, 0.5))
    model.set_weights(bare.get_weights())
    x = np.random.default_rng(0).normal(size=(20, 4, 4, 3))
    for options in ({}, {"semantics": "float32"}, {"local": True}):
        ours = lip.certificates.certify(model, x, **options)
        theirs = lip.certificates.certify(bare, x, **options)
        np.testing.assert_allclose(ours.radius, theirs.radius, rtol=1e-8)


def test_integers_become_floats():
    model = classifier(layers.RandomFlip(), layers.RandomZoom(0.5), dtype="uint8")
    assert lip.bounds.lipschitz_bound(model).value <= 0.5 * (1 + 1e-6)
    x = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3)).astype("uint8")
    assert (lip.certificates.certify(model, x).radius > 0).all()


def test_what_resizes_is_no_identity():
    with pytest.warns(UserWarning, match="not a 1-Lipschitz layer"):
        model = classifier(layers.RandomCrop(2, 2))
    with pytest.raises(ValueError, match="RandomCrop"):
        lip.bounds.lipschitz_bound(model)


def test_a_shift_of_pixels_warns_of_nothing():
    """`Rescaling(1, -0.5)`, which centers images, is 1-Lipschitz without rounding."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = lip.Sequential([keras.Input((4, 4, 3)), layers.Rescaling(1.0, -0.5)])
    assert lip.bounds.lipschitz_bound(model).value == 1.0
