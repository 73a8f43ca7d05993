"""The arrows of the design: tui → recordings ← probes, and no others."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

LAYERS = {
    "recordings": {"recordings"},
    "probes": {"probes", "recordings"},
    "tui": {"tui", "recordings"},
}
# Who alone may import what.
OWNERS = {"textual": "tui", "bcc": "probes"}
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imports(source: str) -> Iterator[str]:
    """Each module that a source imports, at its top or anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, level=level):
                assert level == 0, "relative imports hide where they lead"
                yield module or ""
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="__import__"),
                          args=[ast.Constant(value=str(name)), *_]):  # fmt: skip
                yield name


def broken(layer: str, source: str) -> list[str]:
    """The imports that a file of this layer must not have."""
    tops = {name.partition(".")[0] for name in imports(source)}
    foreign = tops & set(LAYERS) - LAYERS[layer]
    return sorted(foreign | {top for top in tops if OWNERS.get(top, layer) != layer})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    assert broken(layer, path.read_text()) == []


def test_a_broken_arrow_would_be_seen() -> None:
    assert len(FILES) > 20
    assert broken("recordings", "import tui.app") == ["tui"]
    assert broken("recordings", "def f():\n    from probes import agent") == ["probes"]
    assert broken("probes", "import textual.app as x") == ["textual"]
    assert broken("tui", "try:\n    import bcc\nexcept ImportError:\n    pass") == ["bcc"]
    assert broken("tui", "importlib.import_module('probes.agent')") == ["probes"]
    assert broken("tui", "from recordings import story\nimport textual") == []


def loaded(statement: str) -> set[str]:
    """The modules that a clean interpreter has after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def modules(layer: str) -> list[str]:
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / layer).glob("*.py"))
    names = [".".join(path.parts) for path in paths if path.name != "__main__"]
    return [name.removesuffix(".__init__") for name in names]


TESTS = sorted((ROOT / "tests").rglob("*.py"))


def test_no_test_imports_another() -> None:
    """What tests share is in a module of its own: builders, agent, vms, app/driver."""
    sources = {path.stem: path.read_text() for path in TESTS}
    assert {"test_layers", "builders"} <= sources.keys()
    assert {name: others for name, source in sources.items() if (others := of_tests(source))} == {}


def of_tests(source: str) -> list[str]:
    """The test modules that a source imports from."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names):
                found |= {f"{module}.{alias.name}" for alias in names}
    return sorted(name for name in found if re.match(r"tests\..*\btest_", name))


def test_an_import_of_a_test_would_be_seen() -> None:
    assert of_tests("from tests.unit.test_story import free") == ["tests.unit.test_story.free"]
    assert of_tests("from tests.unit import test_story") == ["tests.unit.test_story"]
    assert of_tests("import tests.app.test_app as x") == ["tests.app.test_app"]
    assert of_tests("from tests import builders") == []


def private(source: str) -> list[str]:
    """What a source reads or imports that another object or module keeps to itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name):
                names = [name]
            case ast.ImportFrom(names=aliases):
                names = [alias.name for alias in aliases]
            case _:
                continue
        found += [name for name in names if re.match(r"_(?!_)", name)]
    return found


def test_tests_use_what_is_public() -> None:
    assert private("from probes.agent import _a\nb._c.d\nself._e\nf.__name__") == ["_a", "_c"]
    found = {str(path.relative_to(ROOT)): private(path.read_text()) for path in TESTS}
    # Textual has no other way to what it draws.
    assert found.pop("tests/app/driver.py") == ["_compositor"]
    assert {path: names for path, names in found.items() if names} == {}


def test_recordings_load_neither_screen_nor_kernel() -> None:
    """A recording can be read, judged and printed where there is no Textual and no bcc."""
    names = modules("recordings")
    assert "recordings.story" in names
    found = loaded(f"import {', '.join(names)}")
    assert "recordings" in found
    assert not found & {"textual", "bcc", "tui", "probes", "rich"}


def test_the_command_line_loads_no_textual() -> None:
    """report, export and import are for pipes and scripts: they must start at once."""
    found = loaded("import tui.cli, recordings.report, recordings.verdict")
    assert not found & {"textual", "bcc", "probes"}


def test_the_first_frame_waits_for_nothing_that_opens_later() -> None:
    pytest.importorskip("textual")
    found = loaded("import tui.app")
    assert "tui.app" in found
    later = {
        f"recordings.{name}" for name in ("claims", "diff", "experiments", "report", "verdict")
    }
    assert not found & (later | {"tui.export", "tui.lab", "tui.puzzle", "tui.views.puzzle"})


def test_the_architecture_names_every_module_and_nothing_else() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:recordings|probes|tui|tests)/[\w/.]*)`", page))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    ours = [path for folder in LAYERS for path in (ROOT / folder).rglob("*.*")]
    paths = {str(path.relative_to(ROOT)) for path in ours if path.suffix in (".py", ".c", ".tcss")}
    assert len(paths) > 60
    assert [path for path in sorted(paths) if not path.endswith("__init__.py")] == sorted(
        path for path in named & paths if not path.endswith("__init__.py")
    )
