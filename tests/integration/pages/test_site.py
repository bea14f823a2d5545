"""The site: the code of its pages runs, its navigation and its reference are whole."""

import ast
import importlib
import json
import operator
import re
from pathlib import Path

import pytest

import deel_lip_tf
from deel_lip_tf import __main__ as command_line
from tests._oracles.sources import SOURCE, WITHOUT_SOURCE
from tests.integration.test_house import ROOMS

if not (SOURCE / "mkdocs.yml").exists():
    pytest.skip(WITHOUT_SOURCE, allow_module_level=True)

CONFIGURATION = (SOURCE / "mkdocs.yml").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(SOURCE / "docs").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((SOURCE / "docs").rglob("*.md"))
}
# Pages that have tests of their own.
ELSEWHERE = {"choosing.md", "migrating.md", "recipes.md", "verification.md"}
# Those that train a network on scikit-learn's digits.
ON_DIGITS = {"getting-started.md", "losses.md"}
NEEDS = {**dict.fromkeys(ON_DIGITS, "sklearn"), "deployment.md": "onnx"}
TAKE_LONG = {*ON_DIGITS, "deployment.md", "scaling.md"}
MESSAGES = "troubleshooting.md"


def blocks(text, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def with_code():
    names = [name for name in PAGES if blocks(PAGES[name]) and name not in {*ELSEWHERE, MESSAGES}]
    slow = pytest.mark.slow
    return [pytest.param(name, marks=slow if name in TAKE_LONG else ()) for name in names]


@pytest.mark.parametrize("name", with_code())
def test_the_code_of_a_page_runs(name, tmp_path, monkeypatch, capsys):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="needs the extra `test`")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in blocks(PAGES[name]):
        exec(compile(block, name, "exec"), namespace)
    printed = capsys.readouterr().out
    for said in re.findall(r"print\(.*\)  # (True|False|\[1\. 1\. 1\. 1\.\])$", PAGES[name], re.M):
        assert said in printed.splitlines(), said
    CLAIMS.get(name, lambda namespace: None)(namespace)


def more_accuracy_or_more_margin(namespace):
    wide, accurate = namespace["shares"].values()
    assert accurate[0] > wide[0] and wide[1] > 2 * accurate[1]


def nothing_inside_the_radius(namespace):
    assert namespace["certificate"].certified_accuracy(0) > 0.9
    assert namespace["found"][0.99] == 0 < namespace["found"][4]


def what_is_written_is_as_shown(namespace):
    (shown,) = (json.loads(block) for block in blocks(PAGES["deployment.md"], "json"))
    written = json.loads(Path("served/certificate.json").read_text(encoding="utf-8"))
    assert list(shown) == list(written)
    assert list(shown["layers"][0]) == list(written["layers"][0])


CLAIMS = {
    "losses.md": more_accuracy_or_more_margin,
    "getting-started.md": nothing_inside_the_radius,
    "deployment.md": what_is_written_is_as_shown,
}


# --- troubleshooting ----------------------------------------------------------------------------

FIRST, *ENTRIES = re.split(r"^### ", PAGES[MESSAGES], flags=re.MULTILINE)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.splitlines()[0])
def test_the_code_of_an_entry_meets_its_message(entry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    (setting,), (code,) = blocks(FIRST), blocks(entry)
    exec(setting, namespace)
    with pytest.raises((ValueError, TypeError, UserWarning), match=re.escape(title(entry))):
        exec(compile(code, MESSAGES, "exec"), namespace)


def title(entry):
    return entry.splitlines()[0]


# --- navigation, commands, reference --------------------------------------------------------------


def test_the_navigation_names_pages_that_exist():
    """`docs/hooks.py` adds those that it does not name."""
    listed = re.findall(r"[\w/-]+\.md", CONFIGURATION.split("\nnav:")[1].split("\n\n")[0])
    assert len(listed) == len(set(listed)) > 20
    assert [name for name in listed if name not in PAGES] == []


def test_every_command_that_is_shown_exists(capsys):
    shown = [block for text in PAGES.values() for block in blocks(text, "bash")]
    inline = re.findall(r"`(python -m deel_lip_tf [^`]+)`", "\n".join(PAGES.values()))
    commands = re.findall(r"-m deel_lip_tf (\w+)", "\n".join([*shown, *inline]))
    assert {"quickstart", "hunt"} <= set(commands)
    for command in set(commands):
        with pytest.raises(SystemExit) as ended:
            command_line.main([command, "--help"])
        assert ended.value.code == 0


def made_where_they_are():
    """The rooms whose pages `docs/hooks.py` makes."""
    tree = ast.parse((SOURCE / "docs" / "hooks.py").read_text(encoding="utf-8"))
    named = {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}
    return ast.literal_eval(named["ROOMS"])


def test_the_reference_has_every_room():
    reference = "\n".join(text for name, text in PAGES.items() if name.startswith("reference/"))
    found = re.findall(r"^::: deel_lip_tf\.(\S+)$", reference, re.MULTILINE)
    second_names = {"activations", "certificate_metrics"}
    assert set(found) == {*ROOMS} - second_names - {*made_where_they_are()}
    assert [room for room in found if not importlib.import_module(f"deel_lip_tf.{room}")] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_name_of_the_library_that_is_shown_exists(name):
    shown = set(re.findall(r"\blip\.([a-z_]+(?:\.\w+)?)\b", PAGES[name]))
    assert [path for path in sorted(shown) if not is_there(path)] == []


def is_there(path):
    try:
        return operator.attrgetter(path)(deel_lip_tf) is not None
    except AttributeError:
        return False
