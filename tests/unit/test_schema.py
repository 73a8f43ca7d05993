"""The schema: every kind survives a round trip, is documented, and never changes unnoticed."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recordings import events as ev
from recordings.stream import Reader, encode

# What is tested is what comes out, not how fast: the machine may be busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

KINDS: tuple[type[ev.Event], ...] = get_args(ev.AnyEvent)
LAYERS = (ev.Fd, ev.File, ev.Socket, ev.Sock, ev.Snapshot, ev.Open)
FORMAT = Path(__file__).parent.parent.parent / "docs/recording-format.md"


def strategy(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Any value that the schema allows."""
    match kind:
        case msgspec.inspect.IntType(ge=least, le=most):
            least = -(2**63) if least is None else least
            most = 2**63 - 1 if most is None else most
            return st.integers(max(least, -9), min(most, 99)) | st.integers(least, most)
        case msgspec.inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case msgspec.inspect.StrType():
            return st.sampled_from(("0x0", "0xffff888104bf8dc0", "STEP_09", "")) | st.text()
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case msgspec.inspect.ListType(item_type=item):
            return st.lists(strategy(item), max_size=4)
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(strategy(key), strategy(value), max_size=4)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of(*map(strategy, types))
        case msgspec.inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: strategy(field.type) for field in fields})
    raise AssertionError(f"no strategy for {kind}")


@cache
def any_event(*kinds: type[ev.Event]) -> st.SearchStrategy[ev.Event]:
    return st.one_of(*(strategy(msgspec.inspect.type_info(kind)) for kind in kinds or KINDS))


def a_header(**changed: Any) -> ev.Header:
    facts: dict[str, Any] = {
        "t": 1, "format": ev.FORMAT, "version": ev.VERSION,
        "readable_since": ev.READABLE_SINCE, "tool": "test", "kernel": "6.1", "arch": "x86_64",
        "backend": "kprobe", "argv": ["./t"], "pid": 7, "addresses": "raw", "wall": 1e9,
    }  # fmt: skip
    return ev.Header(**facts | changed)


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
