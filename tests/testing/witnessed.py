"""Consumers of a real feed that tell a witness all they see."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

import kufeed
from kufeed.testing import Witness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from kufeed import Feed, Subscription, Topic


async def watch(subscription: Subscription[Any], witness: Witness, pause: float = 0.0) -> None:
    """See everything, as a consumer should, with a *pause* after each update."""
    while True:
        try:
            async for item in subscription.with_events():
                witness.saw(item)
                if pause and isinstance(item, kufeed.Update):
                    await trio.sleep(pause)
        except kufeed.KufeedError as error:
            witness.saw(error)
            if isinstance(error, kufeed.SubscriptionRejected | kufeed.StreamEnded) and not subscription.topics:
                return
        except trio.ClosedResourceError:
            return
        else:
            return


async def watch_plainly(subscription: Subscription[Any], witness: Witness) -> None:
    """See updates only."""
    while True:
        try:
            async for update in subscription:
                witness.saw(update)
        except kufeed.KufeedError as error:
            witness.saw(error)
        except trio.ClosedResourceError:
            return
        else:
            return


@asynccontextmanager
async def witnessed(
    subscription: Subscription[Any],
    *,
    policies: dict[kufeed.UpdateType, kufeed.Overflow] | None = None,
    how: Callable[[Subscription[Any], Witness], Awaitable[None]] = watch,
    name: str = "consumer",
    changes_only: bool = False,
) -> AsyncIterator[Witness]:
    """Enter *subscription* and have it watched in a task; at the end its accounts are taken."""
    witness = Witness(name, policies=policies, changes_only=changes_only)
    async with trio.open_nursery() as nursery:
        async with subscription:
            witness.subscribed(subscription.topics)
            nursery.start_soon(how, subscription, witness)
            yield witness
            witness.left_at = trio.current_time()
            witness.statistics = subscription.statistics()
        nursery.cancel_scope.cancel()


def subscriptions(feed: Feed, futures: str = "XBTUSDTM", spot: str = "BTC-USDT") -> list[Subscription[Any]]:
    """One of each channel of both markets."""
    return [
        feed.ticker(futures, spot),
        feed.trades(futures, spot),
        feed.book_deltas(futures, spot),
        feed.book(futures, spot),
        feed.level1(spot),
        feed.depth(futures, spot, levels=5),
        feed.mark_price(futures, spot),
        feed.funding_rate(futures),
        feed.candles(futures, spot, interval="1min"),
        feed.stats_24h(futures, spot),
        feed.all_tickers(),
    ]


def books(topics: Sequence[Topic]) -> list[str]:
    """Their symbols."""
    return [topic.symbol for topic in topics]
