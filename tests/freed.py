"""What no recording may hold: values of an object that was freed, or given to RCU to free."""

from __future__ import annotations

from collections.abc import Iterable

from recordings import events as ev

# From its last iput() on a socket waits for RCU to free it: only what destroys it may read it.
_DESTROYERS = ("CLEANUP_IPUT", "CLEANUP_SOCK_FREE_INODE", "inode_free_security")


def read_after_free(events: Iterable[ev.Event]) -> list[str]:
    """The layers with fields that were read too late, one line each."""
    owner: dict[tuple[str, str], int] = {}  # (kind, address) → the call whose it is, freed or not
    freed: set[tuple[str, str]] = set()
    evicted: set[str] = set()
    found = []
    for event in events:
        match event:
            case ev.Alloc():
                owner[event.kind, event.at] = event.call
                freed.discard((event.kind, event.at))
                evicted.discard(event.at)
            case ev.Free():
                freed.add((event.kind, event.at))
            case ev.Step() | ev.Held() | ev.Released():
                at = event.id if isinstance(event, ev.Step) else event.point
                for kind in ("file", "socket", "sock"):
                    layer = getattr(event.snap, kind)
                    if layer is None or layer == type(layer)(at=layer.at):
                        continue
                    late = (kind, layer.at) in freed or (
                        layer.at in evicted and at not in _DESTROYERS
                    )
                    if late or owner.get((kind, layer.at), event.call) != event.call:
                        found.append(f"call {event.call}, {at}: {layer}")
                if at == "CLEANUP_IPUT" and event.snap.socket is not None:
                    evicted.add(event.snap.socket.at)
    return found
