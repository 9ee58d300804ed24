"""A bar on a terminal while many topics are being subscribed to."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import rich.progress
import trio

from .. import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.console import Console

    from .. import Feed, FeedEvents


@asynccontextmanager
async def progress_bar(feed: Feed, console: Console) -> AsyncIterator[None]:
    """Paint how many topics of *feed* are acknowledged until the block is left; then the bar is wiped away."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_paint, feed.events(), console)
        yield
        nursery.cancel_scope.cancel()


async def _paint(events: FeedEvents, console: Console) -> None:
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        shown = bar.add_task("subscribing", total=None)
        async for event in events:
            if isinstance(event, Progress):
                bar.update(shown, completed=event.acked, total=event.total, refresh=True)
