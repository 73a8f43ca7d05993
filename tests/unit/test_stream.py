"""Reading and writing: whatever a file holds, it is events or one clear line."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import events as ev
from recordings.stream import LINE_LIMIT, Progress, Reader, StreamError, Writer, encode, read
from tests.builders import a_header, any_event

HEADER = encode(a_header()) + b"\n"
END = encode(ev.End(t=9, why="done")) + b"\n"


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def refusal(path: Path) -> str:
    """The one clear line that reading this file ends in."""
    with pytest.raises(StreamError) as caught:
        list(read(path))
    text = str(caught.value)
    assert text
    assert text.isprintable(), "more than one line, or an escape sequence"
    return text


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    events = [a_header(argv=["ls", "\x1b[31mé"]), ev.Output(t=3, text="1\n2"), ev.End(t=4, why="")]
    writer = Writer(tmp_path / "a")
    for event in events:
        writer.write(event)
    writer.close()
    assert list(read(tmp_path / "a")) == events


def test_every_event_is_on_disk_at_once(tmp_path: Path) -> None:
    """A crash loses nothing that was written: no buffer of ours is in between."""
    writer = Writer(tmp_path / "a")
    writer.write(a_header())
    assert len(list(read(tmp_path / "a"))) == 1
    writer.write_line(END + END)
    assert len(list(read(tmp_path / "a"))) == 3


def test_what_is_not_unicode_does_not_stop_the_recording(tmp_path: Path) -> None:
    """sys.argv holds the bytes of a hostile argument as lone surrogates."""
    writer = Writer(tmp_path / "a")
    writer.write(a_header(argv=["ls", os.fsdecode(b"\xff\x1b")]))
    (event,) = read(tmp_path / "a")
    assert isinstance(event, ev.Header)
    assert event.argv == ["ls", "?\x1b"]


def test_unknown_kinds_and_fields_are_passed_over(tmp_path: Path) -> None:
    future = b'{"ev":"hologram","t":2,"x":[{}]}\n{"ev":"end","t":3,"why":"","mood":"good"}\n'
    events = list(read(write(tmp_path / "a", HEADER, future)))
    assert events == [a_header(), ev.End(t=3, why="")]


def test_a_later_version_that_we_can_read_is_read(tmp_path: Path) -> None:
    later = encode(a_header(version=ev.VERSION + 7)) + b"\n"
    assert len(list(read(write(tmp_path / "a", later, END)))) == 2


@pytest.mark.parametrize("rest", [b"", b',"addresses":"encrypted","wall":"later"'])
def test_a_later_version_that_we_cannot_read_is_refused_by_name(
    tmp_path: Path, rest: bytes
) -> None:
    """Even when its header does not decode as ours."""
    line = encode(a_header(version=12, readable_since=11))
    if rest:
        line = (
            b'{"ev":"header","t":1,"format":"sockstep","version":12,"readable_since":11'
            + rest
            + b"}"
        )
    text = refusal(write(tmp_path / "a", line + b"\n", END))
    assert "version 12" in text
    assert "since version 11" in text
    assert f"reads version {ev.VERSION}" in text


@pytest.mark.parametrize("cut", range(1, len(END)))
def test_a_cut_off_last_line_is_accepted_and_said(tmp_path: Path, cut: int) -> None:
    *whole, last = read(write(tmp_path / "a", HEADER, END, END[:-cut]))
    assert len(whole) == 2
    if cut == 1:  # only the line feed is missing: nothing is lost
        assert last == ev.End(t=9, why="done")
    else:
        assert isinstance(last, ev.Note)
        assert "line (3) is cut off" in last.text


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[]",
        b"null",
        b"{}",
        b'{"ev":"end"}',
        b'{"ev":"end","t":"soon","why":""}',
        b'{"ev":"end","t":-1,"why":""}',
        b'{"ev":"end","t":9223372036854775808,"why":""}',
        b'{"ev":"end","t":1e3,"why":""}',
        b'{"ev":"end","t":NaN,"why":""}',
        b'{"ev":"end","t":Infinity,"why":""}',
        b'{"ev":"end","t":' + b"9" * 9999 + b',"why":""}',
        b'{"ev":"end","t":1,"why":"\xff\xfe"}',
        b'{"ev":"end","t":1,"why":"\\ud800"}',
        b'{"ev":"end","t":1,"why":' + b"[" * 100_000 + b"}",
        b"[" * 1_000_000,
        b'{"ev":"x","t":1,"y":' + b'{"z":' * 100_000,
        b'{"ev":"probe","t":1,"name":"p","kind":"k","steps":[],"status":"\\u001b[31mred"}',
        b'{"ev":"step","t":1,"call":1,"id":"STEP_09","snap":{"socket":[]}}',
        b"\x00" * 64,
        b"\x1f\x8b\x08\x00binary",
    ],
    ids=range(21),
)  # fmt: skip
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes) -> None:
    text = refusal(write(tmp_path / "a", HEADER, END, line, b"\n", END))
    assert f"{tmp_path / 'a'}:3: " in text
    assert len(text) < 400


def test_a_line_without_end_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = write(tmp_path / "a", HEADER)
    with path.open("ab") as file:
        file.truncate(len(HEADER) + 64 * LINE_LIMIT)  # a sparse file of NULs
    assert f":2: line longer than {LINE_LIMIT} bytes" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"hello\n", b"\x7fELF\x02\x01", b"{}\n", END, b'{"format":"asciicast"}\n',
     b'{"ev":"header","t":1}\n', HEADER[:-20], HEADER.replace(b'"sockstep"', b'"socks"', 1),
     HEADER.replace(b'"raw"', b'"cooked"'), b"\xef\xbb\xbf" + HEADER, b"\xff\xfe{\x00",
     b"[" * 1_000_000 + b"\n"],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes) -> None:
    text = refusal(write(tmp_path / "a", content))
    assert str(tmp_path / "a") in text
    assert "not a sockstep recording" in text or "malformed header" in text


def test_a_refusal_quotes_no_more_than_can_be_read(tmp_path: Path) -> None:
    flood = b"x" * 1_000_000
    assert len(refusal(write(tmp_path / "a", HEADER, b'{"ev":"' + flood + b'"}\n', b"no\n"))) < 1100
    assert len(refusal(write(tmp_path / "a", encode(a_header(format="s" * 1_000_000))))) < 1100


def test_a_second_header_is_refused(tmp_path: Path) -> None:
    assert ":3: a second header" in refusal(write(tmp_path / "a", HEADER, END, HEADER))


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    assert len(list(read(write(tmp_path / "a", b"\n", HEADER, b"\n  \n", END)))) == 2
    assert ":5: " in refusal(write(tmp_path / "a", b"\n", HEADER, b"\n\n", b"bad\n"))


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert "Is a directory" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "none")
    assert "Not a directory" in refusal(write(tmp_path / "a", HEADER) / "b")
    assert "^[[31m" in refusal(tmp_path / "\x1b[31m\n")


def test_a_file_that_we_may_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a", HEADER)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        assert "Permission denied" in refusal(path)
    finally:
        os.seteuid(user)


def test_a_pipe_is_as_good_as_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(HEADER + END,))
    thread.start()
    assert len(list(read(tmp_path / "pipe"))) == 2
    thread.join()


def feed_all(lines: Iterable[bytes]) -> None:
    """Any bytes at all: events, or StreamError, and nothing else."""
    reader, said = Reader("fuzz"), ""
    try:
        for line in lines:
            reader.feed(line)
    except StreamError as error:
        said = str(error)
    assert said.isprintable()


@given(st.lists(st.binary()))
def test_any_bytes(lines: list[bytes]) -> None:
    feed_all(lines)
    feed_all([HEADER, *lines])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(any_event(), st.data())
def test_any_damage_to_an_event(event: ev.Event, data: st.DataObject) -> None:
    """One field of a good event replaced by any JSON, or one byte by another."""
    import json

    line = encode(event)
    fields = json.loads(line)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    feed_all([HEADER, json.dumps(fields).encode(errors="replace")])
    at = data.draw(st.integers(0, len(line) - 1))
    feed_all([HEADER, line[:at] + data.draw(st.binary(max_size=3)) + line[at + 1 :]])


def test_a_recording_belongs_to_its_user_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Writer(tmp_path / "new").close()
        write(tmp_path / "old", b"what was there before").chmod(0o666)
        Writer(tmp_path / "old").close()
    finally:
        os.umask(old)
    for name in ("new", "old"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert (tmp_path / name).read_bytes() == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_recording_is_given_to_its_owner(tmp_path: Path) -> None:
    Writer(tmp_path / "a", owner=(12345, 54321)).close()
    found = (tmp_path / "a").stat()
    assert (found.st_uid, found.st_gid) == (12345, 54321)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """Root may write into a folder of another, who could have left a link to anything there."""
    target = write(tmp_path / "target", b"precious")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(OSError, match="symbolic link, and none is followed") as caught:
            Writer(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
    assert target.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_the_mode_of_a_device_is_left_alone() -> None:
    before = os.stat("/dev/null")
    Writer(Path("/dev/null"), owner=(12345, 54321)).close()
    after = os.stat("/dev/null")
    assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)


def test_a_full_disk_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No space left"):
        Writer(Path("/dev/full")).write(a_header())


def test_how_much_of_a_recording_was_read(tmp_path: Path) -> None:
    path, progress = tmp_path / "a.jsonl", Progress()
    path.write_bytes(encode(a_header()) + b"\n" + (encode(ev.Output(t=3, text="x")) + b"\n") * 99)
    portions = [progress.portion for _ in read(path, progress)]
    assert portions == sorted(portions)
    assert 0 < portions[0] < 0.1
    assert portions[-1] == 1
