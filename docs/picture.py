"""`make picture`: docs/app.svg, the app as it shows a bundled recording at one of its steps."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tui.app import Sockstep
from tui.source import Replay

RECORDING = "recordings/samples/socket_test-6.1-kprobe.jsonl"
STEP = "STEP_16"


async def main() -> None:
    app = Sockstep(Replay(Path(RECORDING)))
    async with app.run_test(size=(100, 30)) as pilot:
        while app.moment is None or app.moment.id != STEP:
            await pilot.press("n")
        await pilot.pause(0.5)
        picture = app.export_screenshot(title=f"sockstep replay {RECORDING}")
    # Some viewers (librsvg) drop no-break spaces at the ends of a text, and with them the columns.
    picture = picture.replace("&#160;", " ").replace("<text ", '<text xml:space="preserve" ')
    Path("docs/app.svg").write_text(picture)


asyncio.run(main())
