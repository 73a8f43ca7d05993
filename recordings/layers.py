"""The layers of a socket: the kernel structs, what is read of each, and the pointers between them.

A program's descriptor number leads to a `struct file`, that to a `struct socket`, and that to a
`struct sock`; each has a pointer back, but for the file, which may stand in many tables. This is
the one description of them: the probes, the frozen machine, the story, the verdict, the report and
the screen read it. A new field is one line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

Ptr = str
NULL: Ptr = "0x0"
UNREAD: Ptr = ""  # as a layer's `at`: some of its fields were read, its own address was not
Kind = Literal["file", "socket", "sock", "fd"]


@dataclass(frozen=True)
class Field:
    """How a field stands in the kernel: `size` in bytes; `path`: its way through inner structs, as
    BTF has it, where there is one; `now`: its newer name. `table`: it points to a table of
    functions, whose symbol says what it is.
    """

    size: int
    path: str = ""
    now: str = ""
    table: bool = False


class Layer(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """The fields of one kernel struct as they were read at one moment; None was not read."""

    at: Ptr


class File(Layer):
    """`struct file` (include/linux/fs.h)."""

    private_data: Annotated[Ptr | None, Field(8)] = None
    f_op: Annotated[Ptr | None, Field(8, table=True)] = None
    f_inode: Annotated[Ptr | None, Field(8)] = None
    f_count: Annotated[int | None, Field(8, now="f_ref")] = None  # since Linux 6.13
    f_flags: Annotated[int | None, Field(4)] = None


class Socket(Layer):
    """`struct socket` (include/linux/net.h)."""

    state: Annotated[int | None, Field(4)] = None
    type: Annotated[int | None, Field(2)] = None
    flags: Annotated[int | None, Field(8)] = None
    file: Annotated[Ptr | None, Field(8)] = None
    sk: Annotated[Ptr | None, Field(8)] = None
    ops: Annotated[Ptr | None, Field(8, table=True)] = None


class Sock(Layer):
    """`struct sock` (include/net/sock.h)."""

    sk_socket: Annotated[Ptr | None, Field(8)] = None
    skc_family: Annotated[int | None, Field(2, "__sk_common.skc_family")] = None
    skc_state: Annotated[int | None, Field(1, "__sk_common.skc_state")] = None
    skc_refcnt: Annotated[int | None, Field(4, "__sk_common.skc_refcnt")] = None
    sk_type: Annotated[int | None, Field(2)] = None
    sk_protocol: Annotated[int | None, Field(2)] = None
    skc_prot: Annotated[Ptr | None, Field(8, "__sk_common.skc_prot", table=True)] = None


class Fd(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """One slot of the tracee's descriptor table (`struct fdtable`).

    `file`: what `fdt->fd[number]` led to (NULL: reserved, not installed).
    `lowest`: the lowest free number before it was taken, from `fdt->open_fds`; `users`: how
    many tasks share the table (`files_struct.count`), any of which may have changed it since.
    """

    number: int
    file: Ptr | None = None
    lowest: int | None = None
    users: int | None = None


class Snapshot(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """The layers as read at one moment. A layer that is absent was not read then."""

    fd: Fd | None = None
    file: File | None = None
    socket: Socket | None = None
    sock: Sock | None = None


# From the program's side down: the order of the screen and of the reports.
STRUCTS: dict[Kind, type[Any]] = {"file": File, "socket": Socket, "sock": Sock}
LAYERS: dict[Kind, type[Any]] = {"fd": Fd, **STRUCTS}
LABELS: dict[Kind, str] = {
    "fd": "descriptor table", "file": "struct file", "socket": "struct socket",
    "sock": "struct sock",
}  # fmt: skip
NAMES: dict[Kind, str] = {"file": "VFS", "socket": "Socket", "sock": "Stack"}
# What socket(2) makes, in that order; and the function that ends in an object's free, whatever
# happens on the way.
MADE: tuple[Kind, ...] = ("socket", "sock", "file", "fd")
DESTROYERS: dict[Kind, str] = {
    "socket": "sock_free_inode", "sock": "__sk_destruct", "file": "__fput",
}  # fmt: skip


@dataclass(frozen=True)
class Pointer:
    """The `field` of the layer `source` leads to the layer `target`, whose field `back` leads
    back; None: there is no way back."""

    source: Kind
    field: str
    target: Kind
    back: str | None = None

    @property
    def name(self) -> str:
        return f"{self.source}.{self.field}"


LINKS: dict[str, Pointer] = {
    f"{pointer.source}→{pointer.target}": pointer
    for pointer in (
        Pointer("fd", "file", "file"),
        Pointer("file", "private_data", "socket", "file"),
        Pointer("socket", "file", "file", "private_data"),
        Pointer("socket", "sk", "sock", "sk_socket"),
        Pointer("sock", "sk_socket", "socket", "sk"),
    )
}
LINK_OF = {pointer.name: link for link, pointer in LINKS.items()}


@dataclass(frozen=True)
class Found:
    """A field of a layer as the probes look for it: `pointer`: its value is an address."""

    layer: Kind
    name: str
    field: Field
    pointer: bool


def _found() -> tuple[Found, ...]:
    return tuple(
        Found(layer, name, field, Ptr in get_args(get_args(hint)[0]))
        for layer, struct in STRUCTS.items()
        for name, hint in get_type_hints(struct, include_extras=True).items()
        for field in getattr(hint, "__metadata__", ())
    )


# In a fixed order: the numbers of the fields in `struct event` (probes/bpf/common.c).
FIELDS = _found()
POINTERS = {found.name for found in FIELDS if found.pointer}
