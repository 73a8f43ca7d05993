"""All steps of all paths, by their ids. What a step is: recordings/path.py."""

from __future__ import annotations

from recordings.path import Path, Step
from recordings.paths import close, socket

PATHS: dict[str, Path] = {path.syscall: path for path in (socket.PATH,)}
STEPS: dict[str, Step] = {
    step.id: step
    for steps in (*(path.steps for path in PATHS.values()), close.STEPS)
    for step in steps
}

# The ten steps of one socket() call, in the kernel's order.
CALL_STEPS: tuple[str, ...] = socket.PATH.ids
CLEANUP_STEPS: tuple[str, ...] = tuple(step.id for step in close.STEPS)

# Of the outcome of a check.
SIGNS = {"pass": "✓", "fail": "✗", "unobservable": "○"}
