"""Kernels to boot: Debian's own, fetched without root, and any other by its path.

A fetched kernel is `<user cache>/sockstep/kernels/<release>/` with

- `vmlinuz`: the kernel as it is shipped;
- `vmlinux`: the same, unpacked: emulated, a kernel takes 1.5 s (zstd) to 5 s (xz) to unpack
  itself; here it takes less than one, once;
- `lib/modules/<release>/`: all its modules and their index;
- `suite`: the name it was fetched by.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gzip
import lzma
import os
import pwd
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from platformdirs import user_cache_path

from recordings.invoker import invoking_user

# Root boots nothing that a user could write, though sudo may have left it their HOME.
CACHE = (
    Path(pwd.getpwuid(0).pw_dir, ".cache/sockstep")
    if invoking_user() is not None
    else user_cache_path("sockstep")
)
KERNELS = CACHE / "kernels"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "sid": "sid"}
DRIVERS = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
SBIN = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"  # often not in a user's PATH

Progress = Callable[[str], None]


class VmError(Exception):
    """What went wrong, in one line for the user."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted.

    `release` is what `uname -r` says in it, `image` an ELF vmlinux or a bzImage, `modules`
    its modules folder, that ends in `lib/modules/<release>`.
    """

    release: str
    image: Path
    modules: Path

    def drivers(self) -> list[Path]:
        """The module files that a VM needs, in the order to load them.

        Raises VmError if the kernel has not got them (Debian's cloud kernels lack 9p).
        """
        try:
            index = (self.modules / "modules.dep").read_text().splitlines()
            builtin = (self.modules / "modules.builtin").read_text().split()
        except OSError as error:
            why = f"{error.filename}: {error.strerror}"
            raise VmError(f"the modules of kernel {self.release} cannot be read: {why}") from None
        have = {_module(path) for path in builtin}
        depends = {_module(line): line.replace(":", "").split() for line in index}
        order: dict[str, None] = {}
        for name in DRIVERS:
            if name in depends:
                order.update(dict.fromkeys(reversed(depends[name])))
            elif name not in have:
                raise VmError(f"kernel {self.release} cannot be used for a VM: it has no {name}")
        return [self.modules / path for path in order]

    def unpacked(self) -> bytes | None:
        """The vmlinux in a bzImage; None where `image` is one already, or cannot be unpacked."""
        return None if self.image.name == "vmlinux" else _unpack(self.image.read_bytes())


def _module(path: str) -> str:
    """The name of a module, from its file's path."""
    return path.partition(":")[0].rpartition("/")[2].partition(".")[0].replace("-", "_")


def _newest_last(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


# --- kernels at hand -----------------------------------------------------------------------


def installed() -> list[Kernel]:
    """The fetched kernels, oldest release first."""
    folders = [folder for folder in KERNELS.glob("[0-9]*") if folder.is_dir()]
    folders.sort(key=lambda folder: _newest_last(folder.name))
    return [_cached(folder) for folder in folders]


def _cached(folder: Path) -> Kernel:
    release = folder.name
    return Kernel(release, folder / "vmlinux", folder / "lib/modules" / release)


def _named(name: str) -> list[Kernel]:
    """The fetched kernels that *name* fits: a release, the start of one, or `sid`."""
    if name == "sid":
        return [k for k in installed() if (k.image.parent / "suite").read_text() == "sid"]
    return [k for k in installed() if _fits(name, k.release)]


def _fits(name: str, release: str) -> bool:
    """Whether *release* is of *name*: 6.1.0-56-amd64 is a 6.1, and 6.12 is not."""
    return re.match(re.escape(name) + r"(?![0-9])", release) is not None


def remove(name: str) -> list[str]:
    """Remove the fetched kernels that *name* fits. Returns their releases."""
    with _changing_the_cache(lambda line: None) as work:
        kernels = _named(name)
        for kernel in kernels:  # out of sight at once: half a kernel is never taken for one
            kernel.image.parent.rename(work / kernel.release)
    if not kernels:
        raise VmError(f"no kernel {name} here: see `sockstep vm list`")
    return [kernel.release for kernel in kernels]


def resolve(name: str | None) -> Kernel:
    """The kernel called *name*: a release or its start (`6.1`), `sid`, or a path to an image.

    None (or "") is the running kernel if its image can be read and its modules serve, else
    the newest fetched one. Raises VmError if there is none.
    """
    if not name:
        release = os.uname().release
        running = Path("/boot/vmlinuz-" + release)
        if os.access(running, os.R_OK):
            with contextlib.suppress(VmError):
                kernel = _at(running)
                kernel.drivers()
                return kernel
        kernels = installed()
        if not kernels:
            raise VmError("no kernel to boot yet: run `sockstep vm fetch 6.12`")
        return kernels[-1]
    if "/" in name:
        return _at(Path(name))
    if found := _named(name):
        return found[-1]
    if name in SUITES:
        raise VmError(f"kernel {name} is not fetched yet: run `sockstep vm fetch {name}`")
    known = ", ".join([*SUITES, *(kernel.release for kernel in installed())])
    raise VmError(f"unknown kernel {name}: a path to a vmlinuz, or one of {known}")


def _at(image: Path) -> Kernel:
    """The kernel at the path *image*, its modules beside it or in /lib/modules."""
    try:
        data = image.read_bytes()
    except OSError as error:
        raise VmError(f"{image}: {error.strerror}") from None
    release = _release(data)
    if release is None:
        raise VmError(f"{image}: not an x86-64 Linux kernel")
    for above in (image.absolute().parent, Path("/")):
        modules = above / "lib/modules" / release
        if modules.is_dir():
            return Kernel(release, image.absolute(), modules)
    raise VmError(f"{image}: no modules of {release} in lib/modules beside it, or in /lib/modules")


# --- the kernel's image, https://docs.kernel.org/arch/x86/boot.html ------------------------


def _release(image: bytes) -> str | None:
    """What `uname -r` will say, from a bzImage's header or a vmlinux's banner."""
    if image[0x202:0x206] == b"HdrS":
        (start,) = struct.unpack_from("<H", image, 0x20E)
        return image[start + 0x200 :].split(maxsplit=1)[0].decode("ascii", "replace")
    if image.startswith(b"\x7fELF"):
        banner = re.search(rb"Linux version ([\x21-\x7e]+) \(", image)
        return banner[1].decode() if banner else None
    return None


def _unpack(image: bytes) -> bytes | None:
    """The ELF vmlinux inside a bzImage; None if that is not what it is, or not to be unpacked."""
    if image[0x202:0x206] != b"HdrS":
        return None
    sectors = (image[0x1F1] or 4) + 1
    offset, length = struct.unpack_from("<II", image, 0x248)
    packed = image[sectors * 512 + offset :][:length]
    (size,) = struct.unpack("<I", packed[-4:])  # the build puts it there for every format
    vmlinux = None
    with contextlib.suppress(EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error):  # damaged
        if packed.startswith(b"\xfd7zXZ"):
            vmlinux = lzma.LZMADecompressor().decompress(packed)
        elif packed.startswith(b"\x1f\x8b"):
            vmlinux = gzip.decompress(packed)
        elif packed.startswith(b"\x28\xb5\x2f\xfd"):
            vmlinux = _unzstd(packed[:-4], size)
    return vmlinux if vmlinux and vmlinux.startswith(b"\x7fELF") else None


def _unzstd(packed: bytes, size: int) -> bytes | None:
    """By the library that dpkg and QEMU use: Python has zstd from 3.14 only."""
    try:
        decompress = ctypes.CDLL("libzstd.so.1").ZSTD_decompress
    except OSError:
        return None
    decompress.restype = ctypes.c_size_t
    out = ctypes.create_string_buffer(size)
    got = decompress(out, ctypes.c_size_t(size), packed, ctypes.c_size_t(len(packed)))
    return out.raw if got == size else None


# --- fetching ------------------------------------------------------------------------------


def fetch(name: str, progress: Progress) -> Kernel:
    """Fetch the newest Debian kernel of *name* into the cache: `5.10`, `6.1`, `6.12`, `sid`,
    or the version that sid has (`7.2`).

    apt does it, with lists and folders of our own, from the mirror that this machine's apt
    uses, checking the archive's signatures as always. *progress* gets a line at a time.
    Raises VmError. Safe to call from several processes at once.
    """
    suite = SUITES.get(name, "sid")
    if not re.fullmatch(r"\d+\.\d+|sid", name):
        raise VmError(f"unknown kernel {name}: there are {', '.join(SUITES)}")
    with _changing_the_cache(progress) as work:
        return _fetch(name, suite, work, progress)


def _fetch(name: str, suite: str, work: Path, progress: Progress) -> Kernel:
    progress(f"{name}: reading Debian's package lists ({suite})")
    apt = _Apt(work, suite)
    apt.run("apt-get", "-qq", "-o", "APT::Update::Error-Mode=any", "update")
    image = next(p for p in apt.depends("linux-image-amd64") if p.startswith("linux-image-"))
    release = image.removeprefix("linux-image-")
    if name != "sid" and not _fits(name, release):
        raise VmError(f"Debian {suite} has kernel {release} now, not {name}")
    final = KERNELS / release
    if final.is_dir():
        progress(f"{name}: {release} is here already and is the newest")
        return _cached(final)

    # In sid the image package is empty: the kernel and its modules are what it depends on.
    packages = [image, *(p for p in apt.depends(image) if p.endswith("-" + release))]
    progress(f"{name}: downloading {release}")
    apt.download(packages, lambda percent: progress(f"{name}: {percent} % of {release}"))

    progress(f"{name}: unpacking")
    tree = work / "tree"
    for package in sorted(work.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(tree)])
    folder = work / "kernel"
    modules = folder / "lib/modules" / release
    modules.parent.mkdir(parents=True)
    usr = tree / "usr/lib/modules" / release
    (usr if usr.is_dir() else tree / "lib/modules" / release).rename(modules)
    inside = modules / "vmlinuz"  # here in sid, in /boot before
    packed = inside if inside.exists() else tree / "boot" / f"vmlinuz-{release}"
    packed = packed.rename(folder / "vmlinuz")
    data = packed.read_bytes()
    (folder / "vmlinux").write_bytes(_unpack(data) or data)
    (folder / "suite").write_text(suite)

    progress(f"{name}: indexing the modules")
    depmod = shutil.which("depmod", path=SBIN)
    index = [depmod] if depmod else ["busybox", "depmod"]
    _run([*index, "-b", str(folder), release])
    folder.rename(final)
    return _cached(final)


class _Apt:
    """apt on a suite of Debian's, with every list and folder of its own in *work*."""

    def __init__(self, work: Path, suite: str) -> None:
        self.work = work
        if not os.path.exists(KEYRING):
            raise VmError(f"no {KEYRING}: install debian-archive-keyring")
        main, security = _mirrors()
        sources = [(main, suite)]
        if security and suite != "sid":
            sources.append((security, suite + "-security"))
        (work / "debian.sources").write_text(
            "\n".join(
                f"Types: deb\nURIs: {uri}\nSuites: {of}\nComponents: main\nArchitectures: amd64\n"
                f"Targets: Packages\nLanguages: none\nSigned-By: {KEYRING}\n"
                for uri, of in sources
            )
        )
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (work / folder).mkdir(parents=True)
        (work / "status").touch()
        # Read after the machine's own configuration: its proxies and passwords hold, its
        # sources and hooks do not. Without root there is no user to drop to.
        (work / "apt.conf").write_text(
            f'Dir::State "{work}/state";\nDir::State::status "{work}/status";\n'
            f'Dir::Cache "{work}/cache";\nDir::Etc::SourceParts "-";\n'
            f'Dir::Etc::SourceList "{work}/debian.sources";\n'
            'APT::Sandbox::User "root";\n#clear APT::Update;\n'
        )

    def _command(self, tool: str, *args: str) -> list[str]:
        return [tool, "-c", str(self.work / "apt.conf"), *args]

    def run(self, tool: str, *args: str) -> str:
        return _run(self._command(tool, *args))

    def depends(self, package: str) -> list[str]:
        """The names of the packages that the newest *package* depends on."""
        lines = self.run("apt-cache", "depends", package).splitlines()
        return [line.split(": ")[1] for line in lines if re.match(r"[ |]*Depends: \w", line)]

    def download(self, packages: list[str], progress: Callable[[int], None]) -> None:
        """Download *packages* into the work folder; *progress* gets 10, 20 … per cent."""
        command = self._command("apt-get", "-qq", "-o", "APT::Status-Fd=1", "download", *packages)
        with (
            (self.work / "errors").open("w+") as errors,
            subprocess.Popen(
                command, cwd=self.work, stdout=subprocess.PIPE, stderr=errors, text=True, env=_C
            ) as apt,
        ):
            assert apt.stdout is not None
            last = 0
            for line in apt.stdout:  # dlstatus:1:23.4567:Retrieving file 1 of 1
                percent = re.match(r"dlstatus:\d+:(\d+)", line)
                if percent and int(percent[1]) >= last + 10:
                    last = int(percent[1]) // 10 * 10
                    progress(last)
            if apt.wait():
                errors.seek(0)
                raise VmError(_last_error("apt-get download", errors.read()))


def _mirrors() -> tuple[str, str | None]:
    """The Debian archive and its security archive, as this machine's apt sources have them."""
    wanted = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    found: dict[bool, str] = {}
    for line in _run(["apt-get", "indextargets", "--format", wanted]).splitlines():
        parts = line.split(" ", 3)
        if len(parts) < 4:
            continue
        uri, release, component, origin = parts
        # apt knows the origin once it has read the lists. Its signature is checked in any case.
        debian = origin == "Debian" or (origin == "$(ORIGIN)" and "debian" in uri)
        if debian and component == "main" and not uri.startswith("cdrom:"):
            found.setdefault(release.endswith("-security"), uri)
    if False not in found:
        raise VmError("apt's sources on this machine name no Debian mirror to fetch from")
    return found[False], found.get(True)


# --- small things --------------------------------------------------------------------------

_C = {**os.environ, "LC_ALL": "C"}


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=_C)
    except FileNotFoundError:
        raise VmError(f"{command[0]} is not installed, and fetching a kernel needs it") from None
    if done.returncode:
        raise VmError(_last_error(Path(command[0]).name, done.stderr))
    return done.stdout


def _last_error(what: str, said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E: ")] or lines or ["failed"]
    return f"{what}: {errors[0].removeprefix('E: ')}"


@contextlib.contextmanager
def _changing_the_cache(progress: Progress) -> Iterator[Path]:
    """Keeps other processes from changing the cache meanwhile. Gives a folder to work in."""
    try:
        KERNELS.mkdir(parents=True, exist_ok=True)
        with (KERNELS / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for another fetch to finish")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for left in KERNELS.glob(".work-*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            with TemporaryDirectory(
                prefix=".work-", dir=KERNELS, ignore_cleanup_errors=True
            ) as work:
                yield Path(work)
    except OSError as error:
        raise VmError(f"the kernels' cache: {error}") from None
