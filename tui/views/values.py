"""The values that were read: every field, and what changed."""

from __future__ import annotations

from bisect import bisect_left

from textual.content import Content

from recordings import events as ev
from recordings.layers import LABELS, LAYERS, NULL
from recordings.story import Moment, readings
from recordings.words import address, reading, visible
from tui.views.look import QUIET, Look, text

FIELDS = {
    layer: [name for name in struct.__struct_fields__ if name not in ("at", "number")]
    for layer, struct in LAYERS.items()
}


def last_reading(moment: Moment, name: str) -> tuple[Moment, object] | None:
    """Where in the call before this moment "layer.field" was last read, and what it was."""
    layer, field = name.split(".")
    own = moment.call.moments
    for earlier in reversed(own[: bisect_left(own, moment.index, key=lambda m: m.index)]):
        value = getattr(getattr(earlier.snap, layer), field, None)
        if value is not None:
            return earlier, value
    return None


def heading(layer: ev.Kind) -> int:
    """The line of the inspector where a layer begins."""
    line = 0
    for name, fields in FIELDS.items():
        if name == layer:
            break
        line += len(fields) + 2
    return line


def inspector(look: Look) -> list[Content]:
    """Every field of every layer, each always on the same line; held: and what differs now."""
    lines: list[Content] = []
    for layer, fields in FIELDS.items():
        struct = getattr(look.moment.snap, layer) if look.moment else None
        lines.append(_heading(layer, struct, look))
        margin = max(map(len, fields)) + 2
        lines += [_field(layer, name, struct, look, margin) for name in fields]
        lines.append(Content(""))
    return lines[:-1]


def _heading(layer: ev.Kind, struct: ev.Layer | ev.Fd | None, look: Look) -> Content:
    style = "bold reverse" if layer == look.layer else "bold"
    if isinstance(struct, ev.Fd):
        at = str(struct.number)
    else:
        at = address(struct.at, 6 if look.width < 40 else None) if struct is not None else ""
    name = LABELS[layer] if layer != "fd" else f"fd {at}".strip()
    where = "" if layer == "fd" else f" {at}"
    if struct is None:
        where = "  not read"
    return Content.assemble((f" {name} ", style), (where, "" if struct is not None else QUIET))


def _field(
    layer: ev.Kind, name: str, struct: ev.Layer | ev.Fd | None, look: Look, margin: int
) -> Content:
    value = getattr(struct, name, None)
    full = f"{layer}.{name}"
    label = f"{name:<{margin}}"
    digits = 6 if look.width < 40 else None
    family = look.moment.call.family if look.moment else None
    now = getattr(getattr(look.now, layer, None), name, None)
    differs = Content("")
    if now is not None and now != value:
        differs = text(f"  now {reading(full, now, look.story, family, digits)}", "bold $warning")
    if value is None or look.moment is None:
        return Content.assemble(
            "  ", (label, QUIET), ("not read" if struct else "·", QUIET), differs
        )
    shown = reading(full, value, look.story, family, digits)
    before = last_reading(look.moment, full)
    changed = full in look.moment.changed
    mark = "*" if changed else "+" if before is None else " "
    line = Content.assemble(
        (mark, "bold $accent"), " ", (label, QUIET), (shown, "bold $accent" if changed else "")
    )
    if isinstance(value, str) and look.width >= 56 and value != NULL and shown != value:
        line += text(f"  {address(value)}", QUIET)
    line += differs
    if changed and before and look.width >= 40:
        line += text(f"  ← {reading(full, before[1], look.story, family, digits)}", "$accent")
    return line


def changes(look: Look) -> list[Content]:
    """What differs from the call's last reading, old → new, and what was read first here."""
    moment = look.moment
    if moment is None:
        return [text("no step yet", QUIET)]
    differs, first, same = [], [], 0
    for name, value in readings(moment.snap):
        new = reading(name, value, look.story, moment.call.family)
        before = last_reading(moment, name)
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
