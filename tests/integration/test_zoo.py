"""The networks that come with the package: they load, and what their cards say is proven again."""

import math
import os
from pathlib import Path

import keras
import numpy as np
import pytest

from deel_lip_tf import bounds, certificates, zoo

FILES = {"mnist": "mnist_10k.npz", "cifar10": "cifar10_jpeg.npz"}
DATA = Path(os.environ.get("DEEL_LIP_TF_DATA", ""))


def test_the_networks_are_those_that_have_cards():
    assert zoo.names() == tuple(sorted(FILES))


@pytest.mark.parametrize("name", zoo.names())
def test_the_constant_of_a_card_is_proven_of_its_network(name):
    model, card = zoo.load(name), zoo.card(name)
    assert bounds.lipschitz_bound(model).value <= card["constant"] * (1 + 1e-12)
    assert card["constant"] <= 1 + 1e-6
    shares = [card["clean"], *(share for _, share in sorted(card["certified"].items()))]
    assert all(0 < share < 1 for share in shares)
    assert max(card["certified"].values()) < card["clean"]


@pytest.mark.parametrize("name", zoo.names())
def test_a_network_and_its_export_have_the_same_outputs(name):
    model = zoo.load(name)
    x = np.random.default_rng(0).random((4, *model.input_shape[1:]), "float32")
    exported = model.vanilla_export()
    assert type(exported) is not type(model) and isinstance(exported, keras.Model)
    assert np.allclose(model.predict(x, verbose=0), exported.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("name", zoo.names())
def test_no_step_of_an_attack_goes_further_than_the_constant(name):
    model = zoo.load(name)
    rng = np.random.default_rng(1)
    x = rng.random((64, *model.input_shape[1:]), "float32")
    moved = x + 0.1 * rng.normal(size=x.shape).astype("float32")
    distance = np.linalg.norm((moved - x).reshape(64, -1).astype("float64"), axis=1)
    outputs = [model.predict(points, verbose=0).astype("float64") for points in (x, moved)]
    change = np.linalg.norm(outputs[1] - outputs[0], axis=1)
    assert np.all(change <= distance * zoo.card(name)["constant"] + 1e-4)


def test_an_unknown_name_is_answered_with_those_that_there_are():
    with pytest.raises(ValueError, match="cifar10, mnist.*Received: name='imagenet'"):
        zoo.load("imagenet")


@pytest.mark.slow
@pytest.mark.skipif(not DATA.name, reason="DEEL_LIP_TF_DATA names no folder of images")
def test_the_figures_of_a_card_are_proven_again():
    card = zoo.card("mnist")
    with np.load(DATA / FILES["mnist"]) as stored:
        x, y = stored["x_test"].astype("float32")[..., None] / 255, stored["y_test"]
    found = certificates.certify(zoo.load("mnist"), x.reshape(-1, 28, 28, 1), y)
    radii = [0.0, *map(float, card["certified"])]
    shares = found.certified_accuracy(radii)
    for share, said in zip(shares, [card["clean"], *card["certified"].values()], strict=True):
        assert math.isclose(share, said, abs_tol=5e-4)
