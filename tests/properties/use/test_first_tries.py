"""What somebody tries who has not read a page: it works, or the error says what to write.

Rows of `HANDLED` do what was meant, those of `REFUSED` are refused in words that name the way out.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import deel_lip_tf as lip
from deel_lip_tf import layers, losses

SHAPE, CLASSES = (6, 6, 1), 3
X = np.random.default_rng(0).random((4, *SHAPE)).astype("float32")
Y = np.array([0, 1, 2, 0])
ROWS = keras.utils.to_categorical(Y, CLASSES)
SIGNS = np.array([[1.0], [-1.0], [1.0], [-1.0]])
SCORES = np.array([[1.5, -0.2, 0.3], [0.1, 2.5, -1.0], [0.0, 0.5, 1.75], [3.25, 0.1, 0.2]])


@pytest.fixture(scope="module")
def model():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(2, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES),
        ]
    )


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[2 * index : 2 * index + 2], Y[2 * index : 2 * index + 2]


def of_tensorflow():
    return tf.data.Dataset.from_tensor_slices((X, Y))


SAME_CERTIFICATES = {
    "labels as floats": lambda model: lip.certify(model, X, Y.astype("float64")),
    "labels as a column": lambda model: lip.certify(model, X, Y[:, None]),
    "labels as rows": lambda model: lip.certify(model, X, ROWS),
    "labels as a list": lambda model: lip.certify(model, X, Y.tolist()),
    "samples as a list": lambda model: lip.certify(model, X.tolist(), Y),
    "samples as a tensor": lambda model: lip.certify(model, tf.constant(X), tf.constant(Y)),
    "a tf.data.Dataset": lambda model: lip.certify(model, of_tensorflow().batch(3)),
    "a PyDataset": lambda model: lip.certify(model, Batches()),
    "a generator": lambda model: lip.certify(
        model, ((X[i : i + 1], Y[i : i + 1]) for i in range(4))
    ),
    "a list iterator": lambda model: lip.certify(model, iter([(X, Y)])),
}


@pytest.mark.parametrize("name", SAME_CERTIFICATES)
def test_the_same_samples_have_the_same_certificates(name, model):
    expected, found = lip.certify(model, X, Y), SAME_CERTIFICATES[name](model)
    np.testing.assert_allclose(found.radius, expected.radius, rtol=1e-12)  # batches round apart
    np.testing.assert_array_equal(found.correct, expected.correct)
    assert (found.radius > 0).any()


HANDLED = {
    "a number as text": (lambda: layers.SpectralDense(3, k_coef_lip="0.5").k_coef_lip, 0.5),
    "tau as text": (lambda: losses.TauCategoricalCrossentropy("0.1").get_config()["tau"], 0.1),
    "a padding of PyTorch": (lambda: layers.SpectralConv2D(3, 3, padding="SAME").padding, "same"),
    "a padding in capitals": (
        lambda: layers.SpectralConv2D(3, 3, padding="Circular").padding,
        "circular",
    ),
    "a NumPy integer": (lambda: layers.SpectralDense(np.int64(3)).units, 3),
    "an order in capitals": (
        lambda: layers.SpectralConv2D(3, 3, data_format="Channels_Last").data_format,
        "channels_last",
    ),
    "classes as floats": (
        lambda: float(losses.TauSparseCategoricalCrossentropy(1.0)(Y.astype("float32"), SCORES)),
        float(losses.TauSparseCategoricalCrossentropy(1.0)(Y, SCORES)),
    ),
    "rows as integers": (
        lambda: float(losses.MulticlassHKR()(ROWS.astype("int64"), SCORES)),
        float(losses.MulticlassHKR()(ROWS, SCORES)),
    ),
}


@pytest.mark.parametrize("name", HANDLED)
def test_what_is_meant_is_done(name):
    make, expected = HANDLED[name]
    assert make() == expected


OF_SAMPLES = {
    "one image": (lambda model: lip.certify(model, X[0]), "without its batch axis: give `x[None]`"),
    "one image without channel": (
        lambda model: lip.certify(model, X[0, ..., 0]),
        "give `x[None, ..., None]`",
    ),
    "images without channel": (
        lambda model: lip.certify(model, X[..., 0]),
        "channel axis is missing: give `x[..., None]`",
    ),
    "flattened images": (
        lambda model: lip.certify(model, X.reshape(4, -1)),
        "give `x.reshape(-1, 6, 6, 1)`",
    ),
    "channels first": (
        lambda model: lip.certify(model, np.moveaxis(X, -1, 1)),
        "give `np.moveaxis(x, 1, -1)`",
    ),
    "labels for samples": (lambda model: lip.certify(model, Y, X), "give them as `y`"),
    "a data set of single samples": (
        lambda model: lip.certify(model, of_tensorflow()),
        "`data.batch(32)`",
    ),
    "an endless data set": (
        lambda model: lip.certify(model, of_tensorflow().batch(2).repeat()),
        "`x.take(steps)`",
    ),
    "labels beside a data set": (
        lambda model: lip.certify(model, of_tensorflow().batch(2), Y),
        "`y` must be left out",
    ),
    "a function that makes data": (
        lambda model: lip.certify(model, lambda: (X, Y)),
        "what the function returns",
    ),
    "a file name": (lambda model: lip.certify(model, "x.npy"), "of str"),
    "nothing": (lambda model: lip.certify(model, None), "of NoneType"),
    "arguments swapped": (lambda model: lip.certify(X, model), "`model` must be a Keras model"),
    "a label for one sample": (lambda model: lip.certify(model, X[:1], 0), "shape (1,)"),
    "labels from 1": (lambda model: lip.certify(model, X, Y + 1), "classes 0 to 2"),
    "labels as text": (lambda model: lip.certify(model, X, list("0120")), "dtype <U1"),
    "halves of labels": (lambda model: lip.certify(model, X, Y + 0.5), "classes 0 to 2"),
    "one image to verify": (
        lambda model: lip.verify.robustness(model, X[0], 0, eps=0.1),
        "a single sample is `x[None]`",
    ),
    "images of bytes to verify": (
        lambda model: lip.verify.robustness(model, 255 * X, Y, eps=0.1),
        "Pass the range of your data",
    ),
    "a norm of NumPy": (
        lambda model: lip.verify.robustness(model, X, Y, eps=0.1, norm=np.inf),
        "one of linf, l2, l1",
    ),
    "one image to estimate": (
        lambda model: lip.utils.evaluate_lip_const(model, X[0]),
        "give `x[None]`",
    ),
}


@pytest.mark.parametrize("name", OF_SAMPLES)
def test_wrong_samples_are_refused_with_the_way_out(name, model):
    attempt, words = OF_SAMPLES[name]
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        attempt(model)


ORDER = "`loss(y_true, y_pred)`"
REFUSED = {
    "a size as text": (lambda: layers.SpectralDense("3"), "`units`"),
    "a size as a float": (lambda: layers.SpectralDense(3.0), "`units`"),
    "a kernel size as text": (lambda: layers.SpectralConv2D(3, "3"), "`kernel_size`"),
    "an order of PyTorch": (lambda: layers.SpectralConv2D(3, 3, data_format="NCHW"), "data_format"),
    "a misspelt padding": (lambda: layers.SpectralConv2D(3, 3, padding="samee"), "'circular'"),
    "a padding of poolings": (
        lambda: layers.ScaledAveragePooling2D(2, padding="SAME"),
        "Put a keras.layers.ZeroPadding2D before it",
    ),
    "a misspelt argument": (lambda: layers.SpectralDense(3, k_coef=1.0), "k_coef"),
    "swapped rows": (lambda: losses.MulticlassHKR()(SCORES, ROWS), ORDER),
    "swapped rows of -1 and 1": (lambda: losses.MulticlassKR()(SCORES, 2 * ROWS - 1), ORDER),
    "swapped tensors": (
        lambda: losses.TauCategoricalCrossentropy(1.0)(tf.constant(SCORES), tf.constant(ROWS)),
        ORDER,
    ),
    "swapped rows of a hinge": (lambda: losses.MulticlassHinge()(SCORES, ROWS), ORDER),
    "swapped rows of EMMA": (lambda: losses.EMMA(0.5)(SCORES, ROWS), ORDER),
    "swapped signs": (lambda: losses.KR()(SCORES[:, :1], SIGNS), ORDER),
    "swapped signs without columns": (lambda: losses.HKR(1.0)(SCORES[:, 0], SIGNS[:, 0]), ORDER),
    "swapped classes": (
        lambda: losses.TauSparseCategoricalCrossentropy(1.0)(SCORES, Y),
        "y_true.shape=(4, 3)",
    ),
    "classes for rows": (
        lambda: losses.TauCategoricalCrossentropy(1.0)(Y, SCORES),
        "keras.utils.to_categorical",
    ),
    "names of classes": (
        lambda: losses.MulticlassHKR()(np.array(list("abca")), SCORES),
        "return_inverse=True",
    ),
    "a layer that is not made": (
        lambda: lip.Sequential([keras.Input((2,)), layers.SpectralDense]),
        "Only instances",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused_with_the_way_out(name):
    attempt, words = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        attempt()


@pytest.mark.parametrize(
    ("y_true", "y_pred"),
    [
        (ROWS, SCORES),
        (ROWS, ROWS),
        (0.9 * ROWS + 0.1 / CLASSES, ROWS),  # smoothed labels, a network that answers 0 and 1
        (np.round(SCORES), ROWS),  # rows of another coding
        (SCORES, 0 * ROWS),  # a network that answers nothing yet
        (SCORES, SCORES),
    ],
)
def test_labels_of_any_coding_are_not_taken_for_scores(y_true, y_pred):
    assert np.isfinite(float(losses.MulticlassKR()(y_true, y_pred)))
