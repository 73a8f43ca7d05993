"""What the app asks of the agent: one JSON object a line, told apart by `cmd`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from recordings.paths import socket
from recordings.steps import STEPS
from recordings.uapi import ERRNO_NUMBERS, SIGRTMAX, signal_name

Times = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class Command(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="cmd", tag=str.lower):
    pass


class Next(Command):
    """Resume to the next step of any kind, armed or not."""


class Continue(Command):
    """Resume to the next armed step."""


class Pause(Command):
    """SIGSTOP the tracee now."""


class Arm(Command):
    """Stop at this step, or no longer."""

    step: str
    stop: bool


class Inject(Command):
    """Send `signo`: now (`step` None), or the next `times` times that `step` is reached.

    `signo` 0 with a step disarms what waits there.
    """

    signo: Annotated[int, msgspec.Meta(ge=0, le=64)]
    step: str | None = None
    times: Times = 1


class Refuse(Command):
    """Make `hook` return −`errno` the next `times` times that a call of the tracee comes to it.

    `hook` is one of REFUSALS, or "cgroup" (edge 12, which has its own errno: `errno` is not used).
    `times` 0 disarms it.
    """

    hook: str
    errno: Annotated[int, msgspec.Meta(ge=0, le=4095)] = 0
    times: Times = 1

    def __post_init__(self) -> None:
        if self.times and self.hook != "cgroup" and not self.errno:
            raise ValueError("nothing is refused with errno 0")


class Limit(Command):
    """Set the tracee's soft RLIMIT_NOFILE to `nofile` until the return of its next call."""

    nofile: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Input(Command):
    """What the tracee reads next from its standard input; `end`: and then the end of it."""

    text: str = ""
    end: bool = False


class HoldAt(Command):
    """Hold each call that comes to `point`, one of HOLDS, asleep in the kernel; or no longer."""

    point: str
    on: bool


class Release(Command):
    """Let the held thread `tid` go on; None: all that are held. So do Next and Continue."""

    tid: int | None = None


class Name(Command):
    """Name these addresses in the kernel's code, for who looks at a frozen machine from outside."""

    addresses: list[int]

    def __post_init__(self) -> None:
        if not all(0 <= address < 1 << 64 for address in self.addresses):
            raise ValueError("an address has 64 bits")


class Restart(Command):
    """Kill the tracee and start it, or another program, anew: a new stream with its own header."""

    argv: list[str] | None = None

    def __post_init__(self) -> None:
        if any("\0" in word for word in self.argv or ()):
            raise ValueError("no argument of a program can have a NUL in it")


class Detach(Command):
    """Resume the tracee, take the probes away, end; the tracee lives on."""


class Quit(Command):
    """Kill the tracee, end."""


AnyCommand = (
    Next | Continue | Pause | Arm | Inject | Refuse | Limit | Input | HoldAt | Release | Name
    | Restart | Detach | Quit
)  # fmt: skip

# What can be refused by a BPF program of type fmod_ret, and the edge of socket(2) that it takes.
REFUSALS: dict[str, int] = dict(socket.PATH.refusals)

# LSM hooks where a task can be held, asleep in the kernel: where in socket(2) each of them is, and
# before which step.
HOLDS: dict[str, str] = {hold.hook: hold.where for hold in socket.PATH.holds}
HELD_BEFORE: dict[str, str] = {hold.hook: hold.before for hold in socket.PATH.holds}


def injection(text: str) -> Inject | Refuse | Limit:
    """What a user writes for an injection, as a command. Raises ValueError with one clear line.

    `SIGTERM@STEP_14` (a signal at a step, by name or number), `security_sk_alloc=ENOMEM` (a
    refusal), `cgroup` (edge 12), `nofile=3` (RLIMIT_NOFILE); each once, or the next call. With `*3`
    behind it three times (not the limit).
    """
    one, star, count = text.partition("*")
    if star and not 0 < _digits(count) < 1 << 31:
        raise ValueError(f"{text}: {count or 'nothing'} is no number of times; write {one}*3")
    times = int(count) if star else 1
    what, at, step = one.partition("@")
    if at:
        if step not in STEPS:
            raise ValueError(f"{text}: there is no step {step}")
        return Inject(signo=_signo(what), step=step, times=times)
    hook, _, value = one.partition("=")
    if one == "cgroup":
        return Refuse(hook="cgroup", times=times)
    if hook == "nofile" and 0 <= _digits(value) < 1 << 63 and not star:
        return Limit(nofile=int(value))
    if hook in REFUSALS:
        number = ERRNO_NUMBERS.get(value, _digits(value))
        if not 0 < number < 4096:
            raise ValueError(f"{text}: {value or 'nothing'} is no errno; write {hook}=EPERM")
        return Refuse(hook=hook, errno=number, times=times)
    choices = ", ".join(
        ["SIGNAL@STEP", *(f"{hook}=ERRNO" for hook in REFUSALS), "cgroup", "nofile=N"]
    )
    raise ValueError(f"{text}: no such injection; write one of {choices}")


def _digits(text: str) -> int:
    """The number that these digits are; −1: they are none."""
    return int(text) if text.isascii() and text.isdecimal() else -1


def _signo(name: str) -> int:
    """15, TERM and SIGTERM are the same; SIGRTMIN+2 is a signal too. Raises ValueError."""
    full = name if name.startswith("SIG") else f"SIG{name}"
    for number in range(1, SIGRTMAX + 1):
        if full == signal_name(number) or _digits(name) == number:
            return number
    raise ValueError(f"{name}: no such signal")
