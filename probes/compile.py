"""Compiling a backend's BPF C with the distribution's bcc, once for each kernel.

bcc (clang) is asked only when the same source with the same numbers was not compiled before: what
it made is kept, instructions and map shapes, and loaded from there by bpf_syscall.py. So a second
start needs neither bcc nor its 0.4 s (in an emulated VM: its 10 s).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from probes import private
from probes.bpf_syscall import MapShape, map_shape

BPF_SOURCES = Path(__file__).parent / "bpf"
CACHE = Path("/var/cache/sockstep/bpf")
_DIST_PACKAGES = "/usr/lib/python3/dist-packages"
_LD_IMM64, _PSEUDO_MAP_FD = 0x18, 1


class CompileError(Exception):
    """The BPF programs cannot be had; one line that says why and what to do."""


class Code(msgspec.Struct):
    """Compiled programs. Where code names a map, it holds the map's place in `maps`."""

    maps: dict[str, MapShape]
    programs: dict[str, bytes]


@cache
def bcc() -> Any:
    """The distribution's bcc module, also from inside a virtual environment.

    Only that one package is taken from dist-packages, so that nothing else there shadows ours.
    Raises CompileError where it is not installed.
    """
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF_SOURCES)  # our own headers, not the kernel's
    for folder in (_DIST_PACKAGES, f"/usr/lib/python3.{sys.version_info.minor}/site-packages"):
        init = Path(folder) / "bcc" / "__init__.py"
        if not (init.parent / "libbcc.py").exists():  # PyPI's bcc has none: it is another thing
            continue
        spec = importlib.util.spec_from_file_location(
            "bcc", init, submodule_search_locations=[str(init.parent)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["bcc"] = module
        try:
            spec.loader.exec_module(module)
        except (ImportError, OSError) as error:
            raise CompileError(f"the distribution's bcc does not load: {error}") from error
        return module
    raise CompileError("the distribution's bcc is missing: apt install python3-bpfcc")


def compiled(sources: tuple[str, ...], defines: list[str]) -> Code:
    """The programs of these files of probes/bpf, as one text: from the cache, or by bcc now.

    Raises CompileError.
    """
    # One text: bcc takes programs, and rewrites map calls, in the main file only.
    text = "\n".join((BPF_SOURCES / name).read_text("utf-8") for name in sources)
    key = hashlib.sha256("\0".join([text, *defines]).encode()).hexdigest()[:32]
    distrust = ""
    try:
        if (code := _decoded(private.read(CACHE, key))) is not None:
            return code
    except (OSError, private.PrivateError) as error:
        distrust = f"; they cannot be kept: {error}"
    said = f"agent: compiling the probes{distrust or ', once for this kernel'}"
    print(said, file=sys.stderr, flush=True)
    code = _compile(text, defines)
    with contextlib.suppress(OSError, private.PrivateError):  # costs time at each start, no more
        private.write(CACHE, key, msgspec.msgpack.encode(code))
    return code


def _decoded(data: bytes | None) -> Code | None:
    try:
        return None if data is None else msgspec.msgpack.decode(data, type=Code)
    except msgspec.DecodeError:  # of another version of sockstep
        return None


def _compile(text: str, defines: list[str]) -> Code:
    said: list[str] = []
    try:
        with _quiet(said):
            bpf = bcc().BPF(text=text.encode(), cflags=["-g0", *defines])
    except CompileError:
        raise
    except Exception as error:  # bcc raises nothing else
        why = "; ".join([str(error), *said[:3]])
        raise CompileError(f"the BPF program does not compile: {why}") from error
    lib, module = bcc().lib, bpf.module
    names = re.findall(r"^BPF_[A-Z_]+\((\w+),", text, re.M)
    fds = {lib.bpf_table_fd(module, name.encode()): place for place, name in enumerate(names)}
    maps = {name: map_shape(fd) for name, fd in zip(names, fds, strict=True)}
    programs = {}
    for i in range(lib.bpf_num_functions(module)):
        name = lib.bpf_function_name(module, i)
        programs[name.decode()] = _refer(bpf.dump_func(name), fds)
    with _quiet(said):
        bpf.cleanup()
    return Code(maps, programs)


def _refer(code: bytes, places: dict[int, int]) -> bytes:
    """The instructions with `places[immediate]` for the immediate of each load of a map."""
    patched = bytearray(code)
    for at in range(0, len(code), 8):
        if code[at] == _LD_IMM64 and code[at + 1] >> 4 == _PSEUDO_MAP_FD:
            immediate = int.from_bytes(code[at + 4 : at + 8], "little")
            patched[at + 4 : at + 8] = places[immediate].to_bytes(4, "little")
    return bytes(patched)


def relocated(code: bytes, fds: list[int], constants: dict[int, int]) -> bytes:
    """Instructions to load: with the maps' descriptors, and a template's constants, in place."""
    patched = bytearray(_refer(code, dict(enumerate(fds))))
    for at in range(0, len(code), 8):
        immediate = int.from_bytes(code[at + 4 : at + 8], "little")
        if code[at] == _LD_IMM64 and code[at + 1] >> 4 == 0 and immediate in constants:
            patched[at + 4 : at + 8] = constants[immediate].to_bytes(4, "little")
    return bytes(patched)


@contextlib.contextmanager
def _quiet(said: list[str]) -> Iterator[None]:
    """Catches what libbcc and clang print to stderr: lines, added to `said` at the end."""
    sys.stderr.flush()
    saved = os.dup(2)
    with os.fdopen(os.memfd_create("stderr", os.MFD_CLOEXEC), "rb") as memory:
        os.dup2(memory.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            memory.seek(0)
            said += [line for line in memory.read().decode(errors="replace").splitlines() if line]
