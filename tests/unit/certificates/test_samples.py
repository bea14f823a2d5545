"""`certify` on data sets, as `evaluate` takes them: what arrays give, they give."""

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf.certificates import certify


@pytest.fixture
def model():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, activation="relu"), layers.Dense(3)]
    )


@pytest.fixture
def data(rng):
    return rng.normal(size=(11, 4)).astype("float32"), rng.integers(0, 3, 11)


def of_tensorflow(*arrays):
    import tensorflow as tf

    arrays = arrays[0] if len(arrays) == 1 else arrays
    return tf.data.Dataset.from_tensor_slices(arrays).batch(4)


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays, count=3):
        super().__init__()
        self.arrays, self.count = arrays, count

    @property
    def num_batches(self):
        return self.count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        parts = tuple(array[4 * index : 4 * index + 4] for array in self.arrays)
        return parts if len(parts) > 1 else parts[0]


class Loader:
    """Lists of arrays, as torch's `DataLoader` gives lists of tensors."""

    def __init__(self, *arrays):
        self.arrays = arrays

    def __iter__(self):
        return ([array[i : i + 4] for array in self.arrays] for i in range(0, 11, 4))


def generated(*arrays):
    yield from (tuple(array[i : i + 4] for array in arrays) for i in range(0, 11, 4))


KINDS = {"tf.data": of_tensorflow, "PyDataset": Batches, "loader": Loader, "generator": generated}


def assert_same(found, wanted):
    for name in ("label", "radius", "margin", "correct"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.bound == wanted.bound
    assert found.data_fingerprint == wanted.data_fingerprint


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_data_sets_give_what_arrays_give(kind, local, model, data):
    x, y = data
    make = KINDS[kind]
    # The last bit of a local radius depends on what is computed together: there the same batches.
    options = {"local": local, "batch_size": 4 if local else 3}
    assert_same(certify(model, make(x, y), **options), certify(model, x, y, **options))
    assert_same(certify(model, make(x), **options), certify(model, x, **options))
    weights = np.arange(11.0)
    assert_same(certify(model, make(x, y, weights), **options), certify(model, x, y, **options))


@pytest.mark.parametrize("form", [lambda y: np.eye(3)[y], lambda y: y[:, None]])
def test_labels_in_other_forms(form, model, data):
    x, y = data
    assert_same(certify(model, of_tensorflow(x, form(y))), certify(model, x, y))


def test_signed_labels_are_those_of_all_batches(data):
    """The first batch holds no -1."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    x, y = data[0], np.array([1] * 5 + [-1] * 6)
    found = certify(model, Loader(x, y))
    assert set(found.label) <= {-1, 1}
    assert_same(found, certify(model, x, y))


def endless():
    while True:
        yield np.ones((2, 4))


def mistakes(x, y):
    half = [(x[:4], y[:4]), (x[4:],)]
    forms = [(x[:4], y[:4]), (x[4:], y[4:, None])]
    return {
        "labels twice": (of_tensorflow(x, y), y, "`y` must be left out"),
        "repeated": (of_tensorflow(x, y).repeat(), None, "`x` must end"),
        "endless": (Batches(x, count=None), None, "`x` must end"),
        "empty": (iter(()), None, "must hold samples"),
        "not batched": (of_tensorflow(x).unbatch(), None, "`x` must have the shape"),
        "labels of other length": (iter([(x, y[:3])]), None, "`y` must"),
        "no class": (iter([(x, y + 7)]), None, "`y` must hold classes"),
        "labels in one batch": (iter(half), None, "labels in 1 of 2"),
        "labels in two forms": (iter(forms), None, "labels of one form"),
        "four parts": (iter([(x, y, y, y)]), None, "4 parts"),
        "no parts": (iter([()]), None, "0 parts"),
    }


@pytest.mark.parametrize("name", list(mistakes(np.ones((11, 4)), np.ones(11, int))))
def test_data_sets_that_do_not_fit_are_refused(name, model, data):
    batches, y, words = mistakes(*data)[name]
    with pytest.raises(ValueError, match=words):
        certify(model, batches, y)


@pytest.mark.parametrize(
    "y", [[0.0, np.nan, 1.0], [0, 1, np.inf], np.full((3, 1), np.nan), np.full((3, 3), np.nan)]
)
def test_labels_that_are_not_numbers_are_refused(y, model):
    with pytest.raises(ValueError, match="`y` must hold finite numbers.*(nan|inf)"):
        certify(model, np.ones((3, 4)), y)
