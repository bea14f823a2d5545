"""Files that lack what a loss has learned, or hold what it cannot have: said, once."""

import h5py
import keras
import numpy as np
import pytest

import deel_lip_tf as lip


def network(loss):
    keras.utils.set_random_seed(0)
    learns = hasattr(loss, "get_trainable_variables")
    model = (lip.LossVariableSequential if learns else lip.Sequential)(
        [keras.Input((4,)), lip.layers.FrobeniusDense(3)]
    )
    model.compile("sgd", loss, run_eagerly=True)
    return model


LEARNED = {
    "hinge_margins": (lambda: lip.losses.MulticlassHKRauto(alpha=10.0, max_margin=5.0), "margins"),
    "running_mean": (lip.losses.MulticlassSoftHKR, "running mean"),
}


def value_of(loss):
    return np.asarray(loss.running_mean if hasattr(loss, "running_mean") else loss.hinge_margins)


@pytest.fixture(params=LEARNED)
def name(request):
    return request.param


@pytest.fixture
def path(name, tmp_path):
    """Weights as they are saved by the compiled model."""
    path = tmp_path / "model.weights.h5"
    network(LEARNED[name][0]()).save_weights(path)
    return path


def rewritten(path, name, value):
    """The file, with another number in the place of what was learned, or without it."""
    with h5py.File(path, "r+") as file:
        found = []
        file.visit(lambda place: found.append(place) if place.endswith(name) else None)
        [place] = found
        if value is None:
            del file[place]
        else:
            file[place][...] = value


@pytest.mark.parametrize("value", [None, np.nan, -1.0, np.inf])
def test_what_is_missing_or_out_of_range_is_said(name, value, path):
    make, what = LEARNED[name]
    rewritten(path, name, value)
    model = network(make())
    before = value_of(model.loss)
    fault = "has no .*" if value is None else "has, out of .* range, the "
    with pytest.warns(UserWarning, match=f"The file {fault}{what}.*Load a file of the compiled"):
        model.load_weights(path)
    np.testing.assert_array_equal(
        value_of(model.loss), before if value is None else 0 * before + value
    )


def test_a_whole_file_is_read_without_a_word(name, path):
    model = network(LEARNED[name][0]())
    model.load_weights(path)
    assert np.isfinite(value_of(model.loss)).all()


def test_margins_of_other_outputs_are_refused():
    loss = LEARNED["hinge_margins"][0]()
    loss.build(2)
    with pytest.raises(ValueError, match="has learned the margins of 2 outputs: use a new loss"):
        loss.load_own_variables({"hinge_margins": np.ones(3)})


UNFIT = {
    "cut off": (OSError, lambda content: content[: len(content) // 2]),
    "empty": (OSError, lambda content: b""),
    "foreign": (OSError, lambda content: b"other" * 99),
    "mismatched": (ValueError, None),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_a_file_of_weights_that_does_not_fit_is_refused_with_what_to_do(fault, tmp_path):
    error, spoil = UNFIT[fault]
    path = tmp_path / "model.weights.h5"
    model = lip.Sequential([keras.Input((4,)), lip.layers.FrobeniusDense(3)])
    model.save_weights(path)
    before = model.get_weights()
    if spoil:
        path.write_bytes(spoil(path.read_bytes()))
    else:
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    with pytest.raises(error, match="same layers in the same order.*model.weights.h5.*SafeBackup"):
        model.load_weights(path)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
