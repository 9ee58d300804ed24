"""Best bid and ask of one futures contract and one spot pair, as they change.

Runs against KuCoin. To try it without a network, start `kufeed exchange` elsewhere and set the two addresses it prints:

    KUFEED_FUTURES_URL=http://127.0.0.1:8080/futures KUFEED_SPOT_URL=http://127.0.0.1:8080/spot python quickstart.py
"""

import trio

import kufeed


async def main() -> None:
    async with kufeed.open_feed(kufeed.FeedConfig.from_env()) as feed:
        async with feed.ticker("XBTUSDTM", "BTC-USDT") as tickers:
            async for t in tickers:
                print(t.symbol, t.bid, t.ask, t.latency, flush=True)


trio.run(main)
