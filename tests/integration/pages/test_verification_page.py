"""The page about verification: what it shows runs, what it names exists."""

import re

import pytest

from deel_lip_tf import verify
from deel_lip_tf.cli.verify import EXIT_CODES
from deel_lip_tf.verify import decomon, figures
from deel_lip_tf.verify.methods import METHODS
from tests._oracles.sources import SOURCE, WITHOUT_SOURCE

PATH = SOURCE / "docs" / "verification.md"
if not PATH.exists():
    pytest.skip(WITHOUT_SOURCE, allow_module_level=True)
PAGE = PATH.read_text(encoding="utf-8")
ROOMS = {"verify": verify, "figures": figures, "decomon": decomon}


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, namespace)
    assert "ibp" in capsys.readouterr().out
    proof, refutation = namespace["proof"], namespace["refutation"]
    assert not ((proof < 0) & (refutation >= 0)).any()


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_the_page_exists(room):
    for name in set(re.findall(rf"\b{room}\.(\w+)\(", PAGE)) | set(
        re.findall(rf"`{room}\.(\w+)`", PAGE)
    ):
        assert hasattr(ROOMS[room], name), name


def test_the_tables_of_the_page_are_complete():
    for method in METHODS:
        assert f"| `{method}` |" in PAGE
    for name in {*decomon.__all__} - {"Converted", "METHODS_BY_NAME", "models"}:
        assert f"`{name}`" in PAGE or f"decomon.{name}(" in PAGE
    for name, code in EXIT_CODES.items():
        assert f"| {code} | `{name}`" in PAGE
