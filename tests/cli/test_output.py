"""What is written to standard output, also when nobody waits for it any more."""

from __future__ import annotations

import pytest
import trio

from kufeed.cli._output import Output


async def test_a_write_that_is_cancelled_is_written_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    """In its place: what was taken from a stream was counted as delivered."""
    output = Output()
    await output.write("one\n")
    with trio.CancelScope() as scope:
        scope.cancel()
        await output.write("two\n")
    output.write_now("three\n")
    assert capfd.readouterr().out == "one\ntwo\nthree\n"
