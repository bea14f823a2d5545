"""The page on soundness names tests: each of them exists."""

import ast
import re
from pathlib import Path

import pytest

from tests._oracles.sources import SOURCE, WITHOUT_SOURCE

PAGE = SOURCE / "docs" / "soundness.md"
TESTS = SOURCE / "tests"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason=WITHOUT_SOURCE)


def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_exists():
    named = re.findall(r"`tests/([\w/]+\.py)::(\w+)`", text())
    assert len(named) > 40
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (SOURCE / "tests" / file).exists()
        or name not in functions_of(SOURCE / "tests" / file)
    ]
    assert missing == []


def test_every_rule_is_attacked_by_a_test():
    sections = re.split(r"^### ", text().split("## What is not promised")[0], flags=re.MULTILINE)
    for section in sections[1:]:
        assert re.search(r"`tests/([\w/]+\.py)::\w+`", section), section.splitlines()[0]


def test_every_link_leads_to_a_section():
    titles = re.findall(r"^#+ (.+)$", text(), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(#([^)]+)\)", text())
    assert len(links) > 10 and set(links) <= anchors
