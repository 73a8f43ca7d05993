"""What is armed so many times is done so many times, whichever threads come, on stock kernels.

5.10 has no atomic addition in BPF that tells what was there before.
"""

from __future__ import annotations

import errno
import signal

import pytest

from recordings import commands as cmd
from recordings import events as ev
from tests.agent import RACING, agent, sent
from tests.vms import vm_command, vm_kernel


@pytest.mark.parametrize("name", ["5.10", "6.1"])
def test_as_often_as_it_is_asked(name: str) -> None:
    via = vm_command(vm_kernel(name).release, [])
    with agent(*RACING, options=("--backend", "kprobe"), via=via) as running:
        running.until(lambda e: isinstance(e, ev.State), timeout=200)
        for step in ("STEP_09", "STEP_13", "STEP_17"):
            assert sent(running, signal.SIGWINCH, step, 20) == 20
            running.say(cmd.Restart())
            running.until(lambda e: isinstance(e, ev.State) and e.state == "stopped")
        if name == "5.10":
            return
        running.disarm()
        running.say(cmd.Refuse(hook="security_sk_alloc", errno=errno.ENOMEM, times=50))
        running.say(cmd.Continue())
        story = running.until_end(timeout=120)
        assert [call.result for call in story.calls.values()].count(-errno.ENOMEM) == 50
