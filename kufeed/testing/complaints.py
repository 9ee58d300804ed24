"""The error frames that the exchange has for its clients, in its words (PROTOCOL section 3)."""

from __future__ import annotations

from kufeed.testing.wire import error


def expired_token() -> str:
    """Seen in XChange 4740: it has no id, and nothing comes after it."""
    return error(None, 401, "token is expired")


def no_such_topic(topic: str, request_id: str | None = None) -> str:
    """To a subscribe."""
    return error(request_id, 404, f"topic {topic} is not found")


def no_such_type(request_id: str | None = None) -> str:
    """To a frame that is none of the protocol."""
    return error(request_id, 415, "type is not supported")


def too_many_frames(connect_id: str) -> str:
    """To whoever sends too much; the connection is dropped after it."""
    return error(connect_id, 509, "exceed max permits per 10 seconds")


def too_many_symbols(most: int, request_id: str | None = None) -> str:
    """To a subscribe that names more than *most*."""
    return error(request_id, 509, f"exceed max subscription count limitation of {most} per time")


def too_many_topics(most: int, request_id: str | None = None) -> str:
    """To a subscribe after which a connection would hold more than *most*."""
    return error(request_id, 509, f"exceed max subscription count limitation of {most} per session")
