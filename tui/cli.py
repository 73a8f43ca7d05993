"""The command line. `sockstep PROGRAM` is the app; the other words are in COMMANDS below."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from recordings import __version__, isolated
from recordings.invoker import InvokerError, invoking_user
from recordings.stream import StreamError, Writer, read
from tui import places, plain
from tui.options import ALL, Options

LIVE = "PROGRAM [ARGS]..."  # the name of the default command, as --help lists it
F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path, dir_okay=False)


class Sockstep(click.Group):
    """A group whose default command is to debug a program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "--version"):
            args = [LIVE, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Click itself ends with 1 where nobody reads us any more, which here would say REJECT."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_output()
            raise click.exceptions.Exit(128 + signal.SIGPIPE) from None
        return result

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        live = self.commands[LIVE]
        options = [param for param in live.params if isinstance(param, click.Option)]
        rows = [option.get_help_record(ctx) for option in options]
        with formatter.section("Options for a program"):
            formatter.write_dl([row for row in rows if row])
        super().format_options(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Sockstep, options_metavar="[OPTIONS]", subcommand_metavar="PROGRAM [ARGS]...")
@click.version_option(__version__, message="sockstep %(version)s")
def cli() -> None:
    """Step through what the Linux kernel does inside socket(2).

    A program with the name of a command is reached by `sockstep -- NAME`.
    """


class Starting(click.Command):
    """A command that starts a program: what follows the program's name is the program's."""

    allow_interspersed_args = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """--vm alone means any kernel, --hold alone the default: see OPTIONAL."""
        rest, args = args, []
        while rest:
            word, *rest = rest
            if word in OPTIONAL:
                form, default = OPTIONAL[word]
                named = rest and re.fullmatch(form, rest[0])
                word = f"{word}={rest.pop(0) if named else default}"
            elif word in TAKING and rest:
                args.append(word)
                word = rest.pop(0)
            elif word == "--" or not word.startswith("-"):
                args += [word, *rest]
                break
            args.append(word)
        return super().parse_args(ctx, args)


# The options that a word follows; and those that one follows only if it looks like this.
TAKING = ("-o", "--output", "--backend", "--via", "--inject")
OPTIONAL = {"--vm": (r"\d+(\.\d+)*", ""), "--hold": (r"all|\d+(\.\d+)?(ms|s|m)?", "180s")}


class Span(click.ParamType):  # type: ignore[type-arg]
    """A length of time, 2s, 500ms or 3m: seconds; or "all"."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "all":
            return ALL
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)?", str(value))
        if found is None:
            self.fail(f"{value}: no length of time; write 2s, 500ms or 3m, or all", param, ctx)
        return float(found[1]) * {"ms": 0.001, "m": 60.0}.get(found[2], 1.0)


def live_options(command: F) -> F:
    """What starting a program has in common, with the app and without."""
    for option in (
        click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED),
        click.option("--vm", metavar="[K]",
                     help="Run it in a throwaway VM, on the kernel K (6.1, …)."),
        click.option("--via", metavar="CMD",
                     help='Start the agent behind CMD: sudo, or "ssh host".'),
        click.option("--hold", metavar="[TIME|all]", type=Span(),
                     help="Hold calls asleep in the kernel, so long at most (3m; up to 9m); "
                     "all: in a VM, freeze it at every step."),
        click.option("--follow-forks", is_flag=True, help="Watch its children too."),
        click.option("--lossy", is_flag=True,
                     help="Lose events rather than have it wait where it is faster than we are."),
        click.option("--backend", metavar="B", help="fentry, kprobe or tracepoint."),
        click.option("-o", "--output", metavar="FILE", type=FILE,
                     help="Where the recording goes."),
    ):  # fmt: skip
        command = option(command)
    return command


def program_options(**given: Any) -> Options:
    """The options; a program that is not there is known before anything starts."""
    options = Options(**given)
    if options.frozen and options.vm is None:
        raise click.ClickException("--hold=all freezes a whole machine: add --vm")
    if options.frozen and options.backend not in (None, "kprobe"):
        raise click.ClickException("--hold=all needs --backend kprobe")
    if options.via is not None:
        try:
            words = shlex.split(options.via)
        except ValueError as error:
            raise click.ClickException(f"--via {options.via}: {error}") from error
        if not words:
            raise click.ClickException('--via needs a command: sudo, or "ssh host"')
    name = options.program[0]
    here = options.via is None and options.vm is None
    if here and shutil.which(name) is None:
        why = "not executable" if os.path.exists(name) and "/" in name else "no such program"
        raise click.ClickException(f"{name}: {why}")
    return options


@cli.command(LIVE, cls=Starting, short_help="Debug a program in the app.")
@live_options
def live(**given: Any) -> int:
    """Debug PROGRAM: stop at each step of its socket() calls and look."""
    options = program_options(**given)
    if not plain.terminal():
        from tui import record

        return record.run(options)
    return _app(lambda app: app.debug(options))


def _app(run: Callable[[Any], int]) -> int:
    """The app, which is imported only for this: nothing else needs Textual."""
    from tui import app, keys

    try:
        return run(app)
    except keys.KeymapError as error:
        raise click.ClickException(str(error)) from error


@cli.command(cls=Starting)
@live_options
@click.option(
    "--inject",
    "injections",
    metavar="WHAT",
    multiple=True,
    help="SIGTERM@STEP_14, security_sk_alloc=ENOMEM, nofile=3, cgroup; X*3: thrice. Repeatable.",
)
@click.option(
    "--must-record",
    is_flag=True,
    help="End PROGRAM when it cannot be recorded any more (a full disk); else it goes on.",
)
def record(injections: tuple[str, ...], must_record: bool, **given: Any) -> int:
    """Record PROGRAM without the app, a line a step; exit with its status."""
    if given["output"] is None:
        raise click.UsageError("record needs -o FILE")
    from recordings import commands
    from tui import record

    try:
        injected = [commands.injection(text) for text in injections]
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    return record.run(program_options(**given), injected, must_record)


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--vm", "kernels", metavar="K", multiple=True, help="In a VM on kernel K; repeatable."
)
@click.option("--via", metavar="CMD", help="Start the agent behind CMD: sudo.")
@click.option("--backend", metavar="B", help="fentry, kprobe or tracepoint.")
@click.option(
    "-o",
    "--output",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the recordings go.",
)
@click.option("--json", "as_json", is_flag=True, help="The outcomes as a list of objects.")
def lab(
    names: tuple[str, ...],
    kernels: tuple[str, ...],
    via: str | None,
    backend: str | None,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Run experiments on the error paths of socket(2); without NAME, list them.

    NAME is an experiment, the number of an edge, or `all`. The status is 0 when all that could
    run did as the kernel's sources say, 1 when something did not, 3 when a recording lacks what
    would tell.
    """  # fmt: skip
    from tui import lab, places

    if not names:
        click.echo(lab.catalogue())
        return 0
    folder = folder or places.recordings() / "lab"
    outcomes = []
    for kernel in kernels or (None,):
        options = Options((), backend=backend, via=via, vm=kernel)
        where = folder / (kernel or "here").replace("/", "_")
        with plain.Said() as say:
            outcomes += lab.run(options, names, where, say)
    click.echo(lab.as_json(outcomes) if as_json else plain.out(lab.table(outcomes)))
    return lab.status(outcomes)


@cli.command()
@click.argument("file", required=False, type=FILE)
def replay(file: Path | None) -> int:
    """Replay a recording in the app; without FILE choose one."""
    if plain.terminal():
        return _app(lambda app: app.replay(file))
    if file is None:
        from recordings.words import visible

        for path in places.known_recordings():
            click.echo(plain.out(visible(str(path))))
        return 0
    return _report(file, as_json=False, call=None)


@cli.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--call", type=int, metavar="N", help="Only the N-th call.")
def report(file: Path, as_json: bool, call: int | None) -> int:
    """The forensic report. Exit status 0: PASS, 1: REJECT, 2: not usable, 3: UNKNOWN or NONE."""
    return _report(file, as_json, call)


def _report(file: Path, as_json: bool, call: int | None) -> int:
    from recordings import report, verdict
    from recordings.story import Story

    story = Story.of(read(file))
    if call is not None and call not in story.calls:
        raise click.ClickException(f"{file} has no call {call}; it has {len(story.calls)}")
    judged = verdict.judge(story)
    if as_json:
        import json

        json.dump(report.as_json(story, call, verdict=judged), sys.stdout, indent=2)
        print()
    else:
        print(report.text(story, call, ascii=plain.ascii_wanted(), verdict=judged))
    return {"PASS": 0, "REJECT": 1}.get(judged.verdict, 3)


@cli.command()
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--call-a", type=int, metavar="N", help="Only the N-th call of A.")
@click.option("--call-b", type=int, metavar="N", help="Against the N-th call of B.")
def diff(a: Path, b: Path, as_json: bool, call_a: int | None, call_b: int | None) -> int:
    """Two recordings side by side. Exit status 0: no divergence, 1: one, 2: not usable."""
    from recordings import diff
    from recordings.story import Story

    stories = Story.of(read(a)), Story.of(read(b))
    for file, story, call in ((a, stories[0], call_a), (b, stories[1], call_b)):
        if call is not None and call not in story.calls:
            raise click.ClickException(f"{file} has no call {call}; it has {len(story.calls)}")
    found = diff.diff(*stories, call_a, call_b)
    if as_json:
        import json

        print(json.dumps(diff.as_json(found), ensure_ascii=True, indent=2))
    else:
        width = shutil.get_terminal_size().columns
        print(diff.text(found, width, ascii=plain.ascii_wanted()))
    return 1 if found.diverges else 0


@cli.command()
@click.argument("file", type=FILE)
@click.option("-o", "--output", metavar="FILE", type=FILE, required=True)
def export(file: Path, output: Path) -> int:
    """Write a recording that others may see: kernel addresses masked, consistently."""
    from recordings.mask import masked

    _write(output, masked(read(file)), file)
    return 0


@cli.group("import")
def import_() -> None:
    """Make a recording of something else."""


@import_.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("-o", "--output", metavar="FILE", type=FILE, help="Where the recording goes.")
def dmesg(file: Path, output: Path | None) -> int:
    """The [PROBE] lines that socket_probe.ko wrote to the kernel log; - is standard input."""
    from recordings import dmesg
    from recordings.words import visible

    with click.open_file(str(file), errors="replace") as lines:
        events = list(dmesg.events(lines))
    if output is None:
        with places.as_invoker():
            output = places.new_recording("dmesg", 0)
    _write(output, events, file)
    click.echo(plain.out(visible(str(output))))
    return 0


def _write(path: Path, events: Any, source: Path) -> None:
    events = list(events)  # nothing is written of a source that turns out to be no good
    if path.exists() and source.exists() and path.samefile(source):
        raise click.ClickException(f"{path} would replace what it is made of: choose another -o")
    with places.as_invoker():
        writer = Writer(path)
    for event in events:
        writer.write(event)
    writer.close()


def _probes(name: str, module: str, *words: str) -> None:
    """A command of the privileged side, which is a program of its own: become it."""

    @cli.command(name, add_help_option=False, context_settings={"ignore_unknown_options": True},
                 short_help=_HELP[name])  # fmt: skip
    @click.argument("args", nargs=-1, type=click.UNPROCESSED)
    def become(args: tuple[str, ...]) -> NoReturn:
        sys.stdout.flush()
        command = isolated.command(module, *words, *args)
        os.execve(command[0], command, plain.environment())


_HELP = {
    "agent": "The privileged side: events on stdout, commands on stdin.",
    "doctor": "What this kernel and user may do, and what to do about it.",
    "vm": "Throwaway VMs to run on other kernels.",
}
_probes("agent", "probes.cli", "agent")
_probes("doctor", "probes.cli", "doctor")
_probes("vm", "probes.vm.cli")


def _drop_output() -> None:
    """What is not written yet cannot be, and Python would try, and complain, at our exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main() -> NoReturn:
    """The command line. Bad input is one line on stderr and exit status 2."""
    plain.ignore_absurd_sizes()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # we were started with it closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        invoking_user()
        sys.exit(cli.main(prog_name="sockstep", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except (click.ClickException, InvokerError, StreamError) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        _drop_output()
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    from recordings.words import visible

    print(plain.out(f"sockstep: {visible(text)}"), file=sys.stderr)
    sys.exit(2)
