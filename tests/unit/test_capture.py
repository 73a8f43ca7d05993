"""What the decoder makes of stacks that no run here gives when one asks for it."""

from __future__ import annotations

import pytest

from probes.backends import BACKENDS
from probes.capture import Decoder, Raw, way
from probes.kallsyms import Kallsyms
from recordings import events as ev
from recordings.layers import MADE
from recordings.stacks import functions

# As read on 6.1: RCU ran on a CPU whose task, not the tracee, was in a close(2) of its own.
AMID_A_CLOSE = (
    "rcu_do_batch", "rcu_core", "__do_softirq", "asm_sysvec_apic_timer_interrupt", "__fput",
    "__x64_sys_close", "do_syscall_64",
)  # fmt: skip


class Named(Kallsyms):
    """Addresses 1, 2, 3 … are the functions of a stack."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def frame(self, address: int) -> str:
        return f"{self._names[address - 1]}+0x10" if address else "0x0"


def test_a_stack_is_told_as_far_as_its_interrupt() -> None:
    assert functions(f"{name}+0x10" for name in AMID_A_CLOSE) == ["rcu_do_batch"]
    assert functions(["inet_release+0x1", "__sock_release+0x2"]) == [
        "inet_release", "__sock_release",
    ]  # fmt: skip


def test_a_file_that_rcu_frees_amid_another_task_s_close_took_its_descriptor_along() -> None:
    backend = BACKENDS["kprobe"]
    numbers = {point.name: number for number, point in enumerate(backend.points)}
    told: list[ev.Event] = []
    stacks = {5: tuple(range(1, len(AMID_A_CLOSE) + 1))}
    decoder = Decoder(backend, Named(*AMID_A_CLOSE), False, told.append, stacks)
    owner = {"owner_pid": 7, "owner_tid": 7, "t0": 1}
    decoder.feed(Raw(point=numbers["ENTER"], t=1, pid=7, tid=7, **owner))
    decoder.live = {(1, "file"): "0xffff88800a36e600", (1, "fd"): "3"}
    free = Raw(point=numbers["FREE_FILE"], t=2, pid=9, tid=9, kind=MADE.index("file"), **owner)
    free.stack = 5
    decoder.feed(free)
    freed = [event for event in told if isinstance(event, ev.Free)]
    assert [(event.kind, event.at) for event in freed] == [
        ("file", "0xffff88800a36e600"), ("fd", "3"),
    ]  # fmt: skip
    assert decoder.live == {}


@pytest.mark.parametrize(
    ("stack", "how"),
    [
        # As read on 6.18, innermost first; and what functions inlined there would leave.
        ("sock_alloc __sock_create __sys_socket_file io_socket io_issue_sqe", "io_uring"),
        ("sock_alloc io_socket io_wq_submit_work io_worker_handle_work", "io_uring"),
        ("sock_alloc __sys_socket __ia32_sys_socket do_int80_emulation", "32-bit"),
        ("sock_alloc __sys_socket __ia32_compat_sys_socketcall", "32-bit"),
        ("sock_alloc __ia32_compat_sys_socketcall", "32-bit"),
        ("sock_alloc __sys_socket __x64_sys_socket do_syscall_64", "other"),
        ("", "other"),
        ("sock_alloc do_accept __sys_accept4 __ia32_compat_sys_socketcall", None),
        ("sock_alloc do_accept io_accept io_issue_sqe", None),
        ("sock_alloc __sock_create __sys_socketpair __x64_sys_socketpair", None),
        ("sock_alloc __sock_create inet_ctl_sock_create tcp_sk_init ops_init", None),
        ("sock_alloc kcm_ioctl sock_do_ioctl", None),
    ],
)
def test_how_a_socket_is_made_outside_of_a_call(stack: str, how: str | None) -> None:
    assert way(stack.split()) == how
