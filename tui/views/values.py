"""The values that were read: every field, and what changed."""

from __future__ import annotations

from textual.content import Content

from recordings import events as ev
from recordings.layers import LABELS, LAYERS, NULL
from recordings.story import readings
from recordings.words import address, object_word, reading, visible
from tui.views.look import CHANGED, NEW, QUIET, Look, cut, text

FIELDS: dict[ev.Kind, list[str]] = {
    layer: [name for name in struct.__struct_fields__ if name not in ("at", "number")]
    for layer, struct in LAYERS.items()
}
ALL = sum(len(fields) + 1 for fields in FIELDS.values())  # rows that all layers take
WIDE = 40  # columns from which an address is whole


def inspector(look: Look) -> list[Content]:
    """Every field of every layer, each always on the same line; of one layer where there is less
    room, with the names of all above it.
    """
    if look.height >= ALL:
        return [line for kind in FIELDS for line in _layer(kind, look)]
    names = Content("  ").join(
        text(f"[{kind}]", "bold") if kind == look.layer else text(kind, QUIET) for kind in FIELDS
    )
    return [names, *next(_layer(kind, look, "") for kind in FIELDS if kind == look.layer)]


def everything(look: Look) -> list[Content]:
    """All layers, with an empty line between two."""
    parts = [[*_layer(kind, look), Content("")] for kind in FIELDS]
    return [line for part in parts for line in part][:-1]


def _layer(kind: ev.Kind, look: Look, name: str | None = None) -> list[Content]:
    struct = getattr(look.moment.snap, kind) if look.moment else None
    margin = max(map(len, FIELDS[kind])) + 2
    return [_heading(kind, LABELS[kind] if name is None else name, struct, look)] + [
        _field(kind, name, struct, look, margin) for name in FIELDS[kind]
    ]


def _heading(kind: ev.Kind, name: str, struct: ev.Layer | ev.Fd | None, look: Look) -> Content:
    """The layer's name, and the address of what was read of it, or why nothing was."""
    word = object_word(kind, look.moment, look.story) if look.moment else ""
    word, style = "not read at this step" if word == "live" else word, QUIET
    if isinstance(struct, ev.Fd):
        word, style = f"fd {struct.number}", ""
    elif struct is not None:
        word, style = f"@ {address(struct.at)}" if struct.at else "at an address not read", ""
    return cut(
        Content.assemble((f"{name:<18}" if name else "  ", "bold"), (word, style)), look.width
    )


def _field(
    kind: str, name: str, struct: ev.Layer | ev.Fd | None, look: Look, margin: int
) -> Content:
    value = getattr(struct, name, None)
    full, label = f"{kind}.{name}", f"{name:<{margin}}"
    if value is None or look.moment is None:
        return Content.assemble("  ", (label, QUIET), ("not read" if struct else "·", QUIET))
    family, digits = look.moment.call.family, 6 if look.width < WIDE else None
    shown = reading(full, value, look.story, family, digits)
    if margin + 2 + len(shown) > look.width:  # a decoded constant says itself what it is
        shown = shown.removesuffix(f" ({value})")
    before = look.moment.before(full)
    changed = full in look.moment.changed
    mark = CHANGED if changed else NEW if before is None else " "
    line = Content.assemble(
        (mark, "bold $accent"), " ", (label, QUIET), (shown, "bold $accent" if changed else "")
    )
    if isinstance(value, str) and look.width >= 56 and value != NULL and shown != value:
        line += text(f"  {address(value)}", QUIET)
    if changed and before:
        line += text(f"  ← {reading(full, before[1], look.story, family, digits)}", "$accent")
    return cut(line, look.width)


def changes(look: Look) -> list[Content]:
    """What differs from the call's last reading, old → new, and what was read first here."""
    moment = look.moment
    if moment is None:
        return [text("no step yet", QUIET)]
    differs, first, same = [], [], 0
    for name, value in readings(moment.snap):
        new = reading(name, value, look.story, moment.call.family)
        before = moment.before(name)
        if before is None:
            first.append(Content.assemble(f"  {name:<20} ", (new, "$accent")))
        elif before[1] != value:
            old = reading(name, before[1], look.story, moment.call.family)
            where = f"   was read at {visible(before[0].id)}"
            parts = (f"  {name:<20} ", (old, QUIET), " → ", (new, "bold $accent"), (where, QUIET))
            differs.append(Content.assemble(*parts))
        else:
            same += 1
    lines = [text(f"CHANGED since its last reading in call {moment.call.number}", "bold")]
    lines += differs or [text("  nothing", QUIET)]
    lines += [Content(""), text("READ for the first time in this call", "bold")]
    lines += first or [text("  nothing", QUIET)]
    lines += [Content(""), text(f"{same} more values were read again and are as they were", QUIET)]
    return lines
