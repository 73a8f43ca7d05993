"""Where the stream comes from: a running agent, or a recording."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol

from recordings import commands
from recordings import events as ev
from recordings.stream import LINE_LIMIT, Progress, Reader, StreamError, Writer, encode, read
from recordings.uapi import signal_name
from tui import places, plain
from tui.options import Options

FAREWELL = 2.0  # seconds that the agent has, after detach or quit, to end its stream
SLICE = 500  # events of a recording taken in between two looks at the keyboard
_PROGRESS = ("vm: ", "agent: ")  # what a line begins with that tells of no trouble


class AgentLost(StreamError):
    """The agent ended before the program did. `why`: what it said last, or how it ended."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the agent ended before the program did: {why}")
        self.why = why


class Source(Protocol):
    """What the app needs of a stream. `batches` ends when the stream does."""

    live: bool
    path: Path | None  # the recording
    trouble: str  # why no more is recorded, if so

    def batches(self) -> AsyncIterator[list[ev.Event]]: ...

    def send(self, command: commands.Command) -> None: ...


class Replay:
    """A recording. Its first events are read at once, so that a bad file is known at once."""

    live = False
    trouble = ""

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path
        self.progress = Progress()
        self._events = read(path, self.progress)
        self._first = list(islice(self._events, SLICE))

    async def batches(self) -> AsyncIterator[list[ev.Event]]:
        batch = self._first
        gc.disable()  # nothing of a story is garbage: looking for some would take half the time
        try:
            while batch:
                yield batch
                await asyncio.sleep(0)
                batch = list(islice(self._events, SLICE))
        finally:
            gc.freeze()
            gc.enable()

    def send(self, command: commands.Command) -> None:
        raise RuntimeError("a recording takes no commands")


class Live:
    """A running agent: events in, commands out, every line recorded as it came."""

    live = True

    def __init__(self, options: Options, progress: Callable[[str], None]) -> None:
        self.path: Path | None = None
        self.recordings: list[Path] = []
        self.trouble = ""
        self.said: deque[str] = deque(maxlen=20)  # the agent's last words on stderr
        self._options = options
        self._progress = progress
        self._reader = Reader("the agent")
        self._writer: Writer | None = None
        self._ended = False
        self._rest = b""
        self._first: list[ev.Event] = []

    @property
    def holds(self) -> bool:
        """Whether calls are held asleep in the kernel, wherever they can be."""
        return self._options.hold is not None and not self._options.frozen

    @property
    def in_vm(self) -> bool:
        return self._options.vm is not None

    @property
    def started(self) -> bool:
        return self._reader.header is not None

    async def start(self) -> None:
        """Start the agent. Raises StreamError when it cannot be started at all."""
        command = self._options.agent()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=plain.environment(),
                # sudo and ssh need our terminal to ask for a password; the plain agent must not
                # get the terminal's signals: our end of file is what it goes by.
                start_new_session=self._options.via is None,
            )
        except OSError as error:
            raise StreamError(f"cannot start {command[0]}: {error.strerror}") from error
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self._process.stderr
        while chunk := await self._process.stderr.read(1 << 16):
            for line in chunk.decode(errors="replace").splitlines():
                if text := line.strip().removeprefix("sockstep: "):
                    if not text.startswith(_PROGRESS):
                        self.said.append(text)
                    self._progress(text)

    async def greet(self) -> None:
        """Wait for the agent's header; what came with it is the first batch."""
        async for batch in self.batches():
            self._first += batch
            if self.started:
                return

    async def batches(self) -> AsyncIterator[list[ev.Event]]:
        """Raises StreamError when the agent ends before the stream does, or speaks nonsense."""
        if self._first:
            batch, self._first = self._first, []
            yield batch
        while chunk := await self._stdout.read(1 << 16):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > LINE_LIMIT:
                raise StreamError(f"the agent sent a line longer than {LINE_LIMIT} bytes")
            if batch := [event for line in lines if (event := self._take(line)) is not None]:
                yield batch
        if not self._ended:
            raise await self._lost()

    async def _lost(self) -> StreamError:
        """Why there is no more: what the agent said last, or how it ended."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._listener, FAREWELL)
        status = await self._process.wait()
        how = signal_name(-status) if status < 0 else f"status {status}"
        if self.started:
            return AgentLost(self.said[-1] if self.said else how)
        return StreamError(self.said[-1] if self.said else f"the agent ended with {how}")

    def _take(self, line: bytes) -> ev.Event | None:
        if line.startswith(b'{"ev":"header"') and self.started:
            self._reader = Reader("the agent")  # a restart: a new stream, a new recording
        event = self._reader.feed(line)
        if isinstance(event, ev.Header):
            self._begin(event)
        self._ended = isinstance(event, ev.End)
        self._record(line + b"\n")
        return event

    def _begin(self, header: ev.Header) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        try:
            with places.as_invoker():
                path = self._options.output
                if path is None:
                    path = places.new_recording(header.argv[0], header.pid)
                elif path in self.recordings:
                    path = places.free(path)
                self._writer = Writer(path)
        except OSError as error:
            trouble = f"cannot record to {error.filename}: {error.strerror}"
            if not self.recordings:
                raise StreamError(trouble) from error
            self._unrecorded(trouble)
            return
        self.path = path
        self.recordings.append(path)

    def _record(self, lines: bytes) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write_line(lines)
        except OSError as error:  # what was written until now can be read
            self._unrecorded(f"the recording is cut short: {error.strerror}")
            self._writer.close()
            self._writer = None

    def _unrecorded(self, why: str) -> None:
        self.trouble = why
        self._progress(why)

    def output_next(self, path: Path) -> None:
        """Where the recording of the next start goes, when the program is restarted."""
        self._options = replace(self._options, output=path)

    def send(self, command: commands.Command) -> None:
        if not self._stdin.is_closing():
            self._stdin.write(encode(command) + b"\n")

    async def close(self, farewell: commands.Command | None) -> None:
        """Say good-bye, take in what the agent still tells, up to its `end`, and let it go."""
        if farewell is not None:
            self.send(farewell)
        with suppress(TimeoutError, StreamError, OSError):
            async with asyncio.timeout(FAREWELL):
                if farewell is not None:
                    await self._drain()
        self._stdin.close()  # end of file: the agent resumes the tracee, detaches and ends
        with suppress(TimeoutError, StreamError, OSError):
            async with asyncio.timeout(FAREWELL):
                await self._drain()
                await self._process.wait()
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                self._process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), FAREWELL)
        self._listener.cancel()
        if self._writer is not None:
            self._writer.close()

    async def _drain(self) -> None:
        if not self._ended:
            async for _ in self.batches():
                if self._ended:
                    return
