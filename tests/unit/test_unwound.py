"""Where a stack that was unwound has its return addresses."""

from __future__ import annotations

from probes.unwound import positions

A, B, C, PROGRAM, TRAMPOLINE = 0xFFFF0010, 0xFFFF0020, 0xFFFF0030, 0xC0000010, 0xC0000020


def test_each_frame_is_found_above_the_one_before() -> None:
    memory = [B, 7, A, 0, B, 9, 9, C]  # the first is left over: the frame of A lies above it
    assert positions((PROGRAM, TRAMPOLINE, A, B, C), memory) == {16: A, 32: B, 56: C}


def test_an_address_that_is_there_twice_is_not_known() -> None:
    assert positions((A, B, C), [A, B, 0, B, C]) == {}


def test_a_frame_that_is_not_there_is_not_known() -> None:
    assert positions((A, B, C), [A, 0, C]) == {}
    assert positions((A, B, C), [A, B]) == {}, "the outermost lies beyond what was read"
    assert positions((1, 2, 3, 4, A), [A]) == {}, "so many frames of BPF's own there are never"
    assert positions((A,), []) == {}


def test_a_recursion_has_its_frames_in_order() -> None:
    assert positions((A, A, B), [A, 0, A, B]) == {}, "which of two is the inner one is not sure"
