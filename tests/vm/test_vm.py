"""Throwaway VMs: real kernels from the real archive, booted by a real QEMU."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import platformdirs
import pytest

from probes.vm import kernels
from recordings import isolated
from tests import ROOT
from tests.agent import unless
from tests.vms import ALL, in_vm, needs_qemu, vm_command, vm_kernel

# What a guest must offer to probe its kernel. Each line goes to stdout.
LOOK = """
uname -r
cat /sys/kernel/security/lsm; echo
for f in /proc/self /sys/kernel/tracing/trace /sys/kernel/debug/bdi /sys/fs/bpf \\
         /sys/fs/cgroup/cgroup.procs /sys/kernel/btf/vmlinux /dev/pts/ptmx /dev/shm /dev/fd/0 \\
         /lib/modules/$(uname -r)/modules.dep; do
    test -e $f || echo no $f
done
ip -o address show dev lo 2>&1 | grep -o 127.0.0.1
test "$(ls /sys/class/net)" = lo || echo there is a network
python3 -c 'import socket; print(socket.socket(2, 1, 132).proto)'
python3 -c 'import bcc; print("bcc")'
"""


@pytest.mark.parametrize("name", ALL)
def test_every_kernel_boots_and_can_be_probed(name: str) -> None:
    """The last two: a module that the kernel itself asks for (SCTP); bcc over 9p."""
    done = in_vm(name, ["env", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "sh", "-c", LOOK])
    release, lsm, *rest = done.stdout.decode().splitlines()
    assert release == vm_kernel(name).release
    assert "bpf" in lsm.split(",")
    assert rest == ["127.0.0.1", "132", "bcc"], done.stderr.decode()
    assert done.returncode == 0


def test_the_streams_are_bytes_and_apart() -> None:
    """1 MB of noise there and back, the end of file too; stderr and the status on their own."""
    noise = os.urandom(1 << 20)
    done = in_vm("6.1", ["sh", "-c", "cat; printf 'to\\377err' >&2; exit 7"], stdin=noise)
    assert done.returncode == 7
    assert done.stdout == noise
    progress = done.stderr.splitlines(keepends=True)
    assert progress[-1] == b"to\xfferr"
    assert all(line.startswith(b"vm: ") for line in progress[:-1])
    assert progress[0].startswith(b"vm: booting " + vm_kernel("6.1").release.encode())


def test_a_line_is_answered_before_the_end_of_file() -> None:
    vm_kernel("6.1")
    with subprocess.Popen(
        vm_command("6.1", ["cat"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as vm:
        assert vm.stdin is not None
        assert vm.stdout is not None
        for line in (b"one\n", b"two\n"):
            vm.stdin.write(line)
            vm.stdin.flush()
            assert vm.stdout.readline() == line
        vm.stdin.close()
        assert vm.stdout.read() == b""
        assert vm.wait() == 0


def test_arguments_folder_and_environment_arrive_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "a 'b' \u00fc $x"
    folder.mkdir()
    (folder / "here").write_text("seen")
    argument = "two\nlines; \"quoted\" '$HOME' \\"
    script = 'cat here; printf "%s" "$1" "$odd"; pwd'
    command = vm_command(vm_kernel("6.1").release, ["sh", "-c", script, "sh", argument])
    env = os.environ | {"odd": "a=b 'c'\n", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, cwd=folder, env=env, timeout=60)
    assert done.stdout.decode() == f"seen{argument}a=b 'c'\n{folder}\n"


def test_nothing_written_in_the_guest_reaches_the_host(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    script = f"""
        cd {tmp_path}; echo new >old; echo new >new; rm -f /etc/hostname; touch /sockstep-was-here
        cat old new; ls /etc/hostname /sockstep-was-here 2>/dev/null"""
    hostname = os.path.lexists("/etc/hostname")
    done = in_vm("6.1", ["sh", "-c", script])
    assert done.stdout == b"new\nnew\n/sockstep-was-here\n"
    assert (tmp_path / "old").read_text() == "old"
    assert not (tmp_path / "new").exists()
    assert not Path("/sockstep-was-here").exists()
    assert os.path.lexists("/etc/hostname") == hostname


def test_the_vm_ends_with_the_command_whatever_it_left_behind() -> None:
    done = in_vm("6.1", ["sh", "-c", "sleep 1000 & kill -TERM $$"])
    assert done.returncode == 128 + signal.SIGTERM


def test_a_reader_that_goes_away_ends_it() -> None:
    vm_kernel("6.1")
    with subprocess.Popen(
        vm_command("6.1", ["yes"]), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    ) as vm:
        assert vm.stdout is not None
        assert vm.stdout.readline() == b"y\n"
        vm.stdout.close()
        assert vm.wait(timeout=30) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("name", ["6.1", "sid"])
def test_a_panic_is_one_clear_line(name: str) -> None:
    crash = vm_command(
        vm_kernel(name).release, ["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 9"]
    )
    done = subprocess.run(crash, capture_output=True, timeout=120, cwd=ROOT)
    assert done.returncode == 2
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("sockstep: the guest died: ")
    assert "Kernel panic - not syncing: sysrq triggered crash" in last


# --- QEMU never stays behind ---------------------------------------------------------------


def qemu_of(parent: int) -> int | None:
    """The process id of the QEMU that *parent* started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" (")
        except OSError:
            continue
        name, _, fields = rest.rpartition(") ")
        if name.startswith("qemu-system") and int(fields.split()[1]) == parent:
            return int(pid)
    return None


def ended(pid: int) -> bool:
    """Whether a process is no more, or waits to be reaped (by an init that takes its time)."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def within(seconds: float, what: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("running", [False, True], ids=["booting", "running"])
@pytest.mark.parametrize("number", ["SIGKILL", "SIGINT", "SIGTERM", "SIGHUP"])
def test_however_we_are_ended_qemu_is_too(number: str, running: bool) -> None:
    vm_kernel("6.1")
    command = vm_command("6.1", ["sh", "-c", "echo ready; sleep 1000"])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as vm:
        assert vm.stdout is not None
        assert vm.stderr is not None
        assert within(10, lambda: qemu_of(vm.pid) is not None)
        qemu = qemu_of(vm.pid)
        assert qemu is not None
        if running:
            assert vm.stdout.readline() == b"ready\n"
        else:
            time.sleep(0.5)  # QEMU has read its files, and nobody in the guest can notice yet
        vm.send_signal(signal.Signals[number])
        within(10, lambda: vm.poll() is not None)
        vm.kill()  # if it has not ended by itself: else we would wait for it here, too
        assert vm.wait() == -signal.Signals[number]
        assert within(10, lambda: ended(qemu))
        assert b"Traceback" not in vm.stderr.read()


# --- the accelerator, the debugger's port --------------------------------------------------


def test_kvm_is_tried_once_and_the_finding_is_kept(tmp_path: Path) -> None:
    """It works on one machine and hangs on another: both must end in a running command."""
    kernel = vm_kernel("6.1")
    unless(os.access("/dev/kvm", os.R_OK | os.W_OK), "no /dev/kvm for this user")
    (tmp_path / "sockstep/kernels").mkdir(parents=True)
    (tmp_path / "sockstep/kernels" / kernel.release).symlink_to(kernel.image.parent)
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    told = []
    for _ in range(2):
        done = subprocess.run(
            vm_command(kernel.release, ["true"]), env=env, capture_output=True, timeout=60, cwd=ROOT
        )
        assert done.returncode == 0
        told.append(done.stderr.decode())
    assert "(KVM)" in told[0]
    if "KVM does not work here" in told[0]:
        assert "(emulation)" in told[0]
        assert "KVM" not in told[1]
    else:
        assert "(KVM)" in told[1]


# --- kernels -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_an_image_is_unpacked_and_named(name: str) -> None:
    kernel = vm_kernel(name)
    packed = kernels.resolve(str(kernel.image.with_name("vmlinuz")))
    assert packed.release == kernel.release
    assert packed.modules == kernel.modules
    assert packed.unpacked() == kernel.image.read_bytes()
    assert kernels.resolve(str(kernel.image)).release == kernel.release
    assert kernel.image.read_bytes().startswith(b"\x7fELF")


def test_a_kernel_given_by_path_boots() -> None:
    image = vm_kernel("6.12").image.with_name("vmlinuz")
    done = subprocess.run(
        vm_command(str(image), ["uname", "-r"]), capture_output=True, timeout=60, cwd=ROOT
    )
    assert done.stdout.decode().strip() == vm_kernel("6.12").release


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--kernel", "9.9", "--", "true"], "unknown kernel 9.9"),
        (["run", "--kernel", "./no/such", "--", "true"], "no/such: No such file"),
        (["run", "--kernel", "/bin/sh", "--", "true"], "/bin/sh: not an x86-64 Linux kernel"),
        (["run", "--", "/no/such/program"], "/no/such/program: no such program"),
        (["run", "--"], "which command?"),
        (["fetch", "nonsense"], "unknown kernel nonsense"),
        (["rm", "9.9"], "no kernel 9.9 here"),
        (["dance"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: list[str], says: str) -> None:
    if arguments[0] == "run":
        vm_kernel("6.1")
    done = subprocess.run(
        isolated.command("probes.vm.cli", *arguments), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.may_skip("every other test here boots a kernel of the cache")
def test_without_a_kernel_it_says_how_to_get_one(tmp_path: Path) -> None:
    if os.access(f"/boot/vmlinuz-{os.uname().release}", os.R_OK):
        pytest.skip("this machine's own kernel serves")
    done = subprocess.run(
        vm_command(None, ["true"]), env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "sockstep: no kernel to boot yet: run `sockstep vm fetch 6.12`\n"


@pytest.fixture
def nobody() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `probes.vm` with an empty cache and, if we are root, as a user who is not."""
    unless(shutil.which("apt-get") is not None, "no apt on this machine")
    root = os.geteuid() == 0
    with TemporaryDirectory(dir="/tmp") as home:  # not pytest's: none but its owner gets in there
        for package in (ROOT / "probes", ROOT / "recordings", Path(platformdirs.__file__).parent):
            shutil.copytree(package, Path(home, "site-packages", package.name))
        if root:
            for path in (home, *Path(home).rglob("*")):
                os.chown(path, 65534, 65534)
        python = "/usr/bin/python3" if root else sys.executable  # root's may be out of reach
        probes_vm = [python, "-IS", f"{home}/site-packages/recordings/isolated.py", "probes.vm.cli"]

        def start(*arguments: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [*probes_vm, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=home,
                env={"PATH": os.defpath, "HOME": home, "PYTHONUNBUFFERED": "1"},
                **({"user": 65534, "group": 65534, "extra_groups": []} if root else {}),
            )

        yield start


def test_fetching_needs_no_root_and_survives_a_kill_and_company(
    nobody: Callable[..., subprocess.Popen[str]],
) -> None:
    needs_qemu()
    with nobody("fetch", "5.10") as killed:
        assert killed.stderr is not None
        for line in killed.stderr:
            if "unpacking" in line:
                break
        else:
            unless(False, f"cannot fetch here: {line}")
        killed.kill()
    assert nobody("list").communicate(timeout=30)[0] == ""

    both = [nobody("fetch", "5.10"), nobody("fetch", "5.10")]
    said = [fetch.communicate(timeout=200)[1] for fetch in both]
    assert [fetch.returncode for fetch in both] == [0, 0], said
    assert sorted("is here already" in text for text in said) == [False, True]
    listed = nobody("list").communicate(timeout=30)[0]
    assert listed.startswith("5.10.0-")
    assert listed.count("\n") == 1

    vm = nobody("run", "--kernel", "5.10", "--", "sh", "-c", "uname -r; id -u")
    out, err = vm.communicate(timeout=100)
    assert out == f"{listed}0\n", err
    assert nobody("rm", "5.10").wait(timeout=30) == 0
    assert nobody("list").communicate(timeout=30)[0] == ""


def test_an_archive_signed_by_another_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unless(os.path.exists(kernels.KEYRING), "no Debian keyring on this machine")
    another = tmp_path / "another.gpg"
    another.touch()
    monkeypatch.setattr(kernels, "KERNELS", tmp_path / "kernels")
    monkeypatch.setattr(kernels, "KEYRING", str(another))
    with pytest.raises(kernels.VmError) as refused:
        kernels.fetch("6.1", print)
    reason = str(refused.value)
    unless(re.search("resolve|connect|Debian mirror", reason) is None, reason)
    assert re.search("is not signed|NO_PUBKEY|public key", reason)
    assert not list((tmp_path / "kernels").glob("[0-9]*"))
