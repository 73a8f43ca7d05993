"""Linux's numbers, on whatever system a recording is replayed."""

from __future__ import annotations

import errno
import subprocess
import sys

from recordings.uapi import ERRNO, ERRNO_NUMBERS
from tests import ROOT

# macOS has these under other numbers (sys/errno.h), as mips, alpha, sparc and parisc have.
ELSEWHERE = {"EAFNOSUPPORT": 47, "EPROTONOSUPPORT": 43, "ENOBUFS": 55, "EAGAIN": 35}

PROGRAM = """
import errno
for name, number in {elsewhere}.items():
    del errno.errorcode[getattr(errno, name)]
    errno.errorcode[number] = name
    setattr(errno, name, number)
from recordings import commands
from recordings.experiments import EXPERIMENTS
print(EXPERIMENTS["family-absent"].expected("6.1"), EXPERIMENTS["lsm-sk"].expected("5.10.0"))
print(commands.injection("security_sk_alloc=EAFNOSUPPORT").errno)
"""


def test_the_errnos_are_linux_own_wherever_python_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(elsewhere=ELSEWHERE)], cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["97", "105", "97"]


def test_the_table_is_that_of_this_linux() -> None:
    for name in ("EPERM", "ENFILE", "EMFILE", "EDEADLK", "EAFNOSUPPORT"):
        assert ERRNO_NUMBERS[name] == getattr(errno, name)
        assert ERRNO[getattr(errno, name)] == name
