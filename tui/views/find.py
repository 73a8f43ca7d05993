"""Going places: by words, by number, by name."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator

from recordings import events as ev
from recordings.steps import STEPS
from recordings.story import Moment, Story, order
from recordings.stream import encode
from recordings.words import describe
from tui.views.call import is_place
from tui.views.history import moment_at
from tui.views.look import Look


async def search(story: Story, words: str) -> AsyncIterator[int]:
    """Lines of the log with `words` (lower case) in what is shown of them or in their values.

    The kernel's names count for the addresses that bear them.
    """
    addresses = {at for at, name in story.symbols.items() if words in name.lower()}
    for line, event in enumerate(story.log):
        if line % 2000 == 1999:
            await asyncio.sleep(0)
        raw = encode(event).decode().lower()
        if (
            words in raw
            or words in describe(event, moment_at(story, line)).lower()
            or any(at in raw for at in addresses)
        ):
            yield line


def is_at(story: Story, moment: Moment) -> bool:
    """Whether a moment is still a place to be at: a hold of a frozen machine is over at its end."""
    if not isinstance(moment.event, ev.Held):
        return True
    return any(hold.moment is moment and is_place(hold) for hold in story.holds)


def beside(story: Story, moment: Moment | None, by: int) -> Moment | None:
    """The place before (`by` -1) or after (1) a moment: a step, or where a thread was held."""
    here = order(moment) if moment is not None else (-1, False)
    holds = [hold.moment for hold in story.holds if is_place(hold)]
    held = [each for each in holds if each is not None]
    if by > 0:
        next = bisect_right(story.moments, here, key=order)
        after = [*story.moments[next : next + 1], *(each for each in held if order(each) > here)]
        return min(after, key=order, default=None)
    last = bisect_left(story.moments, here, key=order)
    before = [*story.moments[max(0, last - 1) : last], *(m for m in held if order(m) < here)]
    return max(before, key=order, default=None)


def moment_near(story: Story, line: int) -> Moment | None:
    """The moment of a line of the log, or the last one before it, or the first of all."""
    found = bisect_right(story.moments, line, key=lambda moment: moment.line)
    return story.moments[max(0, found - 1)] if story.moments else None


def named_moment(wish: str, look: Look) -> Moment | None:
    """What "12", "STEP_16", "vfs" or "call 3" means: a moment, or None."""
    story, words = look.story, wish.lower().strip()
    number = words.removeprefix("call").removeprefix("#").strip()
    if words != number and number.isdecimal():
        call = story.calls.get(int(number))
        return call.moments[0] if call and call.moments else None
    if words.isdecimal():
        at = int(words) - 1
        return story.moments[at] if 0 <= at < len(story.moments) else None
    own = look.moment.call.moments if look.moment else []
    for matches in (str.__eq__, str.startswith, str.__contains__):
        for moment in own:
            kind = STEPS.get(moment.id)
            names = (moment.id.lower(), kind.name.lower() if kind else "")
            if words and any(matches(name, words) for name in names):
                return moment
    return None
