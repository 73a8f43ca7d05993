"""Reading and writing the event stream: JSON Lines, one event a line, flushed after each."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recordings import events as ev
from recordings.layers import FIELDS, STRUCTS

LINE_LIMIT = 4 << 20  # bytes: a longer line is not one of ours
TEXT_LIMIT = 1000  # characters of an error: a file may be quoted in it


class StreamError(Exception):
    """The stream cannot be used; the text says what is wrong and where, in one line."""

    def __init__(self, text: str) -> None:
        from recordings.words import visible  # words knows the story: no agent needs that

        text = visible(text)  # it may quote the file, and name it
        super().__init__(text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}…")


class _Tag(msgspec.Struct):
    ev: str


_decoder = msgspec.json.Decoder(ev.AnyEvent)
_tag = msgspec.json.Decoder(_Tag)
_KNOWN = {kind.__struct_config__.tag for kind in ev.Event.__subclasses__()}
_encoder = msgspec.json.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """One event or command as JSON. What is not Unicode (argv, file names) is sent as `?`."""
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(message), ensure_ascii=False)
        return text.encode(errors="replace")


class Reader:
    """Decodes a stream line by line: `feed` gives an event, or None for a kind unknown here.

    The first line must be a header that this version can read. A reader of a file and a reader
    of a live agent are the same thing.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.line = 0
        self.header: ev.Header | None = None

    def feed(self, line: bytes) -> ev.Event | None:
        """Decode one line. Raises StreamError, naming the line, for anything malformed."""
        self.line += 1
        if len(line) > LINE_LIMIT:
            raise StreamError(f"{self.source}:{self.line}: line longer than {LINE_LIMIT} bytes")
        try:
            event: ev.Event = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._not_ours(line, error)
            return None
        if isinstance(event, ev.Header):
            self._greet(event)
        elif self.header is None:
            raise StreamError(f"{self.source} is not a sockstep recording: no header line")
        return event

    def _not_ours(self, line: bytes, error: Exception) -> None:
        try:
            kind = _tag.decode(line).ev
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            kind = ""
        if self.header is None:
            self._foreign_header(line, error)
        if kind == "" or kind in _KNOWN:
            raise StreamError(f"{self.source}:{self.line}: malformed event: {error}") from error

    def _foreign_header(self, line: bytes, error: Exception) -> None:
        """A header of a later version may not decode as ours: still name both versions."""
        try:
            raw = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raw = None
        if isinstance(raw, dict) and raw.get("format") == ev.FORMAT and raw.get("ev") == "header":
            since, version = raw.get("readable_since"), raw.get("version")
            if isinstance(since, int) and since > ev.VERSION:
                self._too_new(version, since)
            raise StreamError(f"{self.source}:{self.line}: malformed header: {error}")
        raise StreamError(f"{self.source} is not a sockstep recording: no header line")

    def _too_new(self, version: object, since: int) -> None:
        raise StreamError(
            f"{self.source} has schema version {version}, readable since version {since}; this "
            f"sockstep reads version {ev.VERSION}: upgrade sockstep"
        )

    def _greet(self, header: ev.Header) -> None:
        if header.format != ev.FORMAT:
            raise StreamError(f"{self.source} is not a sockstep recording: {header.format!r}")
        if header.readable_since > ev.VERSION:
            self._too_new(header.version, header.readable_since)
        if self.header is not None:
            raise StreamError(f"{self.source}:{self.line}: a second header")
        self.header = header


_TEXTS = {
    layer: ("at", *(found.name for found in FIELDS if found.layer == layer and found.pointer))
    for layer in STRUCTS
}
_TEXTS["fd"] = ("file",)


class _Once:
    """Keeps one object of each text and reading that comes again: they are most of a recording."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._snap = ev.Snapshot()

    def keep(self, event: ev.Event) -> None:
        if isinstance(event, ev.Step):
            self._keep(event, ("id", "comm", "probe", "symbol"))
            if event.snap == self._snap:  # one probe tells of several steps
                event.snap = self._snap
                return
            self._snap = event.snap
            for layer, names in _TEXTS.items():
                if (struct := getattr(event.snap, layer)) is not None:
                    self._keep(struct, names)
        elif isinstance(event, ev.Alloc | ev.Free):
            self._keep(event, ("at", "site"))

    def _keep(self, struct: msgspec.Struct, names: tuple[str, ...]) -> None:
        texts = self._texts
        for name in names:
            if (value := getattr(struct, name)) is not None:
                setattr(struct, name, texts.setdefault(value, value))


@dataclass
class Progress:
    """How much of a recording was read: `portion`, from 0 to 1."""

    bytes: int = 0
    size: int = 0

    @property
    def portion(self) -> float:
        return self.bytes / self.size if self.bytes < self.size else 1.0


def read(path: Path, progress: Progress | None = None) -> Iterator[ev.Event]:
    """The events of a recording. A cut-off last line is accepted and said in a Note.

    `progress`: kept up to date.

    Raises StreamError for a file that cannot be read or is not a recording.
    """
    reader = Reader(str(path))
    last = 0
    once = _Once()
    try:
        with path.open("rb") as file:
            progress = progress or Progress()
            progress.size = os.fstat(file.fileno()).st_size
            while line := file.readline(LINE_LIMIT + 1):
                progress.bytes += len(line)
                if not line.endswith(b"\n") and len(line) <= LINE_LIMIT:
                    try:
                        event = reader.feed(line)
                    except StreamError:
                        if reader.header is None:
                            raise
                        text = f"the recording's last line ({reader.line}) is cut off"
                        event = ev.Note(t=last, text=text)
                elif line.strip():
                    event = reader.feed(line)
                else:
                    reader.line += 1
                    continue
                if event is not None:
                    last = event.t
                    once.keep(event)
                    yield event
    except OSError as error:
        raise StreamError(f"cannot read {path}: {error.strerror}") from error
    if reader.header is None:
        raise StreamError(f"{path} is not a sockstep recording: it is empty")


class Writer:
    """Writes events to a file of mode 0600, each flushed as it comes.

    `owner`: (uid, gid) to whom the file is given, when we run as another (sudo). Raises OSError,
    with a text of its own for a symbolic link, since root may be writing in a folder that belongs
    to another, and for a FIFO, whose reader might never come.
    """

    def __init__(self, path: Path, owner: tuple[int, int] | None = None) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags | os.O_NONBLOCK, 0o600)  # wait for no FIFO's reader
        except OSError as error:
            if error.errno == errno.ELOOP and path.is_symlink():
                text = "it is a symbolic link, and none is followed"
                raise OSError(errno.ELOOP, text, str(path)) from error
            if error.errno == errno.ENXIO and path.is_fifo():
                raise _no_fifo(path) from error
            raise
        os.set_blocking(self._fd, True)
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISFIFO(mode):
            self.close()
            raise _no_fifo(path)
        if stat.S_ISREG(mode):  # never the mode of /dev/null
            os.fchmod(self._fd, 0o600)
            if owner is not None:
                os.fchown(self._fd, *owner)

    def write(self, event: ev.Event) -> None:
        self.write_line(encode(event) + b"\n")

    def write_line(self, line: bytes) -> None:
        """Write one line, or several whole ones, as they came from an agent."""
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError as error:  # os.write() does not know the file's name
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _no_fifo(path: Path) -> OSError:
    return OSError(errno.EINVAL, "it is a FIFO, and a recording is a file", str(path))
