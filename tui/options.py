"""What the user asked for when starting a program, and the command that answers it."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from recordings import isolated

ALL = math.inf  # --hold=all


@dataclass(frozen=True)
class Options:
    """What `sockstep PROGRAM` and `sockstep record PROGRAM` have in common.

    `vm`: the kernel of the VM to run it in, "" for any; None for no VM. `hold`: seconds that a
    call is held, at most, at each point where it can be; ALL: at every step, for ever, by freezing
    the VM; None: not at all. `stdin`: what the program reads, as `sockstep agent --stdin` has it.
    `lossy`: the program never waits for us.
    """

    program: tuple[str, ...]
    output: Path | None = None
    backend: str | None = None
    follow_forks: bool = False
    via: str | None = None
    vm: str | None = None
    hold: float | None = None
    stdin: str = "terminal"
    lossy: bool = False

    @property
    def frozen(self) -> bool:
        """Whether the VM is frozen at every step."""
        return self.hold == ALL

    def agent(self) -> list[str]:
        """The command that starts the agent, wherever it runs. There is no shell in it."""
        words = ["agent"]
        if self.backend:
            words += ["--backend", self.backend]
        if self.follow_forks:
            words.append("--follow-forks")
        if self.frozen:
            words += ["--freeze", *([] if self.backend else ["--backend", "kprobe"])]
        elif self.hold is not None:
            words.append(f"--hold={self.hold:g}")
        if self.stdin != "terminal":
            words.append(f"--stdin={self.stdin}")
        if self.lossy:
            words.append("--lossy")
        words += ["--", *self.program]
        here = isolated.command("probes.cli", *words)
        if self.vm is not None:
            options = ["--kernel", self.vm] if self.vm else []
            options += ["--freeze"] if self.frozen else []
            here = isolated.command("probes.vm.cli", "run", *options, "--", *here)
        if self.via is None:
            return here
        via = shlex.split(self.via)
        if via and Path(via[0]).name == "ssh":  # ssh gives its words to a shell over there
            return [*via, shlex.join(["sockstep", *words])]
        return [*via, *here]
