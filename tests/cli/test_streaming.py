"""`kufeed demo` and `kufeed watch`: what they print, when they stop, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from decimal import Decimal

import pytest
import trio

from kufeed.testing import Exchange

from .process import COMMAND, LONGEST, environment, run, running

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and terminals")

SUMMARY = re.compile(r"received (\d+), delivered (\d+), dropped (\d+)(, discarded \d+)?(, pending \d+)?$")


async def test_the_demo_prints_plain_lines_to_a_pipe_and_stops_by_itself() -> None:
    ended = await run("demo", "--seconds", "3")
    assert ended.code == 0
    assert ended.err == []
    *lines, summary = ended.out
    assert {line.split()[0] for line in lines} == {"XBTUSDTM", "ETHUSDTM", "BTC-USDT", "ETH-USDT"}
    assert {line.split()[1] for line in lines} == {"ticker", "trade"}
    counts = SUMMARY.search(summary)
    assert counts is not None, summary
    received, delivered, dropped = map(int, counts.groups()[:3])
    assert received >= delivered == len(lines) > 0
    assert dropped == 0


async def test_the_demo_goes_on_in_real_time_until_it_is_told_to_stop() -> None:
    async with running("demo") as process:
        began = trio.current_time()
        lines = [await process.read_line() for _ in range(60)]
        # Eight streams at ten moves a second: so many lines cannot come at once, nor take long.
        assert 0.2 < trio.current_time() - began < LONGEST / 2
        assert all(lines)


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["demo", "watch", "exchange"])
async def test_a_signal_ends_it_cleanly(command: str, number: signal.Signals, code: int) -> None:
    async with Exchange().listen() as address:
        arguments = {
            "demo": ("demo",),
            "watch": ("watch", "ticker", "BTC-USDT", "--spot-url", address.spot_url),
            "exchange": ("exchange",),
        }[command]
        async with running(*arguments) as process:
            assert await process.read_line()
            process.process.send_signal(number)
            ended = await process.end()
    assert ended.code == code
    assert len(ended.err) == (command == "watch")  # its accounts, and nothing else
    assert "Traceback" not in "\n".join([*ended.out, *ended.err])


@posix
async def test_a_reader_that_leaves_ends_it_quietly() -> None:
    async with running("demo") as process:
        assert await process.read_line()
        assert process.process.stdout is not None
        await process.process.stdout.aclose()
        assert process.process.stderr is not None
        said = [bytes(data) async for data in process.process.stderr]
        assert await process.process.wait() == 141
    assert said == []


@posix
async def test_a_reader_that_is_slow_does_not_stop_the_clock() -> None:
    """The pipe is full at once and nobody reads: time is up nevertheless."""
    async with Exchange(update_interval=0.001).listen() as address:
        urls = ("--futures-url", address.futures_url, "--spot-url", address.spot_url)
        symbols = ("XBTUSDTM", "ETHUSDTM", "BTC-USDT", "ETH-USDT")
        async with running("watch", "trades", *symbols, "--json", "--seconds", "3", *urls) as process:
            with trio.fail_after(20):
                assert await process.process.wait() == 0
            ended = await process.end()
    assert len(ended.out) > 10
    assert "discarded" in ended.err[0], "what came after the pipe was full was never written"


async def test_json_lines_hold_every_field_exactly() -> None:
    async with Exchange().listen() as address:
        urls = ("--futures-url", address.futures_url, "--spot-url", address.spot_url)
        tickers = await run("watch", "ticker", "XBTUSDTM", "BTC-USDT", "--json", "--count", "20", *urls)
        trades = await run("watch", "trades", "XBTUSDTM", "BTC-USDT", "--json", "--count", "20", *urls)
    assert (tickers.code, trades.code) == (0, 0)
    for ended in (tickers, trades):
        assert len(ended.out) == 20
        (summary,) = ended.err
        assert SUMMARY.search(summary), summary
        assert not any("raw" in json.loads(line) for line in ended.out), "what nobody asked to keep"
    for update in map(json.loads, tickers.out):
        assert update["kind"] == "ticker"
        assert update["topic"].endswith(":" + update["symbol"])
        assert Decimal(update["bid"]) < Decimal(update["ask"])
        assert type(update["bid_size"]) is (str if "-" in update["symbol"] else int)
        assert abs(update["received_time_ns"] - update["exchange_time_ns"]) < 60 * 10**9
        assert type(update["sequence"]) is int
    for update in map(json.loads, trades.out):
        assert update["kind"] == "trade"
        assert update["side"] in ("buy", "sell")
        assert re.fullmatch(r"[0-9.]+", update["price"])
        assert type(update["size"]) is (str if "-" in update["symbol"] else int)


async def test_all_is_every_spot_ticker() -> None:
    async with Exchange(generated=3).listen() as address:
        urls = ("--spot-url", address.spot_url)
        ended = await run("watch", "ticker", "all", "--json", "--count", "40", *urls)
        trades = await run("watch", "trades", "all", *urls)
    assert ended.code == 0
    every = {"BTC-USDT", "ETH-USDT", "T0001-USDT", "T0002-USDT", "T0003-USDT"}
    assert {json.loads(line)["symbol"] for line in ended.out} == every
    assert {json.loads(line)["topic"] for line in ended.out} == {f"/market/ticker:{symbol}" for symbol in every}
    assert trades.code == 2
    assert trades.err == ["kufeed: trade has no topic of all symbols"]


@posix
@pytest.mark.parametrize("arguments", [("demo",), ("watch", "ticker", "XBTUSDTM")])
async def test_a_terminal_gets_a_live_table(arguments: tuple[str, ...]) -> None:
    import pty

    async with Exchange().listen() as address:
        urls = ("--futures-url", address.futures_url) if arguments[0] == "watch" else ()
        ours, theirs = pty.openpty()
        try:
            process = await trio.lowlevel.open_process(
                [*COMMAND, *arguments, *urls, "--seconds", "2"],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                env={**environment(), "TERM": "xterm"},
            )
        finally:
            os.close(theirs)
        painted = bytearray()
        async with trio.lowlevel.FdStream(ours) as terminal:
            with trio.fail_after(LONGEST):
                try:
                    async for data in terminal:
                        painted += data
                except trio.BrokenResourceError:
                    pass  # how Linux tells that the other end of a terminal is gone
                assert await process.wait() == 0
    text = painted.decode()
    for word in ("symbol", "bid", "ask", "latency", "updates", "XBTUSDTM"):
        assert word in text
    assert text.count("latency") > 2, "the table is painted again and again"
    assert text.rstrip().endswith("\x1b[?25h") or "received" in text, "the cursor is shown again"


@posix
async def test_a_bar_on_standard_error_shows_how_many_are_subscribed_to() -> None:
    """Standard output is a pipe and stays clean; with few symbols there is none."""
    import pty

    for count in (200, 1):
        symbols = [f"T{number:04}-USDT" for number in range(1, count + 1)]
        async with Exchange(generated=200, book_levels=40).listen() as address:
            urls = ("--futures-url", address.futures_url, "--spot-url", address.spot_url)
            ours, theirs = pty.openpty()
            try:
                process = await trio.lowlevel.open_process(
                    [*COMMAND, "watch", "ticker", *symbols, *urls, "--count", "1"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=theirs,
                    env={**environment(), "TERM": "xterm"},
                )
            finally:
                os.close(theirs)
            painted, printed = bytearray(), bytearray()
            assert process.stdout is not None
            async with trio.lowlevel.FdStream(ours) as terminal, process.stdout:
                with trio.fail_after(LONGEST):
                    try:
                        async for data in terminal:
                            painted += data
                    except trio.BrokenResourceError:
                        pass  # how Linux tells that the other end of a terminal is gone
                    async for data in process.stdout:
                        printed += data
                    assert await process.wait() == 0
        assert ("subscribing" in painted.decode()) == (count == 200)
        assert ("0/200" in painted.decode()) == (count == 200)
        assert "delivered 1" in painted.decode()
        assert len(printed.splitlines()) == 1
