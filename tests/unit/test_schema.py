"""The schema: every kind survives a round trip, is documented, and never changes unnoticed."""

from __future__ import annotations

import hashlib
import re

import msgspec
import pytest
from hypothesis import given

from recordings import events as ev
from recordings.stream import Reader, encode
from tests import ROOT
from tests.builders import KINDS, a_header, any_event

FORMAT = ROOT / "docs/recording-format.md"
LAYERS = (ev.Fd, ev.File, ev.Socket, ev.Sock, ev.Snapshot, ev.Open)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_round_trip(kind: type[ev.Event]) -> None:
    @given(any_event(kind))
    def check(event: ev.Event) -> None:
        reader = Reader("test")
        if not isinstance(event, ev.Header):
            reader.feed(encode(a_header()))
        else:
            event.format, event.readable_since = ev.FORMAT, ev.READABLE_SINCE
        assert reader.feed(encode(event)) == event

    check()


def shape() -> str:
    """The schema in words: each kind, field, type and default, in the order of the source."""
    lines = [f"{name} = {getattr(ev, name)}" for name in ("Kind", "At", "Ptr", "Ns")]
    for cls in (ev.Event, ev.Layer, *LAYERS, *KINDS):
        config = cls.__struct_config__
        lines.append(f"{cls.__name__}({', '.join(base.__name__ for base in cls.__bases__)})")
        lines.append(f"  {config.tag_field}={config.tag} omit_defaults={config.omit_defaults}")
        for name, kind in cls.__annotations__.items():
            # Where the kernel has it is no part of the schema.
            kind = re.sub(r"^Annotated\[(.*), Field\(.*\)\]$", r"\1", kind)
            lines.append(f"  {name}: {kind} = {_default(cls, name)}")
    return "\n".join(lines)


def _default(cls: type[msgspec.Struct], name: str) -> object:
    found = next(field for field in msgspec.structs.fields(cls) if field.name == name)
    return "required" if found.required else repr(found.default)


def test_the_schema_changes_only_on_purpose() -> None:
    digest = hashlib.sha256(shape().encode()).hexdigest()[:16]
    assert digest == ev.SHAPE, (
        f"\nThe schema of recordings/events.py has changed: its shape is {digest}.\n"
        f"VERSION is {ev.VERSION}, READABLE_SINCE is {ev.READABLE_SINCE}. Decide:\n"
        "- a new kind, or a new field with a default: VERSION + 1. Old readers pass it over.\n"
        "- anything else (a field gone, renamed, retyped, required, or of another meaning):\n"
        "  VERSION + 1 and READABLE_SINCE = VERSION. Old readers then refuse it by name.\n"
        "- only a schema that was never released may change with no new version.\n"
        f'Then set SHAPE = "{digest}", and say it in docs/recording-format.md.'
    )


def test_the_shape_sees_every_kind_of_change() -> None:
    """The hash above is no use if it stays the same: each part of the shape is in it."""
    told = shape()
    for cls in (*LAYERS, *KINDS):
        assert f"{cls.__name__}(" in told
        for field in msgspec.structs.fields(cls):
            assert f"  {field.name}: " in told
    assert "Literal['raw'" in told.replace('"', "'")


def test_every_kind_and_field_is_documented() -> None:
    page = FORMAT.read_text()
    sections = dict(re.findall(r"^### `(\w+)`[^\n]*\n(.*?)(?=^##|\Z)", page, re.S | re.M))
    for cls in (*KINDS, *LAYERS):
        name = cls.__name__.lower()
        assert name in sections, f"docs/recording-format.md has no section ### `{name}`"
        for field in msgspec.structs.fields(cls):
            if field.name == "t":
                continue
            assert f"`{field.name}`" in sections[name], f"{name}.{field.name} is not documented"
        known = {field.name for field in msgspec.structs.fields(cls)}
        rows = set(re.findall(r"^\| `(\w+)` \|", sections[name], re.M))
        assert rows <= known, f"{name}: documented, but not in the schema: {rows - known}"
    assert set(sections) == {cls.__name__.lower() for cls in (*KINDS, *LAYERS)}


def test_the_version_is_documented() -> None:
    assert f"version {ev.VERSION}" in FORMAT.read_text()
