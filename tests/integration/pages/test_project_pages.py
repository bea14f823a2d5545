"""The pages for those who change the code: files, tests, tables and commands they name exist."""

import ast
import re

import pytest

import deel_lip_tf
from deel_lip_tf import __main__ as command_line
from deel_lip_tf.semantics.rule import Rule
from tests._oracles.sources import SOURCE, WITHOUT_SOURCE
from tests.integration.test_imports import ALLOWED

if not (SOURCE / "CONTRIBUTING.md").exists():
    pytest.skip(WITHOUT_SOURCE, allow_module_level=True)

PAGES = [SOURCE / "CONTRIBUTING.md", SOURCE / "SECURITY.md"]
PAGES += sorted((SOURCE / ".github").rglob("*.md"))
TEXT = {page.relative_to(SOURCE).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
GUIDE = TEXT["CONTRIBUTING.md"]
FOLDERS = r"(?:deel_lip_tf|tests|docs|benchmarks|notebooks|\.ci|\.github)/"

every_page = pytest.mark.parametrize("page", TEXT)


def top_level(path):
    """The names that a module defines at its top."""
    tree = ast.parse((SOURCE / path).read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if hasattr(node, "name")}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@every_page
def test_every_file_that_is_named_exists(page):
    named = re.findall(rf"`({FOLDERS}[\w./-]*)(?:::\w+)?`", TEXT[page])
    named += re.findall(r"\]\(([^)#:]+)\)", TEXT[page])
    named += re.findall(r"`(\.[\w-]+\.yaml)`", TEXT[page])
    assert [name for name in named if not (SOURCE / name).exists()] == []


@every_page
def test_every_test_that_is_named_exists(page):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT[page])
    assert [pair for pair in named if pair[1] not in top_level(pair[0])] == []


def test_every_table_that_is_named_exists():
    """`NAME` and `NAME` of `file.py`, as the guide writes them."""
    named = re.findall(rf"((?:`_?[A-Z_]+`(?:, | and )?)+) of\s`({FOLDERS}\S+\.py)`", GUIDE)
    pairs = [(path, name) for names, path in named for name in re.findall(r"`(\w+)`", names)]
    assert len(pairs) > 1
    assert [pair for pair in pairs if pair[1] not in top_level(pair[0])] == []


def test_the_map_has_every_room():
    table = GUIDE.split("| room |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == {
        *(room.split(".")[0] for room in ALLOWED),
        "_registration",
    }


@every_page
def test_every_command_that_is_named_exists(page):
    extras = (SOURCE / "setup.cfg").read_text(encoding="utf-8")
    for module, arguments in re.findall(r"python -m ([\w.]+)([^`&\n]*)", TEXT[page]):
        if module == "deel_lip_tf":
            with pytest.raises(SystemExit) as ended:
                command_line.main([arguments.split()[0], "--help"])
            assert ended.value.code == 0, arguments
        elif module.startswith("tests."):
            assert (SOURCE / module.replace(".", "/")).is_dir(), module
            source = (SOURCE / module.replace(".", "/") / "command.py").read_text(encoding="utf-8")
            missing = [o for o in re.findall(r"--\w+", arguments) if f'"{o}"' not in source]
            assert missing == [], module
        elif module != "pip":
            assert re.search(rf"^    {module}$", extras, re.MULTILINE), module


def test_the_code_that_is_shown_stands_in_the_package():
    sources = [path.read_text(encoding="utf-8") for path in SOURCE.glob("deel_lip_tf/**/*.py")]
    shown = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(shown) == 2
    assert [code for code in shown if not any(code in source for source in sources)] == []


def test_the_questions_that_are_named_are_those_that_rules_answer():
    table = GUIDE.split("| method or attribute |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row)}
    answered = {name for name in vars(Rule) if not name.startswith("_")}
    assert named == answered - {"knows", "call_operator"}


def test_the_citation_is_of_this_version():
    citation = (SOURCE / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [deel_lip_tf.__version__]
