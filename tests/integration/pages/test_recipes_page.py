"""The page of recipes: its code runs and learns, and its table says what the cards say."""

import re

import pytest

from deel_lip_tf import zoo
from tests._oracles.sources import SOURCE, WITHOUT_SOURCE

PATH = SOURCE / "docs" / "recipes.md"
if not PATH.exists():
    pytest.skip(WITHOUT_SOURCE, allow_module_level=True)
PAGE = PATH.read_text(encoding="utf-8")


def test_the_code_runs_and_certifies(capsys):
    namespace = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, PATH.name, "exec"), namespace)
    clean, certified = map(float, re.findall(r"\[([\d.]+) +([\d.]+)\]", capsys.readouterr().out)[0])
    assert clean > 0.9 and certified > 0.7


@pytest.mark.parametrize("name", zoo.names())
def test_the_table_says_what_the_card_says(name):
    card = zoo.card(name)
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{card['recipe']}`"))
    shares = [float(text) for text in re.findall(r"([\d.]+) %", row)]
    for share, said in zip([card["clean"], *card["certified"].values()], shares, strict=True):
        assert abs(100 * share - said) <= 0.06
