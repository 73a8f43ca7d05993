"""What this kernel and this user may do, and for each lack the one thing to do about it."""

from __future__ import annotations

import ctypes as ct
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from probes import hold
from probes.attach import AttachError, may_load, preempts, tracefs, why_no_kprobes, why_not
from probes.backends import BACKENDS, Backend
from probes.btf import BtfError, kernel_btf
from probes.compile import CompileError, bcc
from probes.kallsyms import Kallsyms
from recordings.commands import HOLDS


@dataclass(frozen=True)
class Finding:
    """`have`: whether it is there; `what`: what was found; `remedy`: what to do if it lacks."""

    name: str
    have: bool
    what: str
    remedy: str = ""


def _privileges() -> Finding:
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    lacking = [n for n, bit in (("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)) if not effective >> bit & 1]
    what = f"uid {os.geteuid()}" + (f", without {' and '.join(lacking)}" if lacking else "")
    return Finding(
        "privileges", not lacking, what, "use --via sudo, or --vm, which needs no root at all"
    )


def _pid_namespace() -> Finding:
    initial = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
    have = os.stat("/proc/self/ns/pid").st_ino == initial
    what = "the initial one" if have else "a container's: BPF sees other pids than we do"
    return Finding("pid namespace", have, what, "run sockstep on the host, not in a container")


def _bcc() -> Finding:
    try:
        module = bcc()
    except CompileError as error:
        return Finding("bcc", False, str(error), "apt install python3-bpfcc")
    return Finding("bcc", True, f"{module.__version__}, {Path(module.__file__).parent}")


def _btf() -> Finding:
    try:
        kernel_btf()
    except BtfError as error:
        remedy = "boot a kernel built with CONFIG_DEBUG_INFO_BTF, or use --vm"
        return Finding("BTF", False, str(error), remedy)
    return Finding("BTF", True, "/sys/kernel/btf/vmlinux")


def _symbols() -> Finding:
    hidden = Kallsyms().hidden
    what = "addresses are hidden from this user" if hidden else "/proc/kallsyms"
    return Finding("kernel symbols", not hidden, what, "run as root, with kernel.kptr_restrict < 2")


def _tracepoints() -> Finding:
    try:
        with tracefs() as folder:
            if (folder / "events/syscalls/sys_enter_socket/id").exists():
                return Finding("tracepoints", True, f"{folder}/events/syscalls")
    except (AttachError, PermissionError):
        return Finding("tracepoints", False, "tracefs cannot be read", "run as root")
    return Finding(
        "tracepoints", False, "no syscall tracepoints", "boot a kernel with CONFIG_FTRACE_SYSCALLS"
    )


def _kprobes() -> Finding:
    why = why_no_kprobes()
    what = why or "the kprobe PMU is there"
    return Finding("kprobes", not why, what, "the tracepoint backend serves; or use --vm")


def _program_type(name: str) -> Callable[[], Finding]:
    def find() -> Finding:
        try:
            why = why_not(name)
        except BtfError as error:
            why = str(error)
        return Finding(f"BPF program type {name}", not why, why or "one loads", "use --vm")

    return find


def _lsm() -> Finding:
    try:
        names = Path("/sys/kernel/security/lsm").read_text()
    except OSError:
        names = ""
    if not names:
        remedy = "mount -t securityfs securityfs /sys/kernel/security"
        return Finding("bpf in the LSM list", False, "the list cannot be read", remedy)
    remedy = f"boot with lsm={names},bpf on the kernel's command line, or use --vm"
    return Finding("bpf in the LSM list", "bpf" in names.split(","), names, remedy)


def _userfaultfd() -> Finding:
    libc = ct.CDLL(None, use_errno=True)
    fd = libc.syscall(323 if platform.machine() == "x86_64" else 282, os.O_CLOEXEC)
    if fd >= 0:
        os.close(fd)
        return Finding("userfaultfd", True, "userfaultfd(2) answers")
    why = os.strerror(ct.get_errno())
    return Finding(
        "userfaultfd", False, why, "run as root, or sysctl vm.unprivileged_userfaultfd=1"
    )


def _holds() -> Finding:
    try:
        why = hold.why_not()
    except BtfError as error:
        why = str(error)
    what = why or "a call can be held asleep at " + ", ".join(HOLDS)
    return Finding("holds in the kernel", not why, what, "use --vm with Linux 6.1 or newer")


def _qemu() -> Finding:
    path = shutil.which("qemu-system-x86_64")
    return Finding("QEMU", path is not None, path or "not found", "apt install qemu-system-x86")


CHECKS: tuple[Callable[[], Finding], ...] = (
    _privileges, _pid_namespace, _bcc, _btf, _symbols, _tracepoints, _kprobes,
    _program_type("tracing"), _program_type("lsm"),
    _lsm, _userfaultfd, _holds, _qemu,
)  # fmt: skip


def choose(forced: str | None) -> tuple[Backend, str]:
    """The backend to use, and why: the forced one, else the best that this kernel allows.

    Raises AttachError for a name that is not a backend, or one that cannot be here.
    """
    if forced is not None and forced not in BACKENDS:
        raise AttachError(f"there is no backend {forced}: choose from {', '.join(BACKENDS)}")
    if forced is not None:
        if forced == "kprobe" and (why := why_no_kprobes()):
            raise AttachError(f"backend kprobe: {why} (see sockstep doctor)")
        if forced == "fentry" and (why := why_not("tracing")):
            raise AttachError(f"backend fentry: BPF programs of type tracing are {why}")
        return BACKENDS[forced], "asked for"
    if may_load("tracing"):
        if why_no_kprobes() or not preempts():
            return BACKENDS["fentry"], "BPF programs of type tracing load here, the cheapest way"
        why = "this kernel preempts its tasks, which makes programs of type tracing miss calls"
        return BACKENDS["kprobe"], why
    if not (no_kprobes := why_no_kprobes()):
        return BACKENDS["kprobe"], "this kernel has kprobes, and refuses programs of type tracing"
    why = f"this kernel refuses programs of type tracing, and for backend kprobe: {no_kprobes}"
    return BACKENDS["tracepoint"], why


def cannot_attach() -> None:
    """Raises AttachError where probes would see nothing, or cannot be attached at all."""
    for check in (_privileges, _pid_namespace):
        if not (found := check()).have:
            raise AttachError(f"no probes: {found.name}: {found.what}; {found.remedy}")


def examine() -> dict[str, object]:
    """The findings, the backend that would be chosen, and why: what `doctor --json` prints."""
    findings = [check() for check in CHECKS]
    have = {finding.name: finding.have for finding in findings}
    needed = ("privileges", "pid namespace", "bcc", "BTF", "kernel symbols", "tracepoints")
    lacking = [name for name in needed if not have[name]]
    if lacking:
        backend, why = None, f"live capture is not possible here: {', '.join(lacking)} lacking"
    else:
        backend, why = choose(None)[0].name, choose(None)[1]
    return {
        "kernel": platform.release(),
        "arch": platform.machine(),
        "python": sys.executable,
        "findings": [asdict(finding) for finding in findings],
        "backends": list(BACKENDS),
        "backend": backend,
        "why": why,
        "live": backend is not None,
    }


def main(as_json: bool) -> int:
    """Print the findings; status 0 where live capture is possible, else 1."""
    found = examine()
    if as_json:
        print(json.dumps(found, indent=1))
        return 0 if found["live"] else 1
    print(f"kernel {found['kernel']} {found['arch']}")
    findings: list[dict[str, object]] = found["findings"]  # type: ignore[assignment]
    for finding in findings:
        mark = "yes" if finding["have"] else "no "
        print(f"  {mark} {finding['name']:<24} {finding['what']}")
        if not finding["have"] and finding["remedy"]:
            print(f"      {'':<24} -> {finding['remedy']}")
    print(f"backend: {found['backend'] or 'none'} ({found['why']})")
    return 0 if found["live"] else 1
