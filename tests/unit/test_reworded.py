"""No sentence is protocol: what the tools decide stays the same when every sentence is another.

All modules of recordings/ are loaded once more, with each text of several words in them changed,
each in its own way. Docstrings and texts that a type declares (Literal) stay.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import Any

from tests import RECORDINGS, ROOT

DECIDED = """
import json, sys
from pathlib import Path
from recordings import diff, report, steps
from recordings.claims import claims
from recordings.story import Story
from recordings.stream import read
from recordings.verdict import judge, outcome

def decided(path):
    story = Story.of(read(Path(path)))
    verdict = judge(story)
    report.text(story)
    return {
        "verdict": verdict.verdict,
        "checks": {name: check.status for name, check in verdict.checks.items()},
        "counts": [verdict.allocated, verdict.freed, verdict.live, verdict.unseen],
        "steps": [
            {id: (check.status, check.unreached) for id, check in story.steps(call).items()}
            for call in story.calls.values()
        ],
        "links": [[link.state for link in m.links.values()] for m in story.moments],
        "claims": [claim.status for claim in claims(story)],
        "outcomes": [
            outcome(story, call, [o for o in story.ledger if o.call == call.number])
            for call in story.calls.values()
        ],
    }

def compared(a, b):
    found = diff.diff(*(Story.of(read(Path(path))) for path in (a, b)))
    return [found.first, [(pair.first, [row.equal for row in pair.steps]) for pair in found.calls],
            diff.lines(found)[1] is not None]

paths = sys.argv[1:]
print(json.dumps({
    "decided": [decided(path) for path in paths],
    "diffs": [compared(a, b) for a, b in zip(paths, paths[1:])],
}))
"""

REWORDED = """
import importlib.machinery, sys
from tests.unit.test_reworded import reworded

class Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data, path, *, _optimize=-1):
        return compile(reworded(data, path), path, "exec", dont_inherit=True)

    def get_code(self, fullname):
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        if name.startswith("recordings") and spec is not None and spec.origin:
            spec.loader = Loader(name, spec.origin)
        return spec

sys.meta_path.insert(0, Finder)
"""


# What a type of recordings/ declares, such as Literal["not tested"].
TYPED = {
    word.value
    for path in (ROOT / "recordings").glob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
    for word in ast.walk(node.slice)
    if isinstance(word, ast.Constant)
}


class _Rewords(ast.NodeTransformer):
    def __init__(self, path: str) -> None:
        self._path = path
        self.count = 0

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        node.value = self.visit(node.value)  # and not the format, which is none of a reader's
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, str) or len(node.value.split()) < 2 or node.value in TYPED:
            return node
        self.count += 1
        words = " ".join(reversed(node.value.split()))
        where = f"<{self._path}:{node.lineno}>"
        return ast.copy_location(ast.Constant(f"{where} {words} {where}"), node)


def reworded(source: bytes, path: str) -> ast.Module:
    return ast.fix_missing_locations(_Rewords(path.rpartition("/")[2]).visit(ast.parse(source)))


def decisions(before: str = "") -> Any:
    paths = [str(path) for path in RECORDINGS]
    done = subprocess.run(
        [sys.executable, "-c", before + DECIDED, *paths], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rewording_every_sentence_changes_no_decision() -> None:
    assert decisions(REWORDED) == decisions()


def test_sentences_are_reworded() -> None:
    found = _Rewords("x")
    text = ast.unparse(found.visit(ast.parse('def f():\n "no change"\n return f"a {b} was freed"')))
    assert found.count == 1
    assert "no change" in text
    assert "was freed" not in text
