"""The commands and their options."""

from __future__ import annotations

import logging
import math
import sys
from contextlib import suppress
from pathlib import Path  # noqa: TC003  # cyclopts reads the annotations
from typing import TYPE_CHECKING, Annotated, Literal

import trio
from cyclopts import App, CycloptsError, Parameter, validators
from rich.console import Console
from rich.table import Table

from .. import FeedConfig, __version__
from ..errors import UsageError
from ..protocol import CHANNELS
from ._output import Output, OutputClosed, complain
from ._running import DONE, MISUSED, NOBODY_READS, CommandFailed, run
from ._stress import stress_limiter
from ._symbols import Listing
from ._views import as_json
from ._watching import Kind, Watch

if TYPE_CHECKING:
    from ..testing import FaultPlan

_DEFAULTS = FeedConfig()
_DEMO_SYMBOLS = ("XBTUSDTM", "ETHUSDTM", "BTC-USDT", "ETH-USDT")

app = App(
    name="kufeed",
    version=__version__,
    help="KuCoin public market data, streamed by Trio tasks.",
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
)

Seconds = Annotated[float | None, Parameter(validator=validators.Number(gt=0, lte=366 * 86400))]
Count = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]
Whole = Annotated[int, Parameter(validator=validators.Number(gte=0))]
Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]


def run_app() -> int:
    """Run the command that `sys.argv` asks for; returns the exit code."""
    # Trouble is told in one line, not also by the warnings of the library. `--verbose` of a command shows them.
    logging.getLogger("kufeed").addHandler(logging.NullHandler())
    try:
        code: int | None = app(sys.argv[1:])
        sys.stdout.flush()
    except (CycloptsError, UsageError) as error:
        complain(f"{error} Try: kufeed --help" if isinstance(error, CycloptsError) else error)
        return MISUSED
    except (OutputClosed, BrokenPipeError):
        sys.stdout = None  # the interpreter would flush it once more, and complain
        return NOBODY_READS
    return code or DONE


@app.command
def demo(*, seconds: Seconds = None, seed: int = 0, verbose: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Show the feed at work on a simulated exchange inside this process: no network, no account.

    A live table on a terminal, plain lines when piped.

    Parameters
    ----------
    seconds
        Stop by itself after so long; without it, Ctrl-C stops.
    seed
        The market to simulate: the same seed, the same market.
    verbose
        Also show the library's log on standard error.
    """
    from ..testing import Exchange  # who watches the real one need not wait for it

    _log_if(verbose)
    output = Output()
    watch: Watch | None = None

    async def command() -> None:
        nonlocal watch
        # Over real sockets of this machine, so that what is shown is what the library does elsewhere.
        async with Exchange(seed=seed).listen() as address:
            watch = Watch(
                config=FeedConfig(futures_url=address.futures_url, spot_url=address.spot_url),
                kinds=("ticker", "trades"),
                symbols=_DEMO_SYMBOLS,
                output=output,
                console=Console(),
                seconds=seconds,
            )
            await watch.run()

    code = run(command)
    summary = None if watch is None else watch.summary()
    if summary is not None and code != NOBODY_READS:
        with suppress(OutputClosed):
            output.write_now(f"demo: {summary}\n")
    return code


@app.command
def watch(
    kind: Kind,
    /,
    *symbols: str,
    levels: int | None = None,
    interval: str | None = None,
    futures_url: str = _DEFAULTS.futures_url,
    spot_url: str = _DEFAULTS.spot_url,
    json: Annotated[bool, Parameter(negative=())] = False,
    seconds: Seconds = None,
    count: Count = None,
    attempts: Whole = 2,
    verbose: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Stream one kind of updates: a table on a terminal, lines when piped. The accounts follow on standard error.

    While more than 100 symbols are being subscribed to, a bar on standard error shows how far that is, on a terminal.

    Parameters
    ----------
    kind
        What to stream.
    symbols
        Spot symbols have a dash (BTC-USDT), futures have none (XBTUSDTM); mix them as you like. `all` is every spot
        ticker.
    levels
        Of depth: so many levels of each side, 5 or 50 (5). Of book: any number of them (20), of spot at most 50.
    interval
        Of candles: 1min, 1hour, 1day and so on.
    futures_url
        REST base of the futures market, as `kufeed exchange` prints it.
    spot_url
        REST base of the spot market.
    json
        One JSON object a line: decimals as text, times in ns since the epoch.
    seconds
        Stop after so long, connecting included.
    count
        Stop after so many updates.
    attempts
        How often to try again before giving up on an exchange that cannot be reached.
    verbose
        Also show the library's log on standard error.
    """
    _log_if(verbose)
    config = FeedConfig(futures_url=futures_url, spot_url=spot_url, max_reconnect_attempts=attempts)
    watch = Watch(
        config=config,
        kinds=(kind,),
        symbols=symbols,
        levels=levels,
        interval=interval,
        output=Output(),
        console=Console(),
        progress=Console(stderr=True) if sys.stderr.isatty() else None,
        format=as_json if json else None,
        seconds=seconds,
        count=count,
    )
    code = run(watch.run)
    summary = watch.summary()
    if summary is not None and code != NOBODY_READS:
        with suppress(OutputClosed):
            watch.output.write_now()  # what was taken just before the end
        complain(summary)
    return code


@app.command
def exchange(
    *,
    port: Port = 0,
    host: str = "127.0.0.1",
    seed: int = 0,
    symbols: Whole = 0,
    interval: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 0.1,
    limits: bool = True,
    plan: Path | None = None,
    seconds: Seconds = None,
    verbose: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Serve the simulated exchange, both markets, REST and WebSocket, to any client in any language.

    Prints the two REST bases, then serves until Ctrl-C. It has XBTUSDTM, ETHUSDTM, BTC-USDT and ETH-USDT.

    Parameters
    ----------
    port
        TCP port; 0 takes a free one.
    host
        Address to listen on; other machines reach only one of their network.
    seed
        The market to simulate: the same seed, the same market.
    symbols
        So many generated symbols more on each market: T0001USDTM, T0001-USDT, and so on.
    interval
        Seconds between two moves of the market.
    limits
        Whether KuCoin's limits are enforced, such as 30 connections a minute.
    plan
        File with a fault plan (JSON): what goes wrong, and when, counted from when it listens.
    seconds
        Stop by itself after so long.
    verbose
        Also show the log on standard error.
    """
    from ..testing import Exchange, FaultPlan, Limits

    _log_if(verbose)
    output = Output()
    faults = FaultPlan() if plan is None else _read_plan(plan)

    async def command() -> None:
        made = Exchange(seed=seed, generated=symbols, update_interval=interval, limits=None if limits else Limits.off())
        try:
            faults.check(made)
        except (LookupError, ValueError) as error:
            raise UsageError(f"{plan}: {error}") from error
        try:
            async with made.listen(host, port) as address, trio.open_nursery() as nursery:
                await output.write(f"futures {address.futures_url}\nspot    {address.spot_url}\n")
                nursery.start_soon(faults.play, made, name="kufeed exchange: fault plan")
                await trio.sleep(math.inf if seconds is None else seconds)
                nursery.cancel_scope.cancel()
        except OSError as error:
            raise CommandFailed(f"cannot listen on {host} port {port}: {error.strerror or error}") from error

    return run(command)


def _read_plan(path: Path) -> FaultPlan:
    from ..testing import FaultPlan

    try:
        return FaultPlan.from_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


@app.command
def stress(
    *,
    limiter: Annotated[bool, Parameter(negative=())] = False,
    seconds: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=3600))] = 2.0,
) -> int:
    """Measure a part of kufeed on this machine, and print the figures.

    Parameters
    ----------
    limiter
        The sliding-window limiter: acquisitions a second, alone and with 100 waiters, fairness, the worst window.
    seconds
        For each measurement.
    """
    if not limiter:
        raise UsageError("say what to measure: --limiter")
    output = Output()

    async def command() -> None:
        async for line in stress_limiter(seconds):
            await output.write(line + "\n")

    return run(command)


@app.command
def symbols(
    market: Literal["futures", "spot"] | None = None,
    /,
    *,
    match: str = "",
    futures_url: str = _DEFAULTS.futures_url,
    spot_url: str = _DEFAULTS.spot_url,
    json: Annotated[bool, Parameter(negative=())] = False,
    verbose: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """List what is traded: tick, lot, multiplier, status, funding. A table on a terminal, tabs when piped.

    Parameters
    ----------
    market
        One of the markets; without it, both.
    match
        Only symbols with this text in them, in capitals or not.
    futures_url
        REST base of the futures market, as `kufeed exchange` prints it.
    spot_url
        REST base of the spot market.
    json
        One JSON object a line: decimals as text, times in ISO 8601.
    verbose
        Also show the library's log on standard error.
    """
    _log_if(verbose)
    listing = Listing(
        config=FeedConfig(futures_url=futures_url, spot_url=spot_url),
        markets=("futures", "spot") if market is None else (market,),
        match=match,
        json=json,
        output=Output(),
        console=Console(),
    )
    return run(listing.run)


@app.command
def topics() -> None:
    """List the channels: what their updates are, what times and sizes count, how updates are told apart, the source.

    A terminal shows as many columns as fit; piped, there are all, parted by tabs.
    """
    rows = [
        (
            channel.kind.value,
            channel.market.name,
            str(channel),
            ", ".join(channel.subjects) or "the symbol",
            channel.record.__name__,
            channel.time,
            channel.sizes or "-",
            channel.merge_key.value,
            channel.merge_key.gap,
            channel.source,
        )
        for channel in CHANNELS
    ]
    output = Output()
    if not output.is_terminal:
        output.write_now("".join("\t".join(row) + "\n" for row in rows))
        return
    console = Console()
    endless = console.options.update_width(1000)
    words = ("kind", "market", "wire topic", "record", "time stamp", "sizes count", "merge key", "a gap is told by")
    # The first four columns take 76 letters. No terminal is wide enough for subjects and sources.
    for shown in range(len(words), 3, -1):
        table = Table(*words[:shown], box=None, pad_edge=False)
        for kind, market, path, _, *others, _ in rows:
            table.add_row(*(kind, market, path, *others)[:shown])
        if console.measure(table, options=endless).maximum <= console.width:
            break
    console.print(table)


def _log_if(verbose: bool) -> None:
    if verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s %(message)s")
