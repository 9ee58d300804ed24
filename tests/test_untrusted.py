"""Addresses and texts of others: what is taken as it is, what is made plain, and what is refused."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed._untrusted import Url, http_problem, printable, read_host, read_url


@pytest.mark.parametrize(
    ("text", "url", "authority"),
    [
        ("https://api.kucoin.com", Url("https", "api.kucoin.com", 443), "api.kucoin.com"),
        ("HTTPS://API.KuCoin.com.:443/", Url("https", "api.kucoin.com", 443, "/"), "api.kucoin.com"),
        ("http://h:443/a/b", Url("http", "h", 443, "/a/b"), "h:443"),
        ("http://h:", Url("http", "h", 80), "h"),
        ("wss://a_b-c.example:99/x?y=z", Url("wss", "a_b-c.example", 99, "/x", "y=z"), "a_b-c.example:99"),
        ("ws://[0:0:0:0:0:0:0:1]:8080/", Url("ws", "::1", 8080, "/"), "[::1]:8080"),
        ("ws://[::1]", Url("ws", "::1", 80), "[::1]"),
        ("http://127.0.0.1", Url("http", "127.0.0.1", 80), "127.0.0.1"),
        (f"http://{'a' * 63}.b", Url("http", f"{'a' * 63}.b", 80), f"{'a' * 63}.b"),
    ],
)
def test_an_address_is_taken_apart_and_made_plain(text: str, url: Url, authority: str) -> None:
    assert read_url(text, "http", "https", "ws", "wss") == url
    assert url.authority == authority


SECRET = "5ecret"  # noqa: S105  # a test's
REFUSED: list[Any] = [
    7, None, ["http://h"], b"http://h", "", "h", "h:80", "//h", "http:h", "http:///x", "http://", "ftp://h", "https://h",
    "http://h:0", "http://h:99999", "http://h:x", "http://[::1", "http://[fe80::1%25eth0]/", "http://[x]/",
    f"http://user:{SECRET}@h", f"http://{SECRET}@h", "http://@h", f"http://h\\@{SECRET}", f"http://h/#{SECRET}",
    "http://.h", "http://a..h", "http://..", "http://.", f"http://{'a' * 64}.h", f"http://{'a.' * 127}a", "http://-h",
    "http://h-", "http://a b", "http://a\0b", "http://a%00b", "http://ünï.example", "http://\u2603\u200d.h",
    "http://\u212aucoin.com", "http://a\ud800", "http://h/ü", "http://h/\ud800", "http://h/a b", "http://h/a\r\nX: y",
    "http://h/\x0b", " http://h", "http://h\n", "http://h/\x7f", "http://a;b", "http://a,b", "http://h/a\\b",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
def test_another_is_refused_without_being_repeated(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^it") as refusal:
        read_url(text, "http")
    assert not isinstance(refusal.value, UnicodeError)
    assert SECRET not in repr(refusal.value)


@pytest.mark.parametrize("text", ["", ".", "h:1", "[::1]", "http://h", "h/x", "*.h", "ü", 7, None, "::1%eth0"])
def test_a_host_is_a_name_or_an_address(text: Any) -> None:
    with pytest.raises(ValueError, match="host"):
        read_host(text)


def test_hosts_compare_when_they_are_the_same() -> None:
    assert read_host("Relay.Example.") == read_host("relay.example") == "relay.example"
    assert read_host("0:0:0:0:0:0:0:1") == read_host("::1")


@given(st.text(st.characters()) | st.text("\x1b\n\u202e\ud800a", min_size=150, max_size=300))
def test_a_text_of_others_is_one_short_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 200
    if text.isprintable() and len(text) <= 200:
        assert shown == text


def test_an_escape_says_what_was_there() -> None:
    assert printable("a\n\x1b[31m\ud800ü") == "a\\n\\x1b[31m\\ud800ü"
    assert printable("x" * 201) == "x" * 197 + "..."


def test_no_answer_is_repeated_by_what_is_wrong_with_it() -> None:
    """h11's own texts, of the installed version."""
    for answer, problem in (
        (f"GET /?token={SECRET} HTTP/1.1\r\n\r\n", "illegal status line"),
        (f"HTTP/1.1 200 OK\r\nX {SECRET}: y\r\n\r\n", "illegal header line"),
        (f"HTTP/1.1 200 OK\r\nContent-Length: {SECRET}\r\n\r\n", "bad Content-Length"),
        (f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {SECRET}\r\n\r\n", "Only Transfer-Encoding: chunked is supported"),
        (f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{SECRET}\r\n", "illegal chunk header"),
        ("HTTP/1.1 101 OK\r\n\r\n", "against the rules of HTTP"),
    ):
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=b"GET", target=b"/", headers=[(b"Host", b"h")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(answer.encode())
        with pytest.raises(h11.RemoteProtocolError) as refusal:
            while True:
                connection.next_event()
        assert http_problem(refusal.value) == problem
