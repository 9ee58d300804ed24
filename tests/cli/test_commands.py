"""The commands that do not stream, and every way of being called wrongly."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest

import kufeed
from kufeed.protocol import CHANNELS
from kufeed.testing import Exchange

from .process import painted, run, running


async def test_topics_lists_the_channel_table() -> None:
    """The same that the documentation draws, a row a line."""
    ended = await run("topics")
    assert (ended.code, ended.err) == (0, [])
    assert [line.split("\t") for line in ended.out] == [
        [
            channel.kind,
            channel.market.name,
            str(channel),
            ", ".join(channel.subjects) or "the symbol",
            channel.record.__name__,
            channel.time,
            channel.sizes or "-",
            channel.merge_key.value,
            channel.merge_key.gap,
            channel.source,
        ]
        for channel in CHANNELS
    ]
    assert ["ticker", "spot", "/market/ticker:all"] in [line.split("\t")[:3] for line in ended.out]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
@pytest.mark.parametrize(("columns", "words"), [(80, 4), (120, 5), (200, 8)])
async def test_topics_fit_a_terminal(columns: int, words: int) -> None:
    """A line for each channel, and nothing in it cut: as many columns as there is room for."""
    text = await painted("topics", columns=columns)
    head, *lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in text.splitlines()]
    assert len(re.split(" {2,}", head)) == words
    assert max(map(len, (head, *lines))) <= columns
    for line, channel in zip(lines, CHANNELS, strict=True):
        shown = (channel.kind, channel.market.name, str(channel), channel.record.__name__)
        assert line.split()[:4] == [*shown]
        assert line.endswith({4: channel.record.__name__, 5: channel.time, 8: channel.merge_key.gap}[words])


async def test_help_and_version() -> None:
    ended = await run("--help")
    assert ended.code == 0
    for command in ("demo", "watch", "exchange", "symbols", "topics"):
        assert any(command in line for line in ended.out)
    ended = await run("--version")
    assert (ended.code, ended.out) == (0, [kufeed.__version__])


async def test_stress_measures_the_limiter() -> None:
    ended = await run("stress", "--limiter", "--seconds", "0.05")
    assert (ended.code, ended.err) == (0, [])
    assert [line.split()[0] for line in ended.out] == ["uncontended", "100", "fairness", "worst"]
    worst = ended.out[-1].split()
    assert int(worst[2]) == int(worst[worst.index("allowed;") - 1]) == 100


async def test_the_exchange_serves_whoever_comes() -> None:
    async with running("exchange", "--port", "0", "--symbols", "2", "--seed", "3") as exchange:
        bases = dict([(await exchange.read_line()).split() for _ in range(2)])
        assert sorted(bases) == ["futures", "spot"]
        urls = ("--futures-url", bases["futures"], "--spot-url", bases["spot"])
        ended = await run("watch", "ticker", "T0001USDTM", "T0002-USDT", "--count", "4", *urls)
        assert ended.code == 0, ended.err
        assert {line.split()[0] for line in ended.out} == {"T0001USDTM", "T0002-USDT"}


async def test_the_exchange_stops_when_its_time_is_up() -> None:
    ended = await run("exchange", "--seconds", "0.1")
    assert (ended.code, len(ended.out), ended.err) == (0, 2, [])


async def test_the_exchange_plays_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('[{"fault": "RefuseTokens", "lasting": "inf", "error": ["400100", "not today"]}]')
    async with running("exchange", "--plan", str(path)) as exchange:
        bases = dict([(await exchange.read_line()).split() for _ in range(2)])
        urls = ("--futures-url", bases["futures"], "--spot-url", bases["spot"])
        ended = await run("watch", "ticker", "XBTUSDTM", "--attempts", "0", *urls)
    assert ended.code == 1
    assert "not today" in ended.err[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read"),
        ("[", "this is not JSON"),
        ('[{"fault": "Close", "code": 7}]', "fault 0: Close: code must be a code that may be sent, not 7"),
        ('[{"fault": "Halt", "symbol": "DOGEUSDTM"}]', "this exchange does not have DOGEUSDTM"),
    ],
)
async def test_a_plan_that_cannot_be_played_is_one_clear_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    ended = await run("exchange", "--plan", str(path), "--seconds", "1")
    assert (ended.code, ended.out) == (2, [])
    (line,) = ended.err
    assert line.startswith("kufeed: ")
    assert words in line


async def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = await run("exchange", "--port", port)
    assert ended.code == 1
    assert len(ended.err) == 1
    assert port in ended.err[0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("watch", "ticker", "BTC/USDT"), "BTC-USDT"),
        (("watch", "ticker", "BTCUSDTM"), "XBTUSDTM"),
        (("watch", "ticker"), "symbol"),
        (("stress",), "--limiter"),
        (("watch", "ticker", "BTC-USDT", "BTC-USDT"), "twice"),
        (("watch", "ticker", "BTC-USDT", "--levels", "5"), "levels"),
        (("watch", "depth", "BTC-USDT", "--levels", "20"), "levels=5 or 50"),
        (("watch", "candles", "BTC-USDT"), "1min, 3min"),
        (("watch", "orders", "BTC-USDT"), "ticker"),
        (("watch", "ticker", "BTC-USDT", "--spot-url", "kucoin"), "spot_url"),
        (("watch", "ticker", "BTC-USDT", "--spot-url", ""), "spot_url"),
        (("watch", "ticker", "BTC-USDT", "--seconds", "0"), "--seconds"),
        (("watch", "ticker", "BTC-USDT", "--seconds", "inf"), "--seconds"),
        (("watch", "ticker", "BTC-USDT", "--seconds", "nan"), "--seconds"),
        (("watch", "ticker", "BTC-USDT", "--count", "0"), "--count"),
        (("demo", "--speed", "9"), "--speed"),
        (("exchange", "--port", "70000"), "--port"),
        (("dance",), "dance"),
    ],
)
async def test_wrong_use_is_one_clear_line(arguments: tuple[str, ...], word: str) -> None:
    ended = await run(*arguments)
    assert (ended.code, ended.out) == (2, [])
    (line,) = ended.err
    assert line.startswith("kufeed: ")
    assert word in line


async def test_an_exchange_that_cannot_be_reached_is_one_clear_line() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port, and it refuses
        port = silent.getsockname()[1]
        base = f"http://127.0.0.1:{port}/spot"
        ended = await run("watch", "ticker", "BTC-USDT", "--spot-url", base, "--attempts", "0")
    assert (ended.code, ended.out) == (1, [])
    (line,) = ended.err
    assert line.startswith("kufeed: gave up connecting")
    assert str(port) in line
    assert "refused" in line


async def test_a_symbol_that_the_exchange_does_not_have_is_one_clear_line() -> None:
    async with Exchange().listen() as address:
        ended = await run("watch", "trades", "NOPE-USDT", "--spot-url", address.spot_url)
    assert (ended.code, ended.out) == (1, [])
    (line,) = ended.err
    assert "NOPE-USDT was refused" in line
    assert "404" in line


async def test_time_that_was_too_short_to_connect_is_a_failure() -> None:
    exchange = Exchange()
    exchange.faults.withhold_welcome = True
    async with exchange.listen() as address:
        ended = await run("watch", "trades", "BTC-USDT", "--spot-url", address.spot_url, "--seconds", "0.2")
    assert ended.code == 1
    assert ended.err == ["kufeed: not subscribed within 0.2 s"]


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
async def test_without_its_packages_it_says_how_to_get_them(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from kufeed.cli import main; sys.exit(main())"
    ended = await run(command=(sys.executable, "-c", code))
    assert (ended.code, ended.out) == (1, [])
    (line,) = ended.err
    assert 'pip install "kufeed[cli]"' in line
