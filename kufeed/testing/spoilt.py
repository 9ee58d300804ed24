"""REST replies whose bodies do not come as they should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import h11
import trio

from kufeed.testing.http import reply_head, send_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from kufeed.testing.rest import Reply

Spoiling = Literal["slow", "endless", "garbage", "short"]

_BYTE_EVERY = 0.1  # seconds
_ENDLESS = b" " * 4096  # JSON may have any number of blanks
_ENDLESS_EVERY = 0.02


async def send_spoilt(
    connection: h11.Connection, stream: trio.abc.Stream, reply: Reply, still: Callable[[], Spoiling | None]
) -> bool:
    """Send *reply* as *still* says, for as long as it says so; whether the connection may be used again.

    What was `"slow"` comes at once when that is over; what was `"endless"` then ends with its connection.
    """
    body = reply.body.encode()
    match still():
        case "slow":
            await stream.send_all(reply_head(connection, reply, len(body)))
            sent = 0
            while sent < len(body) and still() == "slow":
                await stream.send_all(body[sent : sent + 1])
                sent += 1
                await trio.sleep(_BYTE_EVERY)
            await stream.send_all(body[sent:])
            connection.send(h11.Data(data=body))
            connection.send(h11.EndOfMessage())
            return True
        case "endless":
            await stream.send_all(reply_head(connection, reply, 2**40))
            while still() == "endless":
                await stream.send_all(_ENDLESS)
                await trio.sleep(_ENDLESS_EVERY)
            return False
        case "garbage":
            await send_reply(connection, stream, reply, body=body[: len(body) // 2] + b"\xff\xfe")
            return True
        case "short":
            await stream.send_all(reply_head(connection, reply, len(body) + 1) + body[: len(body) // 2])
            return False
    await send_reply(connection, stream, reply)
    return True
