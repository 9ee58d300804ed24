"""The command line as its users meet it: a process, its two outputs and its exit code, never longer than a minute."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

import kufeed
from kufeed.cli import main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

COMMAND = (sys.executable, "-m", "kufeed.cli")
ROOT = Path(kufeed.__file__).parents[1]
LONGEST = 60


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "PYTHONWARNINGS": "error"}


@attrs.frozen
class Ended:
    """How a command went."""

    code: int
    out: list[str]
    err: list[str]


async def run(*arguments: str, command: tuple[str, ...] = COMMAND) -> Ended:
    """Run the command to its end."""
    with trio.fail_after(LONGEST):
        done = await trio.run_process(
            [*command, *arguments], capture_stdout=True, capture_stderr=True, check=False, env=environment()
        )
    return Ended(done.returncode, done.stdout.decode().splitlines(), done.stderr.decode().splitlines())


def called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str, columns: int = 100
) -> Ended:
    """As `run()` in this very process, for what comes to nothing: a process costs most of a second."""
    monkeypatch.setattr(sys, "argv", ["kufeed", *arguments])
    monkeypatch.setenv("COLUMNS", str(columns))
    code = main()
    said = capsys.readouterr()
    return Ended(code, said.out.splitlines(), said.err.splitlines())


class Running:
    """A command that is still running, its standard output readable line by line."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._buffer = bytearray()

    async def read_line(self) -> str:
        """The next line, without its end; "" at the end of the output."""
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self.process.stdout.receive_some()
            if not data:
                break
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line.decode()

    async def end(self) -> Ended:
        """Read both outputs to their ends and wait for the process."""
        out: list[str] = []
        while line := await self.read_line():
            out.append(line)
        err = bytearray()
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            err += data
        return Ended(await self.process.wait(), out, err.decode().splitlines())


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Running]:
    """The command while it runs; what is left of it after the block is killed."""
    process = await trio.lowlevel.open_process(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        with trio.fail_after(LONGEST):  # noqa: ASYNC100  # the checkpoints are in the caller's block
            yield Running(process)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                await trio.aclose_forcefully(stream)


async def painted(*arguments: str, columns: int) -> str:
    """What *arguments* paint on a terminal of so many columns until they are done, which must be well."""
    import pty

    ours, theirs = pty.openpty()
    try:
        process = await trio.lowlevel.open_process(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            env={**environment(), "TERM": "xterm", "COLUMNS": str(columns)},
        )
    finally:
        os.close(theirs)
    output = bytearray()
    async with trio.lowlevel.FdStream(ours) as terminal:
        with trio.fail_after(LONGEST):
            try:
                async for data in terminal:
                    output += data
            except trio.BrokenResourceError:
                pass  # how Linux tells that the other end of a terminal is gone
            assert await process.wait() == 0
    return output.decode()
