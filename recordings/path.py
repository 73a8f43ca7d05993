"""What a path through the kernel is: data. The paths themselves are in recordings/paths/."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from recordings.checks import Test
from recordings.layers import Kind


@dataclass(frozen=True)
class Edge:
    """A way out of a call, by the failure of a step's function.

    `hidden`: the errno that the caller makes of a NULL, where the function gives no errno itself.
    """

    hidden: int | None = None


@dataclass(frozen=True)
class Hold:
    """An LSM hook where a task can be held, asleep in the kernel. `where` in the path that is, in
    words; `before` which step."""

    hook: str
    where: str
    before: str


@dataclass(frozen=True)
class Step:
    """A named point of a path. Its `id` is never renumbered.

    `function` and `file`: what it is named after in the kernel; "": the agent does it. `check`:
    what is checked there, in words; `test`: the check, None where there is none.

    `sentence` stands on the screen, two rows of 78 columns at most; `entry` in its place where the
    function has only begun, and `failed` where it failed. They take a call's own numbers by name:
    {fd}, {call}, {symbol}, {result} (recordings/words.py). What a check has to find out, a sentence
    does not say. `story` is one key away: what the kernel does here, why, what would go wrong
    otherwise. `subject`: in a few words for the report, with {backend}, {program}, {creator}, {fd}
    or {result} in it.

    `makes`: the object that the call has from here on. `sets`: the pointers ("layer.field") that
    are set by now, and may be NULL before. `edge`: how a call ends here if the function fails.

    `stack`: functions, the most telling first, that show this step where one of them is on the
    kernel's stack as memory is freed.
    """

    id: str
    name: str
    function: str
    file: str
    check: str
    sentence: str
    story: str
    entry: str = ""
    failed: str = ""
    test: Test | None = None
    subject: str = ""
    makes: Kind | None = None
    sets: tuple[str, ...] = ()
    edge: Edge | None = None
    stack: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        return f"{self.function}, {self.file}" if self.function else "the agent"

    @property
    def cleanup(self) -> bool:
        return self.id.startswith("CLEANUP_")


@dataclass(frozen=True)
class Path:
    """What the kernel does in one call, in its order.

    The first step is before any call; `enters` and `returns`: the ids of the steps at the two ends
    of the system call. `refusals`: functions that a BPF program (fmod_ret) can make fail, and the
    edge of the call that this takes.
    """

    syscall: str
    steps: tuple[Step, ...]
    enters: str
    returns: str
    holds: tuple[Hold, ...] = ()
    refusals: tuple[tuple[str, int], ...] = ()

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(step.id for step in self.steps)

    @cached_property
    def number(self) -> dict[str, int]:
        """A step's place in the order."""
        return {id: number for number, id in enumerate(self.ids)}

    @cached_property
    def maker(self) -> dict[Kind, str]:
        """The step from which on a call has an object of a kind."""
        return {step.makes: step.id for step in self.steps if step.makes}

    @cached_property
    def due(self) -> dict[str, int]:
        """pointer → the place from which on it is set."""
        return {name: at + 1 for at, step in enumerate(self.steps) for name in step.sets}
