"""The page for those who begin: its code runs, and its losses have the parameters it explains."""

import inspect
import re

import pytest

from deel_lip_tf import losses
from tests._oracles.sources import SOURCE, WITHOUT_SOURCE

PATH = SOURCE / "docs" / "choosing.md"
if not PATH.exists():
    pytest.skip(WITHOUT_SOURCE, allow_module_level=True)
PAGE = PATH.read_text(encoding="utf-8")


def test_the_code_runs_and_shows_the_price_of_robustness(capsys):
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, {})
    small, large = (
        [float(share) for share in re.findall(r"([\d.]+)%", line)]
        for line in capsys.readouterr().out.splitlines()
    )
    assert min(small[0], large[0]) > 90  # both are right
    assert small[1] > large[1] + 10  # and one of them far from its borders


def test_the_parameters_are_those_of_the_losses():
    """`Loss(first, second)` names arguments; so does the second column of the table."""
    calls = re.findall(r"`([A-Z]\w+)\((\w+(?:, \w+)*)\)`", PAGE)
    assert len(calls) > 4
    for loss, names in calls:
        if hasattr(losses, loss):
            arguments = inspect.signature(getattr(losses, loss)).parameters
            assert set(names.split(", ")) <= set(arguments), loss
