"""Tracees that wait until we have caught up, so that no event of theirs is lost.

The BPF side stops each thread (bpf/common.c, wait_for_agent) when the ring buffer is half full, or
when we say so because the spool is full. We send SIGCONT when there is room again. SIGCONT undoes
every stop of a process, whoever made it, and discards stop signals that are pending: so a process
that somebody else has stopped too is left alone, and what else was discarded is sent again.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from probes import spool
from probes.attach import RING_MARK, Attached
from recordings import events as ev

_JOB_CONTROL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class Waiting:
    """Has the tracees of `processes` wait, and go on. `processes`: (pid, pidfd) of each."""

    def __init__(
        self,
        attached: Attached,
        processes: Callable[[], Iterable[tuple[int, int]]],
        emit: Callable[[ev.Event], None],
    ) -> None:
        self._attached = attached
        self._processes = processes
        self._emit = emit
        self._seen = attached.waits
        self.on = False  # all are to wait: the spool is full

    def made(self, pid: int) -> bool:
        """Whether this process is stopped to wait, and by nobody else."""
        state = self._attached.job_control(pid)
        return state.waits > 0 and not state.stops

    def look(self) -> list[int]:
        """To be called when the ring was emptied: have them wait, or go on.

        Returns whom somebody else stopped meanwhile: they stay stopped.
        """
        size = self._attached.spool.size
        if self.on != (size > (spool.MARK // 2 if self.on else spool.MARK)):
            self.on = not self.on
            self._attached.have_wait(self.on)
        if self.on or self._attached.spool.ring.fill > RING_MARK // 2:
            return []
        return self.let_go()

    def let_go(self) -> list[int]:
        """Whoever waits goes on; as `look`."""
        if (total := self._attached.waits) == self._seen:
            return []
        self._seen = total
        since: list[int] = []
        others = []
        for pid, pidfd in self._processes():
            state = self._attached.job_control(pid)
            if state.waits and state.stops:
                others.append(pid)
            elif state.waits:
                since.append(state.since)
                with contextlib.suppress(OSError):  # it has ended
                    self._resume(pid, pidfd)
        if since:
            now = time.monotonic_ns()
            self._emit(ev.Waited(t=now, count=len(since), took=max(0, now - min(since))))
        return others

    def _resume(self, pid: int, pidfd: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        pending = int(status.partition("ShdPnd:")[2].split()[0], 16)
        again = [signo for signo in _JOB_CONTROL if pending >> signo - 1 & 1]
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        if self._attached.job_control(pid).undone:  # one came right before
            again.append(signal.SIGSTOP)
        for signo in again:
            signal.pidfd_send_signal(pidfd, signo)
