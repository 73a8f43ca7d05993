"""A throwaway VM that runs one command: QEMU, a kernel, and this machine's own root.

The guest sees the host's root read-only through 9p, with a tmpfs on top: any path of the host
works, and nothing that the guest does reaches it. The file `init` is what happens inside.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from probes.vm import AGENT_CPU
from probes.vm.kernels import CACHE, SBIN, Kernel, Progress, VmError

# thread=single: with a thread for each CPU, QEMU 7.2 may run a stale translation of code that
# another CPU has just patched. The kernel patches itself for every probe, and dies of it
# ("Oops: int3"). la57=off: page walks of four levels, not five, make it all 15 % faster.
EMULATION = ["-accel", "tcg,thread=single", "-cpu", "max,la57=off"]
KVM = ["-accel", "kvm", "-cpu", "host"]
PATIENCE = 120.0  # seconds until the guest must have shown up
KVM_PATIENCE = 5.0  # the same under KVM: one that works takes a second, some never work
KVM_FAILED = CACHE / "kvm-failed"  # holds the id of the boot that this was found in

COMMAND_LINE = (
    "rdinit=/vm/init console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable "
    "no_timer_check cryptomgr.notests=1 lsm=lockdown,capability,landlock,yama,bpf"
)
FSTAB = b"""\
sys /sys sysfs
pts /dev/pts devpts mode=620,ptmxmode=666
shm /dev/shm tmpfs
debug /sys/kernel/debug debugfs
trace /sys/kernel/tracing tracefs
security /sys/kernel/security securityfs
bpf /sys/fs/bpf bpf
cgroup /sys/fs/cgroup cgroup2
"""


def run(
    kernel: Kernel,
    argv: Sequence[str],
    *,
    cwd: str = ".",
    env: Mapping[str, str] = os.environ,
    stdin: int = 0,
    stdout: int = 1,
    stderr: int = 2,
    progress: Progress = lambda line: None,
    gdb: Path | None = None,
) -> int:
    """Boot *kernel* and run *argv* in it as root, in the folder *cwd*. Returns its exit status.

    *stdin*, *stdout* and *stderr* are file descriptors; bytes and ends of file are carried as
    they are. A status above 128 is a signal, as in a shell; 141 also if nobody reads our output
    any more. The VM ends with the command, whatever else that has started. *gdb* is a path for
    a Unix socket, where QEMU's gdb stub shall listen: then it has one more CPU, for the agent
    alone, and is always emulated.

    Raises VmError if the command is not there, the VM does not start, or it dies. QEMU never
    outlives the calling thread.
    """
    mark = secrets.token_hex(16)
    initramfs = _initramfs(kernel, _script(kernel, argv, cwd, env, mark))
    with _in_memory(initramfs) as initrd, contextlib.ExitStack() as stack:
        image = str(kernel.image)
        if vmlinux := kernel.unpacked():
            image = stack.enter_context(_in_memory(vmlinux))
        options = ["-kernel", image, "-initrd", initrd]
        if gdb is not None:
            options += ["-gdb", f"unix:{gdb},server=on,wait=off", "-smp", str(AGENT_CPU + 1)]
            alone = f"isolcpus={AGENT_CPU} irqaffinity={AGENT_CPU}"
            options += ["-append", f"{COMMAND_LINE} {alone}"]
        else:
            options += ["-smp", "2", "-append", COMMAND_LINE]
        if gdb is None and _kvm_may_work():
            progress(f"booting {kernel.release} (KVM)")
            with _Machine([*KVM, *options]) as machine:
                if machine.up(KVM_PATIENCE):
                    return machine.run(mark, (stdin, stdout, stderr), progress)
            progress("KVM does not work here: emulation, until this machine boots again")
            with contextlib.suppress(OSError):
                KVM_FAILED.parent.mkdir(parents=True, exist_ok=True)
                KVM_FAILED.write_text(_boot_id())
        progress(f"booting {kernel.release} (emulation)")
        with _Machine([*EMULATION, *options]) as machine:
            if not machine.up(PATIENCE):
                raise VmError(f"the guest did not come up: {machine.last_words()}")
            return machine.run(mark, (stdin, stdout, stderr), progress)


def _compiled() -> Path:
    """The host's folder that is the guest's /var/cache/sockstep."""
    path = CACHE / "compiled"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _kvm_may_work() -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with contextlib.suppress(OSError):
        return KVM_FAILED.read_text() != _boot_id()
    return True


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()


class _Machine:
    """A QEMU with its wires: the four ports that `init` tells of, and the console.

    Leaving its `with` block ends it.
    """

    def __init__(self, options: list[str]) -> None:
        self.began = time.monotonic()
        self.console: deque[str] = deque(maxlen=200)
        ports = [socket.socketpair() for _ in range(4)]
        wires = ["-device", "virtio-serial-pci"]
        for number, (_, far) in enumerate(ports, start=1):
            wires += ["-chardev", f"socket,id=port{number},fd={far.fileno()}"]
            wires += ["-device", f"virtserialport,chardev=port{number},nr={number}"]
        # pdeathsig: however we end, QEMU does. Its own process group: Ctrl+C is for us alone.
        self.qemu = subprocess.Popen(
            [
                *(_tool("setpriv", "util-linux"), "--pdeathsig", "KILL"),
                _tool("qemu-system-x86_64", "qemu-system-x86"),
                *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
                *("-M", "q35", "-m", "2G"),
                *("-serial", "stdio", *wires),  # first, so that its ports are /dev/vport0p*
                *("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,"
                  "multidevs=remap"),
                # What the agent compiled is kept for the next VM: the one thing a guest can write.
                *("-virtfs", f"local,path={_compiled()},mount_tag=cache,"
                  "security_model=mapped-file"),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[far.fileno() for _, far in ports],
            process_group=0,
        )  # fmt: skip
        for _, far in ports:
            far.close()
        self.stdin, self.stdout, self.stderr, self.control = (near for near, _ in ports)
        self.words = self.control.makefile(encoding="ascii")
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def __enter__(self) -> _Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.qemu.kill()
        self.qemu.wait()

    def _listen(self) -> None:
        assert self.qemu.stdout is not None
        for line in self.qemu.stdout:
            self.console.append(line.decode(errors="replace"))

    def up(self, patience: float) -> bool:
        """Whether the guest's init shows up within *patience* seconds."""
        ready, _, _ = select.select([self.control], [], [], patience)
        return bool(ready) and self.words.readline() == "up\n"

    def run(self, mark: str, fds: tuple[int, int, int], progress: Progress) -> int:
        """Carry the command's streams until it ends. Returns its exit status."""
        progress(f"up after {time.monotonic() - self.began:.1f} s")
        stdin, stdout, stderr = fds
        outputs = [
            _Output(self.stdout, stdout, mark.encode(), self.qemu.kill),
            _Output(self.stderr, stderr, mark.encode(), self.qemu.kill),
        ]
        threading.Thread(target=_feed, args=(stdin, self.stdin), daemon=True).start()
        status = None
        for line in self.words:
            word, _, number = line.partition(" ")
            if word == "exit":
                status = int(number)
                break
            progress(f"command started after {time.monotonic() - self.began:.1f} s")
        for output in outputs:
            output.join()
        if any(output.unread for output in outputs):
            return 128 + signal.SIGPIPE
        if status is None or not all(output.complete for output in outputs):
            raise VmError(f"the guest died: {self.last_words()}")
        if status == 128 + signal.SIGKILL and any("Out of memory" in it for it in self.console):
            progress("the guest was out of memory and killed the command")
        return status

    def last_words(self) -> str:
        """The console's last lines, the panic's own before what it goes on to print, as one."""
        self.qemu.kill()
        self.listener.join()
        lines = [re.sub(r"^\[ *[0-9.]+\] ", "", line).strip() for line in self.console]
        lines = ["".join(c if c.isprintable() else "?" for c in line) for line in lines if line]
        panic = next((n for n, line in enumerate(lines) if "Kernel panic" in line), len(lines))
        causes = [line for line in lines[:panic] if re.match(r"BUG:|Oops:|Out of memory", line)]
        last = lines[max(0, panic - 2) : panic + 1]
        return " / ".join(dict.fromkeys(causes[-1:] + last)) or "it said nothing"


class _Output(threading.Thread):
    """Carries what comes out of a port to *fd*, up to the mark that ends it."""

    def __init__(self, port: socket.socket, fd: int, mark: bytes, give_up: Callable[[], None]):
        super().__init__(daemon=True)
        self.port, self.fd, self.mark, self.give_up = port, fd, mark, give_up
        self.complete = False  # the mark has come
        self.unread = False  # nobody reads fd any more
        self.start()

    def run(self) -> None:
        held = b""  # what may be the mark's beginning
        while not self.complete and (chunk := self.port.recv(65536)):
            data, found, _ = (held + chunk).partition(self.mark)
            self.complete = bool(found)
            keep = 0 if found else _overlap(data, self.mark)
            held = data[len(data) - keep :]
            try:
                _write(self.fd, data[: len(data) - keep])
            except OSError:
                self.unread = True
                self.give_up()
                return


def _overlap(data: bytes, mark: bytes) -> int:
    """How many bytes at the end of *data* may be the beginning of *mark*."""
    return next(n for n in range(len(mark) - 1, -1, -1) if data.endswith(mark[:n]))


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _feed(fd: int, port: socket.socket) -> None:
    """Carry *fd* to a port until its end, or the port's."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(port, 0)  # POLLHUP when QEMU has gone
    with contextlib.suppress(OSError):
        while all(ready == fd for ready, _ in poll.poll()) and (data := os.read(fd, 65536)):
            port.sendall(data)
    with contextlib.suppress(OSError):
        port.shutdown(socket.SHUT_WR)  # not close: QEMU would drop what it has not read yet


# --- what the guest boots from -------------------------------------------------------------


def _script(
    kernel: Kernel, argv: Sequence[str], cwd: str, env: Mapping[str, str], mark: str
) -> bytes:
    """What `init` needs to know of this run, in its language."""
    path = env.get("PATH", os.defpath) + ":/usr/sbin:/sbin"  # it is root there
    program = argv[0] if "/" in argv[0] else shutil.which(argv[0], path=path)
    if program is None or not os.access(os.path.join(cwd, program), os.X_OK):
        raise VmError(f"{argv[0]}: no such program")
    environment = [f"{name}={value}" for name, value in {**env, "PATH": path}.items()]
    start = shlex.join(["exec", "setsid", "env", "-i", *environment, program, *argv[1:]])
    text = (
        f"release={shlex.quote(kernel.release)}\n"
        f"modules={shlex.quote(os.path.realpath(kernel.modules))}\n"
        f"mark={mark}\n"
        f"start() {{ cd {shlex.quote(os.path.realpath(cwd))}; {start}; }}\n"
    )
    return os.fsencode(text)


def _initramfs(kernel: Kernel, script: bytes) -> bytes:
    """A cpio archive in the kernel's format (Documentation/driver-api/early-userspace)."""
    busybox = Path(_tool("busybox", "busybox-static")).read_bytes()
    if b"/ld-linux" in busybox[:4096]:
        raise VmError("busybox is not the static one: install busybox-static")
    files: dict[str, bytes | None] = dict.fromkeys(["vm", "proc", "dev", "host", "upper", "root"])
    files["vm/busybox"] = busybox
    files["vm/init"] = Path(__file__).with_name("init").read_bytes()
    files["vm/fstab"] = FSTAB
    files["vm/run"] = script
    for number, module in enumerate(kernel.drivers()):
        data = module.read_bytes()
        if module.suffix == ".xz":
            data = lzma.decompress(data)
        files[f"vm/{number:02}.ko"] = data
    files["TRAILER!!!"] = b""

    archive = bytearray()
    for number, (name, content) in enumerate(files.items()):
        mode = 0o40755 if content is None else 0o100755
        path = name.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(content or b""), 0, 0, 0, 0, len(path), 0]
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        archive += bytes(-len(archive) % 4) + (content or b"")
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """The path of a file that is in memory only: our environment is in there."""
    fd = os.memfd_create("sockstep")
    try:
        _write(fd, data)
        yield f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def _tool(name: str, package: str) -> str:
    path = shutil.which(name, path=SBIN)
    if path is None:
        raise VmError(f"{name} is not installed: install {package}")
    return path
