"""Kernel stacks as a recording has them: `function+0xoffset`, innermost first."""

from __future__ import annotations

from collections.abc import Iterable

# Where an interrupt begins, or RCU's part of it.
INTERRUPT = ("rcu_do_batch", "rcu_core", "handle_softirqs", "__do_softirq", "asm_sysvec_",
             "asm_common_interrupt")  # fmt: skip


def functions(frames: Iterable[str]) -> list[str]:
    """The functions, as far as the interrupt that the stack is of: beyond is what it came amid."""
    found = []
    for frame in frames:
        found.append(frame.partition("+")[0])
        if frame.startswith(INTERRUPT):
            break
    return found
