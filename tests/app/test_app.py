"""The app driven key by key, over made-up streams: what it shows and what it asks of the agent."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from textual import events
from textual.app import App, ComposeResult
from textual.content import Content
from textual.geometry import Region
from textual.pilot import Pilot

from recordings import commands as cmd
from recordings import diff
from recordings import events as ev
from recordings.story import Story
from recordings.stream import read
from tests import builders
from tests.app.driver import (
    Driven,
    Scripted,
    all_text,
    at,
    badge,
    drawn,
    over,
    recording,
    settle,
    text,
    with_agent,
)
from tui.app import Sockstep
from tui.pane import Pane
from tui.puzzle import Comparison
from tui.screens import Ask, Choose, Details, Find, Help, Inject, Line, Stops
from tui.source import Replay

# -- walking -------------------------------------------------------------------------------


async def test_n_and_p_walk_through_what_was_captured(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert at(app) == "1 USER_EXEC"
        await pilot.press("n", "n")
        assert at(app) == "1 STEP_10"
        await pilot.press("p")
        assert at(app) == "1 STEP_09"
        assert "▶ ✓ STEP_09" in text(app, "steps")
        await pilot.press("p", "p", "p")
        assert at(app) == "1 USER_EXEC", "there is nothing before the first step"

    await over(two_calls, drive)


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        (["right_square_bracket"], "2 USER_EXEC"),
        (["right_square_bracket", "left_square_bracket"], "1 USER_EXEC"),
        (["right_square_bracket"] * 3, "2 USER_EXEC"),
        (["down", "right"], "1 STEP_10"),
        (["down", "down", "up"], "1 STEP_09"),
        (["end"], "1 CLEANUP_SOCK_RELEASE"),
        (["end", "home"], "1 USER_EXEC"),
    ],
)
async def test_other_ways_to_walk(two_calls: Path, keys: list[str], where: str) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press(*keys)
        assert at(app) == where

    await over(two_calls, drive)


async def test_a_click_on_a_step_or_on_a_key_of_the_last_line_does_it(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.click("#steps", offset=(8, 4))
        assert at(app) == "1 STEP_10"
        await pilot.click("#keys", offset=(text(app, "keys").index("p back"), 0))
        await settle(pilot)
        assert at(app) == "1 STEP_09"

    await over(two_calls, drive, (160, 45))


async def test_the_end_of_a_recording_is_said(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("end", "n")
        assert at(app) == "1 CLEANUP_SOCK_RELEASE"
        assert app.notes == ["The recording ends here."]

    await over(two_calls, drive)


async def test_walking_draws_only_lines_that_differ(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        steps = app.screen.query_one("#steps", Pane)
        drawn: list[int] = []
        refresh = steps.refresh

        def watch(*regions: Region, **how: bool) -> Pane:
            drawn.extend(y for region in regions for y in range(region.y, region.bottom))
            return refresh(*regions, **how)

        steps.refresh = watch  # type: ignore[method-assign]
        await pilot.press("n")
        assert drawn == [1, 2], "only the line left and the line come to"

    await over(two_calls, drive)


async def test_panes_do_not_jump(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        regions = {pane.id: pane.region for pane in app.screen.query(Pane)}
        lines = len(text(app, "inspector").splitlines())
        for _ in range(20):
            await pilot.press("n")
            assert {pane.id: pane.region for pane in app.screen.query(Pane)} == regions
            assert len(text(app, "inspector").splitlines()) == lines

    await over(two_calls, drive, (160, 45))


# -- what is shown -------------------------------------------------------------------------


async def test_links_tell_their_state_in_words_and_shape(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press(*"nn")
        early = text(app, "linkage")
        assert "  private_data absent     file  " in early
        assert early.count("not made yet") == 3, "the descriptor, the file and the sock"
        await pilot.press(*"nnnnnnn")
        late = text(app, "linkage")
        assert "▼ private_data linked     file │" in late
        assert "▼ sk         linked  sk_socket │" in late
        assert "▼*fd 3  linked" in late, "the star says that it changed here"
        for address in (builders.FILE, builders.SOCKET, builders.SOCK):
            assert f"@ {address}" in late

    await over(two_calls, drive)


async def test_broken_and_freed_links(tmp_path: Path) -> None:
    events = builders.header() + builders.call()
    elsewhere = "0xffff8881deadbeef"
    common = {"call": 1, "pid": 4711, "tid": 4711, "comm": "x", "cpu": 0, "probe": "p",
              "symbol": "f", "at": "inside"}  # fmt: skip
    file = ev.File(at=builders.FILE, private_data=elsewhere)
    socket = ev.Socket(at=builders.SOCKET, sk=builders.SOCK)
    events += [
        ev.Step(t=1_011_000_000, id="CLEANUP_FPUT", snap=ev.Snapshot(file=file), **common),  # type: ignore[arg-type]
        ev.Free(t=1_011_000_001, call=1, kind="sock", at=builders.SOCK, site="x", pid=1, comm="x",
                cpu=0),
        ev.Step(t=1_011_000_002, id="CLEANUP_IPUT", snap=ev.Snapshot(socket=socket), **common),  # type: ignore[arg-type]
    ]  # fmt: skip

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("end", "p")
        assert "×*private_data broken …adbeef" in text(app, "linkage")
        await pilot.press("n")
        assert "× sk             freed" in text(app, "linkage")

    await over(recording(tmp_path / "b.jsonl", events), drive, (80, 24))


async def test_what_was_not_read_is_never_shown_as_a_value(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("n")  # STEP_09: only the address of the socket was read
        lines = [line.strip() for line in text(app, "inspector").splitlines()]
        heads = ("struct", "descriptor table")
        values = [line.split() for line in lines if line and not line.startswith(heads)]
        assert values
        assert {" ".join(words[1:]) for words in values} == {"·", "not read"}

    await over(two_calls, drive, (160, 45))


async def test_constants_and_symbols_are_decoded(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("g", *"STEP_17", "enter")
        await settle(pilot)
        shown = text(app, "inspector")
        for word in (
            "SS_UNCONNECTED (1)", "SOCK_STREAM (1)", "TCP_CLOSE (7)", "AF_INET (2)",
            "IPPROTO_TCP (6)", "inet_stream_ops", "socket_file_ops", "tcp_prot", "O_RDWR",
        ):  # fmt: skip
            assert word in shown
        assert "* file" in shown, "fd.file changed at this step"
        assert "← NULL" in shown

    await over(two_calls, drive, (160, 45))


async def test_the_badge_of_a_replay(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("n")
        assert badge(app).startswith("REPLAY  2/21")
        assert "socket(AF_INET, SOCK_STREAM, 0) = 3 › STEP_09, 74.0 µs before the stop" in badge(
            app
        )

    await over(two_calls, drive)


async def test_not_observable_is_said_with_its_reason(tmp_path: Path) -> None:
    events = [e for e in builders.whole() if not (isinstance(e, ev.Step) and e.id == "STEP_10")]
    events.insert(1, ev.Blind(t=1_000_000_000, step="STEP_10", why="no tracepoint fires there"))

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert "○ STEP_10" in text(app, "steps")
        await pilot.press("enter")
        await settle(pilot)
        details = app.screen
        assert isinstance(details, Details)
        details.tabs.active = "Probes"
        await settle(pilot)
        assert "STEP_10 not observable here: no tracepoint fires there" in text(app, "page")

    await over(recording(tmp_path / "b.jsonl", events), drive)


async def test_losses_are_shown(tmp_path: Path) -> None:
    events = builders.whole()
    events.insert(-1, ev.Lost(t=1_030_000_000, count=17, what="the ring buffer"))

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert "17 LOST" in text(app, "title")

    await over(recording(tmp_path / "lost.jsonl", events), drive)


async def test_hostile_text_never_reaches_the_terminal_as_such(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J[red]no[/red][@click=app.bell]x[/]\u202eabc\r\n\x9b31m"
    events = builders.header((f"./{evil}", evil)) + builders.call() + builders.end()
    for number, event in enumerate(events):
        if isinstance(event, ev.Step | ev.Enter):
            event.comm = evil
        if isinstance(event, ev.Symbol):
            event.name = evil
        if isinstance(event, ev.Output):
            event.text = evil
        if isinstance(event, ev.State):
            event.why = evil
        if isinstance(event, ev.Alloc):
            events[number] = ev.Alloc(t=event.t, call=1, kind=event.kind, at=event.at, site=evil,
                                      cache=evil)  # fmt: skip
    events.insert(-1, ev.Note(t=1_030_000_000, text=evil))
    events.insert(-1, ev.Lost(t=1_030_000_000, count=1, what=evil))
    stack = next(e for e in events if isinstance(e, ev.Stack))
    stack.frames = [evil]
    path = recording(tmp_path / "evil.jsonl", events)

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("end", "enter")
        await settle(pilot)
        details = app.screen
        assert isinstance(details, Details)
        for view in Details.VIEWS:
            details.tabs.active = view
            await settle(pilot)
            for line in drawn(app):
                for segment in line:
                    assert segment.text.isprintable(), repr(segment.text)
                    assert not (segment.style and segment.style.meta.get("@click"))
            if view == "Log":
                assert "^[]0;owned^G" in text(app, "page")
                assert "[red]no[/red]" in text(app, "page"), "markup is text"
                assert "\\u202eabc" in text(app, "page")
        assert "^[[2J" in text(app, "title")

    await over(path, drive, (160, 45))


# -- looking closer ------------------------------------------------------------------------


async def test_enter_tells_the_whole_story_and_walks_on(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("end", "enter")
        await settle(pilot)
        shown = text(app, "page")
        assert "CLEANUP_SOCK_RELEASE" in shown
        assert "__sock_release, net/socket.c" in shown
        assert "sock_release() is this function" in shown, "the longer story"
        assert "task_work_run" in shown, "the kernel stack"
        await pilot.press("p")
        assert "SYSCALL_RETURN" in text(app, "page")
        await pilot.press("escape")
        assert not isinstance(app.screen, Details)
        assert at(app) == "2 STEP_17"

    await over(two_calls, drive, (80, 24))


async def test_d_tells_old_and_new(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("g", *"step_17", "enter", "d")
        await settle(pilot)
        shown = text(app, "page")
        assert "fd.file" in shown
        assert "NULL → 0xffff8881024a7b00" in shown
        assert "was read at STEP_16" in shown
        await pilot.press("d")
        assert not isinstance(app.screen, Details)

    await over(two_calls, drive)


async def test_o_shows_the_output(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        ledger = app.screen.query_one("#ledger", Pane)
        assert ledger.heading.plain.endswith("OUTPUT  nothing yet"), "as at the first step"
        await pilot.press("end")
        assert ledger.heading.plain.endswith("OUTPUT  socket() = 3")
        await pilot.press("o")
        await settle(pilot)
        assert text(app, "page") == "socket() = 3"

    await over(two_calls, drive)


async def test_tab_looks_into_the_next_layer(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("tab")
        assert app.layer == "sock"
        await pilot.press("shift+tab", "shift+tab")
        assert app.layer == "file"
        await settle(pilot)
        assert text(app, "inspector").startswith("fd  [file]  socket  sock")
        assert "private_data" in text(app, "inspector")

    await over(two_calls, drive, (100, 30))


@pytest.mark.parametrize(
    ("wish", "where"),
    [
        ("12", "2 STEP_09"),
        ("STEP_16", "1 STEP_16"),
        ("backlink", "1 STEP_13_BACKLINK"),
        ("vfs", "1 STEP_14"),
        ("call 2", "2 USER_EXEC"),
        ("#2", "2 USER_EXEC"),
        ("nowhere", "1 USER_EXEC"),
        ("0", "1 USER_EXEC"),
        ("99999999999999999999", "1 USER_EXEC"),
        ("call 7", "1 USER_EXEC"),
    ],
)
async def test_g_goes_to_a_number_a_name_or_a_call(two_calls: Path, wish: str, where: str) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("g")
        await settle(pilot)
        for char in wish:
            await pilot.press({" ": "space", "#": "number_sign", "_": "underscore"}.get(char, char))
        await pilot.press("enter")
        await settle(pilot)
        assert at(app) == where

    await over(two_calls, drive)


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("tcp_prot", "1 STEP_13"),  # the kernel's name of an address
        (builders.SOCK[-6:], "1 STEP_13"),  # the address itself
        ("vfs_wrap", "1 STEP_14"),
        ("swapper", "1 CLEANUP_SOCK_RELEASE"),  # in a free: the nearest step
    ],
)
async def test_slash_finds_in_steps_log_and_values(two_calls: Path, words: str, where: str) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("slash")
        await settle(pilot)
        assert isinstance(app.screen, Find)
        for char in words:
            await pilot.press({"_": "underscore"}.get(char, char))
        await settle(pilot)
        await pilot.press("enter")
        await settle(pilot)
        assert at(app) == where
        await pilot.press("slash")
        await settle(pilot)
        assert app.screen.query_one(Line).value == words, "what was searched last"

    await over(two_calls, drive)


async def test_finding_nothing_says_so(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("slash", *"nonesuch")
        await settle(pilot)
        label = app.screen.query("Label").last()
        assert str(label.render()) == "0 found"  # type: ignore[attr-defined]

    await over(two_calls, drive)


async def test_help_lists_every_key_with_its_tooltip(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("question_mark")
        await settle(pilot)
        assert isinstance(app.screen, Help)
        shown = text(app, "page")
        for word in ("Next captured step", "Inspect the next layer", "↓ →", "one-way", "SIGNS"):
            assert word in shown
        assert "Inject" not in shown, "a recording takes no signals"

    await over(two_calls, drive)


async def test_every_binding_has_an_id_a_tooltip_and_an_action() -> None:
    from tui import keys

    ids = [binding.id for binding in keys.ALL]
    assert len(ids) == len(set(ids))
    for binding in keys.ALL:
        assert binding.id
        assert binding.tooltip
        name = binding.action.removeprefix("app.").partition("(")[0]
        assert hasattr(Sockstep, f"action_{name}"), name
    taken = [key for binding in keys.ALL for key in binding.key.split(",")]
    assert len(taken) == len(set(taken)), "no key means two things"


async def test_keys_can_be_remapped(two_calls: Path) -> None:
    app = Sockstep(Replay(two_calls), {"next": "j,x"})
    async with app.run_test() as pilot:
        await pilot.press("home", "n")
        assert at(app) == "1 USER_EXEC"
        assert "j next" in text(app, "keys")
        await pilot.press("j")
        assert at(app) == "1 STEP_09"


async def test_the_palette_offers_the_same_actions(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert "Next (n)" in titles
        assert not any(title.startswith("Inject") for title in titles)

    await over(two_calls, drive)


# -- keeping -------------------------------------------------------------------------------


async def test_s_saves_under_another_name_and_overwrites_nothing(
    two_calls: Path, tmp_path: Path
) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        for _ in range(2):
            await pilot.press("s")
            await settle(pilot)
            await pilot.press("home", "ctrl+k", *"kept", "full_stop", *"jsonl", "enter")
            await settle(pilot)
        assert "exists" in app.notes[-1]

    await over(two_calls, drive)
    assert (tmp_path / "kept.jsonl").read_bytes() == two_calls.read_bytes()
    assert (tmp_path / "kept.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("kind", "ending", "content"),
    [
        (0, ".txt", b"STEP_16"),
        (1, ".json", b'"verdict"'),
        (2, ".svg", b"<svg"),
        (3, ".masked.jsonl", b'"addresses":"masked"'),
    ],
)
async def test_e_exports(
    two_calls: Path, tmp_path: Path, kind: int, ending: str, content: bytes
) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("n", "e")
        await settle(pilot)
        await pilot.press(*["down"] * kind, "enter")
        await settle(pilot)
        await pilot.press("enter")
        await settle(pilot)
        assert app.notes[-1].startswith("Written:")

    await over(two_calls, drive)
    written = tmp_path / f"two{ending}"
    data = written.read_bytes()
    assert content in data
    assert written.stat().st_mode & 0o777 == 0o600
    if kind == 3:
        assert builders.SOCKET.encode() not in data
        assert Story.of(read(written)).moments[-1].links.keys()


# -- live ----------------------------------------------------------------------------------


async def test_n_at_the_newest_step_runs_the_program_on() -> None:
    source = Scripted(*builders.header())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert badge(app).startswith("■ STOPPED  before its first instruction")
        await pilot.press("n")
        assert source.sent == [cmd.Next()]
        await pilot.press("n")
        assert source.sent == [cmd.Next()], "one at a time"
        source.say(*builders.call())
        await settle(pilot)
        assert at(app) == "1 USER_EXEC", "the first of the new steps"
        assert badge(app).startswith("■ STOPPED  at the return of socket()")
        await pilot.press(*["n"] * 9)
        assert at(app) == "1 STEP_17"
        assert len(source.sent) == 1, "walking through what was captured runs nothing"
        await pilot.press("n")
        assert source.sent[1:] == [cmd.Next()]
        source.say(*builders.call(2, t=1_012_000_000, fd=4))
        await settle(pilot)
        assert at(app) == "2 USER_EXEC"

    await with_agent(source, drive)


async def test_arrows_never_run_the_program() -> None:
    source = Scripted(*builders.header(), *builders.call())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("end", "down", "right", "down")
        assert source.sent == []

    await with_agent(source, drive)


async def test_c_continues_to_the_next_stop_and_the_first_new_step() -> None:
    source = Scripted(*builders.header(), *builders.call())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("home", "c")
        assert source.sent == [cmd.Continue()]
        source.say(ev.State(t=1_011_000_000, pid=4711, state="running"))
        await settle(pilot)
        assert badge(app).startswith("RUNNING")
        source.say(*builders.call(2, t=1_012_000_000, fd=4)[1:])
        await settle(pilot)
        assert at(app) == "2 USER_EXEC"

    await with_agent(source, drive)


async def test_a_program_that_is_recorded_no_more_is_paused_and_it_is_said() -> None:
    """A full disk: whether the program goes on is for the user to say."""
    source = Scripted(*builders.header(), ev.State(t=1_011_000_000, pid=4711, state="running"))

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        source.trouble = "the recording is cut short: No space left on device"
        for number in (1, 2):
            source.say(*builders.call(number, t=1_012_000_000 * number)[1:-1])
            await settle(pilot)
        assert source.sent == [cmd.Pause()], "once"
        assert f"{source.trouble}; what comes now is not recorded" in app.said

    await with_agent(source, drive)


async def test_ctrl_c_stops_the_running_program() -> None:
    source = Scripted(*builders.header(), ev.State(t=1_011_000_000, pid=4711, state="running"))

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("ctrl+c")
        assert source.sent == [cmd.Pause()]

    await with_agent(source, drive)


async def test_r_restarts_and_a_new_header_begins_a_new_story() -> None:
    source = Scripted(*builders.header(), *builders.call(), *builders.end())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert badge(app).startswith("EXITED  with status 0")
        await pilot.press("n")
        assert source.sent == [], "what has ended does not run on"
        await pilot.press("r")
        assert source.sent == [cmd.Restart()]
        source.say(*builders.header(pid=4712))
        await settle(pilot)
        assert app.moment is None
        assert "pid 4712" in text(app, "title")
        assert badge(app).startswith("■ STOPPED  before its first instruction")

    await with_agent(source, drive)


async def test_i_offers_every_signal_now() -> None:
    source = Scripted(*builders.header())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("i")
        await settle(pilot)
        assert isinstance(app.screen, Inject)
        offered = [str(option.prompt).split() for option in app.screen.what.options]
        signals = [int(words[0]) for words in offered if words[0] != "fail"]
        assert sorted(signals) == [*range(1, 32), *range(34, 65)]
        assert signals[:3] == [9, 10, 15], "what one likely wants comes first"
        assert ["9", "SIGKILL", "ends", "the", "program"] in offered
        await pilot.press("up", "up", "enter", "enter")
        await settle(pilot)
        assert source.sent == [cmd.Inject(signo=9, step=None)]
        source.say(ev.Inject(t=1_011_000_000, what="signal", pid=4711, signo=9, result=0))
        source.say(ev.State(t=1_011_000_100, pid=4711, state="exited", status=-9))
        await settle(pilot)
        await pilot.press("l")
        await settle(pilot)
        assert "inject SIGKILL: sent" in text(app, "page")
        assert badge(app).startswith("KILLED  by SIGKILL")

    await with_agent(source, drive)


async def test_i_arms_a_signal_at_a_step_that_a_probe_sees() -> None:
    source = Scripted(*builders.header())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("i")
        await settle(pilot)
        assert isinstance(app.screen, Inject)
        enabled = [o.id for o in app.screen.where.options if not o.disabled]
        assert enabled == ["now", "STEP_09", "STEP_14"], "what the made-up probes see"
        await pilot.press("enter", "down", "down", "enter")
        await settle(pilot)
        assert source.sent == [cmd.Inject(signo=15, step="STEP_14")]

    await with_agent(source, drive)


async def test_i_offers_the_failures_of_the_next_call() -> None:
    source = Scripted(*builders.header(), *builders.call())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        for _ in range(2):
            await pilot.press("i")
            await settle(pilot)
            assert isinstance(app.screen, Inject)
            assert app.screen.what.highlighted_option.id == "15", "SIGTERM, below the failures"  # type: ignore[union-attr]
            await pilot.press("home", *["down"] * (6 - 4 * len(source.sent)), "enter")
            await settle(pilot)
        await pilot.press("enter")
        assert source.sent == [
            cmd.Limit(nofile=0),
            cmd.Refuse(hook="security_sk_alloc", errno=12),
        ]

    await with_agent(source, drive)


async def test_i_refuses_with_the_errno_that_one_likes() -> None:
    source = Scripted(*builders.header(), *builders.call())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("i")
        await settle(pilot)
        assert isinstance(app.screen, Inject)
        assert app.screen.where.border_title == "where", "for a signal"
        await pilot.press("home", "down")
        await settle(pilot)
        assert app.screen.where.border_title == "errno"
        await pilot.press("enter", "down", "enter")
        await settle(pilot)
        assert source.sent == [cmd.Refuse(hook="security_inode_alloc", errno=13)]

    await with_agent(source, drive)


async def test_b_toggles_the_stop_under_the_cursor() -> None:
    source = Scripted(*builders.header(), *builders.call())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("home", "n")
        assert "●" not in text(app, "steps"), "it stops everywhere"
        await pilot.press("b")
        assert source.sent == [cmd.Arm(step="STEP_09", stop=False)]
        assert "▶ ✓ STEP_09" in text(app, "steps")
        assert " ●✓ STEP_10" in text(app, "steps")
        await pilot.press("b")
        assert source.sent[1:] == [cmd.Arm(step="STEP_09", stop=True)]
        assert "●" not in text(app, "steps")

    await with_agent(source, drive)


async def test_b_without_a_step_and_B_open_the_list_of_stops() -> None:
    source = Scripted(*builders.header())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("b")
        await settle(pilot)
        assert isinstance(app.screen, Stops)
        await pilot.press("space")
        prompts = [str(option.prompt) for option in app.screen.options.options]
        assert prompts[:2] == ["  STEP_09 CHASSIS_CREATED", "● STEP_10 PRE_LINK_CHECK"]
        await pilot.press("enter")
        await settle(pilot)
        assert source.sent == [cmd.Arm(step="STEP_09", stop=False)]
        await pilot.press("B")
        await settle(pilot)
        assert isinstance(app.screen, Stops)

    await with_agent(source, drive)


@pytest.mark.parametrize(
    ("keys", "farewell"),
    [
        (["enter"], cmd.Detach()),
        (["down", "enter"], cmd.Quit()),
    ],
)
async def test_q_asks_while_the_tracee_lives(keys: list[str], farewell: cmd.Command) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("q")
        await settle(pilot)
        assert isinstance(app.screen, Choose)
        await pilot.press(*keys)
        await settle(pilot)
        assert not app.is_running

    app = await with_agent(Scripted(*builders.header()), drive)
    assert app.farewell == farewell


async def test_q_can_be_taken_back() -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("q")
        await settle(pilot)
        await pilot.press("escape")
        await settle(pilot)
        assert app.is_running
        assert not isinstance(app.screen, Choose)

    await with_agent(Scripted(*builders.header()), drive)


async def test_q_does_not_ask_when_nothing_lives(two_calls: Path) -> None:
    source = Scripted(*builders.header(), *builders.call(), *builders.end())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("q")
        await settle(pilot)
        assert not app.is_running

    await with_agent(source, drive)
    await over(two_calls, drive)


async def test_a_child_s_end_is_not_the_programs() -> None:
    child = ev.State(t=1_011_000_000, pid=5000, state="exited", status=0)

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert badge(app).startswith("■ STOPPED  at the return of socket()")

    await with_agent(Scripted(*builders.header(), *builders.call(), child), drive)


async def test_a_child_that_stands_can_go_on() -> None:
    """While the program itself waits for it."""
    child = ev.State(t=1_011_000_000, pid=5000, state="stopped", why="at the return of socket()")
    goes = ev.State(t=1_010_900_000, pid=4711, state="running")
    source = Scripted(*builders.header(), *builders.call(), goes, child)

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert badge(app).startswith("■ STOPPED  child 5000, at the return of socket()")
        await pilot.press("c")
        assert source.sent == [cmd.Continue()]

    await with_agent(source, drive)


async def test_children_that_outlive_the_program_are_said() -> None:
    fork = ev.Fork(t=1_011_000_000, pid=4711, child=5000, followed=True)
    gone = ev.State(t=1_012_000_000, pid=4711, state="exited", status=0)
    source = Scripted(*builders.header(), *builders.call(), fork, gone)

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert badge(app).startswith("EXITED  with status 0; 1 child lives on")
        await pilot.press("q")
        await settle(pilot)
        assert isinstance(app.screen, Choose), "quitting would be felt by it"

    await with_agent(source, drive)


async def test_the_question_goes_when_there_is_nothing_left_to_ask() -> None:
    source = Scripted(*builders.header(), *builders.call())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("q")
        await settle(pilot)
        assert isinstance(app.screen, Choose)
        source.say(*builders.end())
        await settle(pilot)
        assert not isinstance(app.screen, Choose)
        assert badge(app).startswith("EXITED")

    await with_agent(source, drive)


@pytest.mark.parametrize("key", ["slash", "g", "i", "B", "q", "s", "e", "k", "D", "t"])
async def test_keys_typed_ahead_of_a_screen_are_the_screens(key: str, tmp_path: Path) -> None:
    """SSH sends what was typed in one piece: `r` behind `/` must not restart the program."""
    source = Scripted(*builders.header(), *builders.call())
    source.path = recording(tmp_path / "r.jsonl", builders.whole())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        before = at(app)
        for each in (key, "r", "n"):
            app.post_message(events.Key(each, "/" if each == "slash" else each))
        await settle(pilot)
        assert source.sent == []
        assert at(app) == before
        if key in ("slash", "g"):
            assert app.screen.query_one(Line).value == "rn"

    await with_agent(source, drive)


async def test_nothing_can_be_asked_of_a_program_that_has_ended() -> None:
    source = Scripted(*builders.header(), *builders.call(), *builders.end())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        for key in ("i", "t", "ctrl+c"):
            await pilot.press(key)
            await settle(pilot)
            assert len(app.screen_stack) == 1
            assert "has ended" in app.said
        assert source.sent == []

    await with_agent(source, drive)


async def test_an_injection_that_failed_is_said() -> None:
    source = Scripted(*builders.header(), *builders.call())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        source.say(ev.Inject(t=1_011_000_000, what="signal", pid=4711, signo=15, result=-3))
        await settle(pilot)
        assert "ESRCH" in app.said

    await with_agent(source, drive)


async def test_t_types_a_line_for_the_program() -> None:
    source = Scripted(*builders.header(), *builders.call())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("t", *"ab", "enter")
        await settle(pilot)
        await pilot.press("t", "ctrl+d")
        await settle(pilot)
        assert source.sent == [cmd.Input(text="ab\n"), cmd.Input(end=True)]

    await with_agent(source, drive)


async def test_what_is_said_stands_where_the_check_does_until_the_next_key() -> None:
    running = ev.State(t=1_012_000_000, pid=4711, state="running")
    source = Scripted(*builders.header(), *builders.call(), running)

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        def third() -> str:
            return text(app, "said").splitlines()[2]

        await pilot.press("end")
        check = third()
        assert check.startswith("✓ returned 3")
        for _ in range(2):
            await pilot.press("n")
            assert third() == "The program is running: its next step has not come yet."
        await pilot.press("end")
        assert third() == check
        assert not app.screen.query("Toast"), "nothing covers the screen"

    await with_agent(source, drive)


async def test_a_step_that_came_before_its_call_by_the_clock_is_drawn(tmp_path: Path) -> None:
    events = builders.whole(1)
    next(event for event in events if isinstance(event, ev.Enter)).t += 10**9

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("n", "n")
        await settle(pilot)
        assert "▶" in text(app, "timeline").splitlines()[0]

    await over(recording(tmp_path / "late.jsonl", events), drive)


async def test_what_a_name_or_a_number_has_in_it_is_spelled_out(tmp_path: Path) -> None:
    events = builders.whole(1)
    number = next(e for e in events if isinstance(e, ev.Alloc) and e.kind == "fd")
    number.at = "\x1b]0;x\x1b\\3"

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        drawn = ""
        for moment in app.story.moments:
            app.look_at(moment)
            drawn += text(app, "linkage")
        assert "fd ^[]0;x^[\\3" in drawn
        await pilot.press("s")
        assert isinstance(app.screen, Ask)
        assert app.screen.line.value.endswith("x^[]0;y.jsonl")
        shown = drawn + app.screen.line.value
        await pilot.press("escape")
        app.push_screen(Comparison("x\x1b", "y\x1b", diff.diff(app.story, app.story)))
        await settle(pilot)
        shown += str(app.screen.query_one("#box").border_title)
        assert "A x^[  B y^[" in shown
        assert "\x1b" not in shown

    await over(recording(tmp_path / "x\x1b]0;y.jsonl", events), drive)


async def test_what_is_cut_does_not_look_whole() -> None:
    class Alone(App[None]):  # sockstep would draw its own lines into a pane of its own
        def compose(self) -> ComposeResult:
            yield Pane()

    app = Alone()
    async with app.run_test(size=(40, 5)) as pilot:
        pane = app.query_one(Pane)
        pane.show([Content("0123456789" * 20), Content("short")])
        await pilot.pause()
        whole = pane.render_line(0).text.rstrip()
        assert len(whole) == pane.room.width
        assert whole.endswith("…")
        assert pane.render_line(1).text.rstrip() == "short"
        pane.scroll_to(x=5, animate=False)
        await pilot.pause()
        assert pane.render_line(0).text.startswith("…678")


async def test_an_agent_that_is_gone_is_said_and_its_story_stays() -> None:
    source = Scripted(*builders.header(), *builders.call())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        source.end()
        await settle(pilot)
        assert badge(app).startswith("AGENT LOST")
        await pilot.press("home", "n")
        assert at(app) == "1 STEP_09"
        await pilot.press("end", "n", "c", "r", "i", "escape")
        assert source.sent == []

    await with_agent(source, drive)


def held(since: int) -> list[ev.Event]:
    """A hold in the middle of the made-up call."""
    frames = ["handle_userfault", "bpf_lsm_socket_post_create", "__sock_create", "__sys_socket"]
    snap = ev.Snapshot(socket=ev.Socket(at=builders.SOCKET))
    return [
        ev.Stack(t=since, id=7, frames=frames),
        ev.Held(t=since + 9000, call=1, point="socket_post_create", pid=4711, tid=4711, state="S",
                wchan="handle_userfault", since=since, until=since + 10**9, snap=snap, stack=7,
                shared=[10], fds=[ev.Open(number=0, to="/dev/pts/1")]),
    ]  # fmt: skip


async def test_a_hold_is_told_with_where_and_the_kernel_stack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = builders.call()
    half = next(n for n, e in enumerate(call) if isinstance(e, ev.Step) and e.id == "STEP_14")
    since = call[half - 1].t + 1000
    source = Scripted(*builders.header(), *call[:half], *held(since))

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert re.match(r"‖ HELD +\d+ of 1 s  in __sock_create, after", badge(app))
        assert at(app) == "1 socket_post_create", "the cursor is where the thread is"
        rows = [line.rstrip() for line in text(app, "steps").splitlines()]
        here = rows.index("▶‖  socket_post_create held here")
        assert rows[here - 1].startswith("  ✓ STEP_13")
        assert all("·" in row for row in rows[here + 1 : rows.index("")]), "nothing below happened"
        assert rows[here + 1].startswith("  · STEP_14")
        assert "read now" in app.screen.query_one("#linkage", Pane).heading.plain
        assert "__sock_create" in text(app, "said")
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 100)
        monkeypatch.setattr("tui.app.time", later)
        source.say(*held(since))  # told once more, of a signal: its time runs on
        await settle(pilot)
        assert re.search(r"1\d\d of 1 s", badge(app))
        assert "  · STEP_14" in text(app, "steps"), "what comes after has not happened"
        await pilot.press("end", "enter")
        await settle(pilot)
        for word in ("HELD at socket_post_create", "now", "SIGUSR1", "bpf_lsm_socket_post_create"):
            assert word in text(app, "page")
        await pilot.press("escape", "n")
        assert source.sent == [cmd.Next()], "the next step lets it go on"
        source.say(
            ev.Released(t=since + 5 * 10**9, call=1, point="socket_post_create", pid=4711,
                        tid=4711, by="user", held=5 * 10**9, ret=0, snap=ev.Snapshot()),
        )  # fmt: skip
        for event in call[half:]:
            event.t += 5 * 10**9
        source.say(*call[half:])
        await settle(pilot)
        assert at(app) == "1 STEP_14"
        assert badge(app).startswith("■ STOPPED  at the return of socket()")
        assert "37.0 µs and 5.00 s held" in text(app, "timeline")
        assert text(app, "timeline").count("‖") == 1
        await pilot.press("p")
        assert at(app) == "1 socket_post_create", "what was read there can be looked at again"
        await pilot.press("p")
        assert "before the next hold" in badge(app)

    await with_agent(source, drive)


async def test_a_frozen_machine_is_told_with_what_differs_now() -> None:
    """The hold comes before what its agent still has to tell of; the cursor goes along."""
    call = builders.call()
    half = next(n for n, e in enumerate(call) if isinstance(e, ev.Step) and e.id == "STEP_10")
    now = ev.Snapshot(socket=ev.Socket(at=builders.SOCKET, state=1, flags=0x20))
    frozen = ev.Held(
        t=call[0].t, call=1, point="STEP_13", pid=4711, tid=4711, state="R", wchan="", how="frozen",
        symbol="inet_create", at="exit", since=call[0].t, snap=now, registers={"rax": "0x0"},
    )  # fmt: skip
    source = Scripted(*builders.header(), frozen)

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert re.match(r"‖ MACHINE FROZEN +\d+ s  at inet_create exit", badge(app))
        source.say(*call[: half + 1])
        await settle(pilot)
        assert at(app) == "1 STEP_13", "where it stands, before the probe there"
        assert "▶‖  STEP_13 LINK_ESTABLISHED exit" in text(app, "steps")
        assert "flags  0x20" in text(app, "inspector")
        assert " of " not in badge(app), "for as long as one likes"
        await pilot.press("enter")
        for _ in range(100):  # a screen is composed in its own time
            if app.screen.query("#page"):
                break
            await settle(pilot)
        for word in ("HELD at STEP_13, inet_create exit, machine frozen, now", "rax 0x0"):
            assert word in text(app, "page")

    await with_agent(source, drive)


async def test_threads_are_not_mixed(tmp_path: Path) -> None:
    """Two calls whose steps interleave: each list holds its own, in time order."""
    one, two = builders.call(1), builders.call(2, t=1_010_000_500, pid=4711, fd=4)
    mixed = sorted(one[1:-1] + two[1:-1], key=lambda event: event.t)
    path = recording(tmp_path / "mixed.jsonl", builders.header() + mixed + builders.end())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        calls = []
        for _ in range(6):
            assert app.moment is not None
            calls.append(app.moment.call.number)
            own = [m for m in app.moment.call.moments if m.id.startswith("STEP")]
            assert len(own) == 9
            await pilot.press("n")
        assert set(calls) == {1, 2}

    await over(path, drive)


# -- terminals -----------------------------------------------------------------------------


async def test_an_ascii_locale_gets_nothing_but_ascii(
    two_calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        for keys in (
            "nnnnnn", ["enter"], ["escape"], ["question_mark"], ["escape"], ["ctrl+p"],
            ["escape"], ["e"],
        ):  # fmt: skip
            await pilot.press(*keys)
            await settle(pilot)
            assert all_text(app).isascii()
        await pilot.press("escape")
        assert "v private_data linked     file |" in all_text(app)
        assert "+- struct socket ------" in all_text(app)
        assert "> v STEP_15" in all_text(app)

    await over(two_calls, drive)


async def test_no_color_means_none(two_calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = Sockstep(Replay(two_calls))
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press(*"nnn")
        for line in drawn(app):
            for segment in line:
                for color in (segment.style and segment.style.color,
                              segment.style and segment.style.bgcolor):  # fmt: skip
                    assert color is None or color.is_default, (segment.text, color)


async def test_sixteen_colours_are_the_terminals_own(
    two_calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLORTERM")
    app = Sockstep(Replay(two_calls))
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press(*"nnn")
        for line in drawn(app):
            for segment in line:
                color = segment.style.color if segment.style else None
                assert color is None or color.number is None or color.number < 16


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (160, 45)])
async def test_the_whole_linkage_is_visible_beside_the_steps(
    two_calls: Path, size: tuple[int, int]
) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("g", *"step_17", "enter")
        await settle(pilot)
        pane = app.screen.query_one("#linkage", Pane)
        assert len(pane.lines) <= pane.room.height
        shown = all_text(app)
        for word in ("struct file", "struct socket", "struct sock ", "STEP_17", "q quit"):
            assert word in shown
        inspector = app.screen.query_one("#inspector", Pane)
        assert inspector.display == (size[0] >= 100)

    await over(two_calls, drive, size)


async def test_any_size_of_terminal_is_survived(two_calls: Path) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        for size in ((1, 1), (20, 5), (200, 60), (79, 23)):
            await pilot.resize_terminal(*size)
            await pilot.press("n", "enter")
            await settle(pilot)
            await pilot.press("escape", "i", "question_mark")
            await settle(pilot)
            await pilot.press("escape")
        assert at(app) == "1 STEP_13"

    await over(two_calls, drive)


async def test_hashed_pointers_of_a_kernel_log(tmp_path: Path) -> None:
    from recordings import dmesg

    log = [
        "[    1.000001] [PROBE] sock_alloc Exit: socket=f1166dcd",
        "[    1.000002] [PROBE] Chassis Init: sk=0, ops=0, state=1",
        "[    1.000003] [PROBE] fd_install Entry: file=3335ec5d",
        "[    1.000004] [PROBE] private_data=f1166dcd",
        "[    1.000005] [PROBE] fd_install Entry: fd=3",
        "[    1.000006] [PROBE] __sys_socket Return: fd=3",
    ]

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert "hashed addresses" in text(app, "title")
        await pilot.press("end")
        assert "f1166dcd" in text(app, "linkage")

    await over(recording(tmp_path / "dmesg.jsonl", list(dmesg.events(log))), drive)


async def test_a_long_recording_loads_and_walks(tmp_path: Path) -> None:
    path = recording(tmp_path / "long.jsonl", builders.whole(2000))
    assert len(path.read_bytes().splitlines()) > 30_000

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        async with asyncio.timeout(60):
            while app.story.end is None:
                await pilot.pause(0.05)
        await pilot.press("end", "p")
        assert at(app) == "2000 STEP_17"
        await pilot.press("left_square_bracket")
        assert at(app) == "1999 USER_EXEC"

    await over(path, drive)


async def test_the_picker_offers_recordings_and_opens_one(two_calls: Path) -> None:
    folder = Path(os.environ["XDG_STATE_HOME"]) / "sockstep" / "recordings"
    folder.mkdir(parents=True)
    (folder / "20990101-000000-x-1.jsonl").write_bytes(two_calls.read_bytes())
    (folder / "20980101-000000-garbage-1.jsonl").write_bytes(b"garbage\n")
    app = Driven()
    async with app.run_test() as pilot:
        await settle(pilot)
        await pilot.press("down", "enter")
        await settle(pilot)
        assert "not a sockstep recording" in app.notes[-1]
        await pilot.press("home", "enter")
        await settle(pilot)
        assert at(app) == "1 STEP_09", "the first step that has an object"
