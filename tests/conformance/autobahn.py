"""Drives clients through the cases of Autobahn|Testsuite and prints what its fuzzing server says of them.

Run by `tests/conformance/run`, which installs what this needs. The subjects are kufeed's transport, and trio-websocket
as it comes; both only send back what they get.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trio_websocket

from kufeed import DialError, LinkError, _websocket
from kufeed._network import RealNetwork
from kufeed._websocket import WebSocket, run_websocket
from kufeed.protocol.frames import FrameParser

HOST = "127.0.0.1"
LIMIT = 2**25  # the largest message of the suite has 16 MB
CASE_TIMEOUT = 60.0  # seconds; the server itself ends a case after ten at most, large messages apart
RUN_TIMEOUT = 900.0
START_TIMEOUT = 60.0

Echo = Callable[[int, str], Awaitable[None]]
Verdicts = dict[str, dict[str, Any]]
"""By case: its behaviour, and how the connection was closed."""


# -- the subjects -----------------------------------------------------------------------------------------------------


async def echo_by_kufeed(port: int, target: str) -> None:
    """One connection through `run_websocket()`, closed as a link closes its own."""
    websocket: WebSocket | None = None
    early: list[bytes] = []

    async def deliver(payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            if websocket is None:  # it came in one packet with the answer to the upgrade
                early.append(payload)
            else:
                await send_back(websocket, payload)

    async def read(task_status: trio.TaskStatus[WebSocket]) -> None:
        await run_websocket(
            stream,
            host=f"{HOST}:{port}",
            target=target,
            deliver=deliver,
            max_message_size=LIMIT,
            task_status=task_status,
        )
        nursery.cancel_scope.cancel()

    stream = await RealNetwork().open_stream(HOST, port, None)
    async with trio.open_nursery() as nursery:
        opened: WebSocket = await nursery.start(read)
        for payload in early:
            await send_back(opened, payload)
        websocket = opened
        await websocket.wait_over()
        await websocket.aclose()


async def send_back(websocket: WebSocket, payload: bytes) -> None:
    with suppress(LinkError):  # the close handshake has begun: whoever reads says how it ends
        # kufeed itself sends only texts; what is below it takes both.
        await websocket.send(bytes(payload) if isinstance(payload, Binary) else payload.decode())  # type: ignore[arg-type]


class Binary(bytes):
    """The payload of a binary message."""


class TellingParser(FrameParser):
    """kufeed takes messages of both kinds alike; an echo has to tell them apart."""

    def _take_other(self, first: int, frame: bytes, header: int, checked: int) -> None:
        is_binary, count = self._message_of(first & 0x0F) == 0x2, len(self.messages)
        super()._take_other(first, frame, header, checked)
        if is_binary and len(self.messages) > count:
            self.messages[-1] = Binary(self.messages[-1])


_websocket.FrameParser = TellingParser  # type: ignore[attr-defined]


async def echo_by_trio_websocket(port: int, target: str) -> None:
    opening = trio_websocket.open_websocket(HOST, port, target, use_ssl=False, max_message_size=LIMIT)
    with trio.CancelScope() as scope:
        async with opening as websocket:
            try:
                while True:
                    await websocket.send_message(await websocket.get_message())
            except trio_websocket.ConnectionClosed:
                # Left normally, the block waits until the peer closes TCP; one that was in the wrong need not.
                scope.cancel()


SUBJECTS: dict[str, Echo] = {"kufeed": echo_by_kufeed, "trio-websocket": echo_by_trio_websocket}


# -- a run ------------------------------------------------------------------------------------------------------------


def run_suite(wstest: str, subjects: Sequence[str], cases: Sequence[str]) -> dict[str, Verdicts]:
    """Let each subject through *cases*; returns what the server says of them. The server lives as long as this call."""
    with tempfile.TemporaryDirectory(prefix="kufeed-autobahn-") as name:
        directory = Path(name)
        port = free_port()
        spec = {
            "url": f"ws://{HOST}:{port}",
            "outdir": str(directory / "reports"),
            "cases": list(cases),
            "exclude-cases": ["12.*", "13.*"],  # compression, which kufeed never offers
            "exclude-agent-cases": {},
        }
        (directory / "spec.json").write_text(json.dumps(spec))
        command = [wstest, "-m", "fuzzingserver", "-s", str(directory / "spec.json"), "-w", str(free_port())]
        with (directory / "log").open("wb") as log:
            serve = partial(trio.run_process, command, cwd=directory, stdout=log, stderr=log)
            try:
                trio.run(serve_and_run, serve, port, subjects)
            except BaseException:
                print((directory / "log").read_text(errors="replace")[-2000:], file=sys.stderr)
                raise
        index: dict[str, Verdicts] = json.loads((directory / "reports" / "index.json").read_text())
        return index


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


async def serve_and_run(serve: Callable[[], Awaitable[object]], port: int, subjects: Sequence[str]) -> None:
    with trio.fail_after(RUN_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await reach(port)
            for subject in subjects:
                await run_cases(subject, port)
            nursery.cancel_scope.cancel()  # `run_process` terminates the server, and kills it where that is not enough


async def reach(port: int) -> None:
    """Return once the server listens."""
    with trio.fail_after(START_TIMEOUT):
        while True:
            try:
                await (await trio.open_tcp_stream(HOST, port)).aclose()
            except OSError:
                await trio.sleep(0.1)
            else:
                return


async def run_cases(subject: str, port: int) -> None:
    [answer] = await ask(port, "/getCaseCount")
    count = int(answer)
    for number in range(1, count + 1):
        with trio.move_on_after(CASE_TIMEOUT) as scope:
            try:
                await SUBJECTS[subject](port, f"/runCase?case={number}&agent={subject}")
            except* (DialError, trio_websocket.HandshakeError) as errors:
                print(f"{subject}: case {number}: {errors.exceptions}", flush=True)
        if scope.cancelled_caught:
            print(f"{subject}: case {number} had not ended after {CASE_TIMEOUT:g} s", flush=True)
        if sys.stderr.isatty():
            print(f"\r{subject}: {number}/{count} ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    await ask(port, f"/updateReports?agent={subject}")


async def ask(port: int, target: str) -> list[str | bytes]:
    """The messages that the server has to say under *target*."""
    messages = []
    async with trio_websocket.open_websocket(HOST, port, target, use_ssl=False) as websocket:
        with suppress(trio_websocket.ConnectionClosed):
            while True:
                messages.append(await websocket.get_message())
    return messages


# -- the report -------------------------------------------------------------------------------------------------------

BEHAVIOURS = ["OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED"]
GOOD = {"OK", "INFORMATIONAL"}


def describe(subject: str, verdicts: Verdicts) -> str:
    """Counts, and the cases that are not simply good."""
    lines = []
    for what, key in (("behaviour", "behavior"), ("close", "behaviorClose")):
        found = Counter(verdict[key] for verdict in verdicts.values())
        order = [*BEHAVIOURS, *sorted(found.keys() - set(BEHAVIOURS))]
        lines.append(f"{subject:>15} {what:>9}: " + ", ".join(f"{found[name]} {name}" for name in order))
        for name in order:
            cases = sorted((case for case, verdict in verdicts.items() if verdict[key] == name), key=by_number)
            if cases and name not in GOOD:
                lines.append(f"{'':>27}{name}: {' '.join(cases)}")
    return "\n".join(lines)


def by_number(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def is_good(verdicts: Verdicts) -> bool:
    """What kufeed promises: nothing failed, every close as it ought to be, at most four cases not strict."""
    behaviours = Counter(verdict["behavior"] for verdict in verdicts.values())
    closes = {verdict["behaviorClose"] for verdict in verdicts.values()}
    return behaviours.keys() <= {*GOOD, "NON-STRICT"} and behaviours["NON-STRICT"] <= 4 and closes <= GOOD


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wstest", default="wstest", help="the program of autobahntestsuite")
    parser.add_argument("--runs", type=int, default=1, help="how often, each time with a new server (default: 1)")
    parser.add_argument("--subject", choices=SUBJECTS, action="append", help="only this one; may be given twice")
    parser.add_argument("--cases", nargs="+", default=["*"], help="as the suite writes them: 6.4.* (default: all)")
    chosen = parser.parse_args()
    kept = 0
    for run in range(1, chosen.runs + 1):
        began = time.monotonic()
        results = run_suite(chosen.wstest, chosen.subject or list(SUBJECTS), chosen.cases)
        seconds, count = time.monotonic() - began, len(next(iter(results.values())))
        print(f"run {run} of {chosen.runs}: {count} cases, {seconds:.0f} s")
        for subject, verdicts in results.items():
            print(describe(subject, verdicts), flush=True)
        kept += is_good(results.get("kufeed", {}))
    print(f"kufeed: nothing failed, closes as they ought to be, at most four not strict: {kept} of {chosen.runs} runs")
    return 0 if kept == chosen.runs else 1


if __name__ == "__main__":
    sys.exit(main())
