"""Kernels and VMs for the tests: `vm_kernel("6.1")` gives a kernel, fetched if need be.

An emulated VM takes one CPU at most, and waits at times. So the long runs
of many tests each are begun with the first test, from the last one on, two beside what the tests do
themselves: `@pytest.mark.batch(run, "name")` says that a test uses `once(run, name)`, for its
parameter `name`.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from probes.vm import kernels
from recordings.isolated import command
from tests import ROOT
from tests.agent import unless

ALL = tuple(kernels.SUITES)  # 5.10, 6.1, 6.12, sid
T = TypeVar("T")
Run = tuple[Callable[..., object], str]
TIMED_OUT = 124  # as of timeout(1)
AGAIN: list[str] = []  # the VMs that failed and were tried once more
_beside = ThreadPoolExecutor(2)
_begun: dict[Run, Future[object]] = {}


def ahead(runs: Sequence[Run]) -> None:
    """Begin these, the last first."""
    for run, name in reversed(runs):
        if (run, name) not in _begun:
            _begun[run, name] = _beside.submit(run, name)


def once(run: Callable[[str], T], name: str) -> T:
    """What `run(name)` comes to; if nobody has begun it, it is run here and now."""
    future = _begun.get((run, name))
    if future is None or future.cancel():
        future = _begun[run, name] = Future()
        try:
            future.set_result(run(name))
        except BaseException as error:  # of pytest, too
            future.set_exception(error)
    return future.result()  # type: ignore[return-value]


def forget() -> None:
    """Begin no more."""
    _beside.shutdown(wait=False, cancel_futures=True)


def needs_qemu() -> None:
    for name in ("qemu-system-x86_64", "busybox"):
        unless(shutil.which(name, path=kernels.SBIN) is not None, f"{name} is not installed")


@cache
def vm_kernel(name: str) -> kernels.Kernel:
    """The kernel called *name*, from the user's cache or else from Debian's archive."""
    needs_qemu()
    try:
        return kernels.resolve(name)
    except kernels.VmError:
        pass
    try:
        return kernels.fetch(name, print)
    except kernels.VmError as error:
        unless(False, f"kernel {name}: {error}")
        raise


def vm_command(name: str | None, argv: Sequence[str]) -> list[str]:
    """The command that runs *argv* in a VM, on the kernel called *name* or given by path."""
    kernel = [] if name is None else ["--kernel", name]
    return command("probes.vm.cli", "run", *kernel, "--", *argv)


def in_vm(
    name: str, argv: Sequence[str], stdin: bytes = b"", timeout: float = 120
) -> subprocess.CompletedProcess[bytes]:
    """Run *argv* in a VM on the kernel called *name*, in the checkout."""
    release = vm_kernel(name).release
    return tried(name, vm_command(release, argv), stdin, timeout)


def tried(
    what: str, command: Sequence[str], stdin: bytes = b"", timeout: float = 120
) -> subprocess.CompletedProcess[bytes]:
    """Run a command that runs a VM, once more where the VM failed, and not what ran in it.

    After *timeout* seconds the status is TIMED_OUT, and what was said until then is returned.
    """
    done = _run(command, stdin, timeout)
    if done.returncode == 2 and (why := _vm_failure(done.stderr)):
        AGAIN.append(f"{what}: {why}")
        done = _run(command, stdin, timeout)
    return done


def _run(
    command: Sequence[str], stdin: bytes, timeout: float
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, cwd=ROOT)
    except subprocess.TimeoutExpired as late:
        said = (late.stderr or b"") + f"no end within {timeout} s".encode()
        return subprocess.CompletedProcess(command, TIMED_OUT, late.stdout or b"", said)


def _vm_failure(stderr: bytes) -> str:
    """What `probes.vm.machine` said last, if it was of a guest that is lost."""
    last = (stderr.decode(errors="replace").splitlines() or [""])[-1]
    lost = ("sockstep: the guest did not come up", "sockstep: the guest died")
    return last if last.startswith(lost) else ""
