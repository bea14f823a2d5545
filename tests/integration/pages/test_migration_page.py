"""The page for users of deel-lip and torchlip: its names exist and its code runs."""

import operator
import re

import keras
import numpy as np
import pytest

import deel_lip_tf
from tests._oracles.sources import SOURCE, WITHOUT_SOURCE

PATH = SOURCE / "docs" / "migrating.md"
if not PATH.exists():
    pytest.skip(WITHOUT_SOURCE, allow_module_level=True)
PAGE = PATH.read_text(encoding="utf-8")
MENTIONED = sorted(set(re.findall(r"`lip\.([\w.]+)`", PAGE)))


def resolve(name):
    found = deel_lip_tf
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", MENTIONED)
def test_every_name_of_the_migration_page_exists(name):
    assert resolve(name) is not None


def test_every_layer_and_loss_is_on_the_migration_page():
    """A name that is added to the library is added to the page."""
    rooms = {"layers": deel_lip_tf.layers, "losses": deel_lip_tf.losses}
    public = {f"{room}.{name}" for room, module in rooms.items() for name in module.__all__}
    unknown_there = {"losses.ParametricLoss", "losses.alpha_from_torchlip"}
    aliases = {"losses.process_labels_for_multi_gpu"}
    assert public - unknown_there - aliases <= set(MENTIONED)


def test_the_code_of_the_migration_page_runs(capsys):
    namespace = {}
    with pytest.warns(UserWarning, match="not a 1-Lipschitz layer: batch_lip_norm"):
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(block, namespace)
    np.testing.assert_allclose(float(namespace["loss"].alpha), 99, rtol=1e-6)
    assert "spectral_conv2d" in capsys.readouterr().out


def cells(start):
    return next(line for line in PAGE.splitlines() if line.startswith(start)).split("|")[2:-1]


def test_the_alphas_of_the_migration_page():
    pairs = list(zip(cells("| torchlip's `a`"), cells("| `alpha` here"), strict=True))
    assert len(pairs) > 5
    for theirs, mine in pairs:
        converted = deel_lip_tf.losses.alpha_from_torchlip(float(theirs))
        np.testing.assert_allclose(converted, float(mine.strip(" `")), rtol=1e-3)


RENAMED = re.findall(r"^\| (.+?) \| (.+) \|$", PAGE.split("## From Keras 2 to Keras 3")[1], re.M)[
    2:
]


def keras_names(text):
    return [name.rstrip(".") for name in re.findall(r"\bkeras\.([\w.]+)", text) if name != "keras"]


def has(name):
    try:
        operator.attrgetter(name)(keras)
    except AttributeError:
        return False
    return True


def test_what_the_table_names_in_keras_3_is_there():
    now = [name for _, text in RENAMED for name in keras_names(text)]
    assert len(RENAMED) > 10 and len(now) > 6
    assert [name for name in now if not has(name)] == []


def test_what_it_says_has_gone_has_gone():
    gone = {"losses.Reduction.SUM", "backend.sum", "utils.np_utils.to_categorical"}
    assert gone <= {name for text, _ in RENAMED for name in keras_names(text)}
    assert [name for name in gone if has(name)] == []
