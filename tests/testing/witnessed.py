"""Consumers of a real feed that tell a witness all they see."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

import kufeed
from kufeed import Overflow
from kufeed.testing import Witness
from kufeed.testing.network import EPOCH_NS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from kufeed import Feed, Subscription


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


async def until_closed(subscription: Subscription[Any]) -> AsyncIterator[Any]:
    """Its updates, until this end of it is closed."""
    try:
        async for update in subscription:
            yield update
    except trio.ClosedResourceError:
        return


@asynccontextmanager
async def witnessed(
    subscription: Subscription[Any],
    *,
    policies: dict[kufeed.UpdateType, kufeed.Overflow] | None = None,
    how: Callable[[Subscription[Any], Witness], Awaitable[None]] = watch,
    name: str = "consumer",
    changes_only: bool = False,
    depth: int | None = None,
) -> AsyncIterator[Witness]:
    """Enter *subscription* and have it watched in a task; at the end its accounts are taken."""
    witness = Witness(name, policies=policies, changes_only=changes_only, depth=depth)
    witness.epoch_ns = EPOCH_NS
    async with trio.open_nursery() as nursery:
        async with subscription:
            witness.subscribed(subscription.topics)
            nursery.start_soon(how, subscription, witness)
            yield witness
            witness.left_at = trio.current_time()
            witness.statistics = subscription.statistics()
        nursery.cancel_scope.cancel()


@attrs.frozen
class Made:
    """A subscription, and the policy that holds for it."""

    made: Subscription[Any]
    overflow: Overflow


def subscriptions(feed: Feed, futures: str = "XBTUSDTM", spot: str = "BTC-USDT", **options: Any) -> dict[str, Made]:
    """One of each kind, on both markets where they have it, with *options*, and by default with their own policies."""
    made: dict[str, Subscription[Any]] = {
        "ticker": feed.ticker(futures, spot, **options),
        "trade": feed.trades(futures, spot, **options),
        "book_delta": feed.book_deltas(futures, spot, **options),
        "book": feed.book(futures, spot, **{key: it for key, it in options.items() if key != "changes_only"}),
        "level1": feed.level1(spot, **options),
        "depth": feed.depth(futures, spot, levels=5, **options),
        "mark_price": feed.mark_price(futures, spot, **options),
        "funding_rate": feed.funding_rate(futures, **options),
        "candle": feed.candles(futures, spot, interval="1min", **options),
        "stats_24h": feed.stats_24h(futures, spot, **options),
    }
    if options.get("overflow") is not Overflow.BLOCK:
        made["ticker of all"] = feed.all_tickers(**options)
    return {
        name: Made(one, options.get("overflow") or _POLICIES.get(name, Overflow.LATEST)) for name, one in made.items()
    }


_POLICIES = {"trade": Overflow.DROP_OLDEST, "candle": Overflow.DROP_OLDEST, "book_delta": Overflow.RAISE}
