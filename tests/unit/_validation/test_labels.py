"""Labels in every encoding: one reading for certificates, for verification and for metrics."""

import keras
import numpy as np
import pytest

from deel_lip_tf import metrics, verify
from deel_lip_tf._validation.labels import class_mask, true_classes
from deel_lip_tf.certificates import certify

CLASSES = np.array([2, 0, 1, 2])
ROWS = np.eye(3)[CLASSES]
# what Keras's users give, as arrays of the type that is asked for
ENCODINGS = {
    "classes": CLASSES,
    "column": CLASSES[:, None],
    "list": CLASSES.tolist(),
    "one-hot": ROWS,
    "signed": 2 * ROWS - 1,
    "smoothed": 0.9 * ROWS + 0.1 / 3,
    "probabilities": np.array([[0.3, 0.3, 0.4], [1, 0, 0], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7]]),
    "scores": np.array([[1.0, -4, 7], [3, 2, 1], [-1, 9, 8], [0, 0, 1e-3]]),
}


def bfloat16(values):
    return keras.ops.convert_to_numpy(keras.ops.cast(values, "bfloat16"))


TYPES = ["int8", "uint8", "int64", "float16", "float32", "float64"]
FRACTIONS = ("smoothed", "probabilities", "scores")
ARRAYS = {name: np.asarray(value) for name, value in ENCODINGS.items()}
ARRAYS |= {
    f"{name} {dtype}": np.asarray(ENCODINGS[name], dtype)
    for name in ("classes", "column", "one-hot")
    for dtype in TYPES
}
ARRAYS |= {"one-hot bool": ROWS.astype(bool), "bfloat16": bfloat16(ROWS)}
ARRAYS |= {"column bfloat16": bfloat16(CLASSES[:, None])}

# Of three classes: the first of two labels names none, the second one the class 1.
WITHOUT_CLASS = {
    "3 of three classes": [3, 1],
    "negative": [-1, 1],
    "fraction": [0.5, 1],
    "column": [[7], [1]],
    "beyond int32": [2**32, 1],
    "no class": [[0, 0, 0], [0, 1, 0]],
    "two classes": [[1, 0, 1], [0, 1, 0]],
    "undecided": [[0.2, 0.4, 0.4], [0, 1, 0]],
    "all -1": [[-1, -1, -1], [-1, 1, -1]],
    "booleans, two": [[True, True, False], [False, True, False]],
}
NOT_FINITE = {"NaN class": [np.nan, 1], "NaN in a row": [[np.nan, 1, 0], [0, 1, 0]]}


@pytest.mark.parametrize("name", ARRAYS)
def test_every_encoding_names_the_same_classes(name):
    found = true_classes(ARRAYS[name], 4, 3)
    assert found.tolist() == CLASSES.tolist() and found.dtype.kind == "i"


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("traced", [False, True])
def test_tensors_are_read_as_arrays_are(name, traced, tf):
    columns = ARRAYS[name] if ARRAYS[name].ndim == 2 else ARRAYS[name][:, None]
    read = tf.function(class_mask) if traced else class_mask
    mask = np.asarray(read(tf.convert_to_tensor(columns), 3))
    assert mask.dtype == bool and (mask == (ROWS == 1)).all()


@pytest.mark.parametrize("name", WITHOUT_CLASS)
def test_what_names_no_class_is_refused_where_an_answer_is_given(name):
    y = WITHOUT_CLASS[name]
    with pytest.raises(ValueError, match="`y` must .*Received"):
        true_classes(y, 2, 3)
    model = identity(3)
    with pytest.raises(ValueError, match="`y` must .*Received"):
        certify(model, np.eye(3)[:2], y)
    with pytest.raises(ValueError, match="`y` must .*Received"):
        verify.robustness(model, np.eye(3)[:2], y, 0.1, method="ibp")


@pytest.mark.parametrize("name", [*WITHOUT_CLASS, *NOT_FINITE])
def test_what_names_no_class_certifies_nothing_in_a_metric(name, tf):
    """Whichever class wins. The other sample tells that the metric does certify."""
    y = tf.constant({**WITHOUT_CLASS, **NOT_FINITE}[name])
    measure = metrics.CategoricalProvableRobustAccuracy(0.1)
    value = tf.function(lambda labels, scores: measure(labels, scores))
    for winner in range(3):
        measure.reset_state()
        scores = 10 * np.eye(3, dtype="float32")[[winner, 1]]
        assert float(value(y, scores)) == 0.5


@pytest.mark.parametrize("name", NOT_FINITE)
def test_nan_is_refused_where_it_is_seen(name):
    y = NOT_FINITE[name]
    with pytest.raises(ValueError, match="finite.*nan in 1 of"):
        true_classes(y, 2, 3)
    with pytest.raises(ValueError, match="must not hold NaN"):
        metrics.CategoricalProvableRobustAccuracy(0.1)(np.array(y), np.eye(3)[:2])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_many_classes_in_a_short_type_are_still_one(dtype, tf):
    """2049 is no number of float16, nor 257 one of bfloat16: they are not taken for a second."""
    largest = {"float16": 2048, "bfloat16": 256}[dtype]
    labels = tf.cast([[float(largest)], [3.0]], dtype)
    mask = np.asarray(class_mask(labels, largest + 2))
    assert mask.sum(axis=1).tolist() == [1, 1] and mask.argmax(axis=1).tolist() == [largest, 3]
    assert true_classes(labels.numpy(), 2, largest + 2).tolist() == [largest, 3]


def test_more_classes_than_a_short_integer_has(tf):
    labels = np.array([[255], [44]], "uint8")
    assert true_classes(labels, 2, 300).tolist() == [255, 44]
    assert np.asarray(class_mask(tf.constant(labels), 300)).sum(axis=1).tolist() == [1, 1]


def identity(outputs):
    model = keras.Sequential([keras.Input((outputs,)), keras.layers.Dense(outputs)])
    model.layers[0].set_weights([np.eye(outputs), np.zeros(outputs)])
    return model


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("labels", [[1, 0, 1], [1, -1, 1], [True, False, True], [1.0, -1.0, 1.0]])
def test_a_single_output_has_two_codings(labels, shape):
    y, x = np.reshape(labels, shape), np.array([[2.0], [-3.0], [-1.0]])
    assert true_classes(y, 3, 1).tolist() == [1, 0, 1]
    model = identity(1)
    assert (certify(model, x, y).radius > 0).tolist() == [True, True, False]
    answer = verify.robustness(model, x, y, 0.5, clip=None, method="ibp").status
    assert answer.tolist() == ["robust", "robust", "falsified"]


@pytest.mark.parametrize("y", [[-1, 0, 1], [0, 1, 2], [-1, 1, 3], [0.5, 1, 0], [-2, 1, 1]])
def test_of_a_single_output_codings_are_not_mixed(y):
    with pytest.raises(ValueError, match="classes 0 to 1, or -1 and 1. Received"):
        true_classes(y, 3, 1)


@pytest.mark.parametrize(
    "y", [[0, 1], np.ones((4, 2)), np.ones((4, 3, 1)), np.ones((1, 4)), "abc", [None] * 4, 2]
)
def test_other_shapes_and_types_are_refused(y):
    with pytest.raises(ValueError, match="`y` must hold the labels of 4 samples.*Received"):
        true_classes(y, 4, 3)


def test_no_samples_have_no_classes():
    assert true_classes(np.zeros((0, 3)), 0, 3).shape == (0,)
    assert true_classes([], 0, 3).shape == (0,)
