"""Where tests stand, and that each of them can fail."""

import ast
from pathlib import Path

import pytest

import deel_lip_tf

PACKAGE = Path(deel_lip_tf.__file__).parent
TESTS = Path(__file__).parents[1]
FILES = {path.relative_to(TESTS).as_posix(): path for path in sorted(TESTS.rglob("*.py"))}
ROOMS = {"unit", "properties", "regression", "integration"}


def test_every_test_is_in_a_room():
    tests = {name for name, path in FILES.items() if path.name.startswith("test_")}
    assert len(tests) > 70
    assert {name for name in tests if name.split("/")[0] not in ROOMS} == set()


def mirrored(name):
    """The module or package that a file of `unit` is about: where it stands says which."""
    path = Path(name).relative_to("unit")
    return PACKAGE / path.with_name(path.name.removeprefix("test_"))


def test_every_unit_test_stands_where_its_module_stands():
    tests = [name for name in FILES if name.startswith("unit/") and "/test_" in name]
    found = {name: mirrored(name) for name in tests}
    astray = [
        name
        for name, module in found.items()
        if not module.exists() and not (module.with_suffix("") / "__init__.py").exists()
    ]
    assert astray == []


def test_no_folder_grows_beyond_a_glance():
    counts: dict[str, int] = {}
    for name, path in FILES.items():
        folder = Path(name).parent.as_posix()
        counts[folder] = counts.get(folder, 0) + (path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > 12} == {}


def test_every_folder_is_a_package():
    """Otherwise two files of one name are one module, and the helpers cannot be imported."""
    folders = {path.parent for path in FILES.values()}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


# --- tests that can fail ------------------------------------------------------------------------

CHECKS = ("raises", "warns", "fail", "simplefilter")


def called(node):
    """The names of all functions that are called in it, without where they come from."""
    calls = [inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return {getattr(call, "attr", getattr(call, "id", "")) for call in calls}


def checks(function):
    """Whether something in it can fail on purpose."""
    if any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(function)):
        return True
    return any(name in CHECKS or name.startswith("assert_") for name in called(function))


def unchecked(source):
    """Tests that check nothing themselves, nor by a function of the same file."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    checking = {function.name for function in functions if checks(function)}
    tests = {f.name: f for f in functions if f.name.startswith("test_")}
    return [n for n, f in tests.items() if n not in checking and not called(f) & checking]


@pytest.mark.parametrize("name", [name for name in FILES if "/test_" in name])
def test_every_test_can_fail(name):
    assert unchecked(FILES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def test_a():\n    f()", ["test_a"]),
        ("def f():\n    pass\ndef test_a():\n    f()", ["test_a"]),
        ("def test_a():\n    assert f()", []),
        ("def test_a():\n    with pytest.raises(ValueError):\n        f()", []),
        ("def test_a():\n    np.testing.assert_allclose(f(), 1)", []),
        ("def check():\n    assert f()\ndef test_a():\n    check()", []),
    ],
)
def test_a_test_that_cannot_fail_is_found(source, found):
    assert unchecked(source) == found
