"""The answer to an upgrade: a 101 that means the same to every reader, or a refusal, known as soon as it can be."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed.protocol.upgrade import Refusal, UpgradeAnswer

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
REST = b"\x81\x05hello\r\n\r\n\x81\x05after"
LONGEST = 16_384


def read(*pieces: bytes) -> tuple[bytes, bytes | None] | Refusal:
    """The head and what follows it (None: the head is not over yet), or the refusal."""
    answer = UpgradeAnswer()
    rest: bytes | None = None
    try:
        for piece in pieces:
            rest = answer.feed(piece) if rest is None else rest + piece
    except Refusal as refusal:
        return refusal
    return answer.head, rest


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def same(one: object, other: object) -> bool:
    if isinstance(one, Refusal) and isinstance(other, Refusal):
        return (str(one), one.status) == (str(other), other.status)
    return one == other


@pytest.mark.parametrize("place", range(len(HEAD) + 1))
def test_the_head_may_be_cut_anywhere(place: int) -> None:
    assert read(HEAD[:place], HEAD[place:] + REST) == (HEAD, REST)


def test_nothing_is_told_of_a_head_before_its_end() -> None:
    assert read(*bytewise(HEAD[:-1])) == (b"", None)
    assert read(*bytewise(HEAD + REST)) == (HEAD, REST)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n", 401),
        (b"HTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.1 503\r\n", 503),
        (b"HTTP/1.1 404 101 Switching Protocols\r\n", 404),
        (b"HTTP/1.1 403 " + b"x" * 2_000 + b"\r\n", 403),
        (b"HTTP/1.1 429 Too \xff\r\n", 429),
        # Other versions and bare line feeds are illegal; what the server meant is told nevertheless.
        (b"HTTP/1.0 401 Unauthorized\r\n", 401),
        (b"HTTP/2.0 403 Forbidden\r\n", 403),
        (b"HTTP/1.1 403 Forbidden\n", 403),
        (b"HTTP/1.0 101 Switching Protocols\r\n", None),
        (b"HTTP/9.9 101 Switching Protocols\r\n", None),
        (b"HTTP/1.1 101 Switching Protocols\n", None),
        (b"HTTP/1.1 101 Switching\rProtocols\r\n", None),
        (b"HTTP/1.1 1010 Switching Protocols\r\n", None),
        (b"HTTP/1.1  101 Switching Protocols\r\n", None),
        (b"HTTP/1.1\t101 Switching Protocols\r\n", None),
        (b"HTTP/1.1 101\tSwitching Protocols\r\n", None),
        (b"HTTP/1.1 \xd9\xa1\xd9\xa0\xd9\xa1 Switching\r\n", None),
        (b"HTTP/1.0 100 Continue\r\n", None),
        (b"HTTP/2 200\r\n", None),
        (b"HTTP/1.1\r\n", None),
    ],
)
def test_what_is_not_a_101_is_refused_at_the_end_of_its_first_line(line: bytes, status: int | None) -> None:
    """Nobody waits for the head's end, or for a body."""
    assert read(*bytewise(line[:-1])) == (b"", None)
    for pieces in (bytewise(line), [line], [line + b"Content-Length: 5\r\n\r\n" + REST]):
        refusal = read(*pieces)
        assert isinstance(refusal, Refusal)
        assert refusal.status == status
        told = f"the server answered HTTP {status}" if status else "illegal status line"
        assert str(refusal).removesuffix(": not HTTP/1.1") == told


@pytest.mark.parametrize("sent", [b"SSH-2.0-OpenSSH", b"\r\n" + HEAD, b"\n", b"\x16\x03\x01", b"http/1.1", b"HTTP1"])
def test_what_is_not_http_is_refused_at_its_first_wrong_byte(sent: bytes) -> None:
    wrong = next(at for at in range(6) if sent[: at + 1] != b"HTTP/"[: at + 1])
    assert read(*bytewise(sent[:wrong])) == (b"", None)
    for pieces in (bytewise(sent[: wrong + 1]), bytewise(sent), [sent]):
        refusal = read(*pieces)
        assert isinstance(refusal, Refusal)
        assert str(refusal) == "illegal status line"


def test_a_refusal_repeats_nothing_that_was_sent() -> None:
    for sent in (b"SECRET\r\n", b"HTTP/1.1 SECRET\r\n", b"HTTP/1.1 403 SECRET\r\n", b"HTTP/1.1 101 SECRET\n"):
        refusal = read(sent)
        assert isinstance(refusal, Refusal)
        assert "SECRET" not in str(refusal)


def test_the_header_that_came_with_a_refusal_is_told() -> None:
    head = b"HTTP/1.1 429 Too Many\r\nRetry-After:  7 \r\nX-Odd : no\r\nServer: caf\xe9\r\n\r\nBody: no\r\n"
    refusal = read(head)
    assert isinstance(refusal, Refusal)
    assert refusal.headers == {"retry-after": "7", "server": "café"}


@pytest.mark.parametrize("end", [b"\n\n", b"\n\r\n", b"\r\n\n"])
def test_a_bare_line_feed_in_the_head_is_refused(end: bytes) -> None:
    """h11 would end the head there."""
    refusal = read(HEAD.removesuffix(b"\r\n\r\n") + end + REST)
    assert isinstance(refusal, Refusal)
    assert "bare line feed" in str(refusal)


def test_interim_answers_come_before_the_final_one() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nLink: y\r\n\r\n"
    for pieces in (bytewise(interim + HEAD + REST), [interim + HEAD + REST]):
        assert read(*pieces) == (HEAD, REST)
    refusal = read(interim + b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(refusal, Refusal)
    assert refusal.status == 401


@pytest.mark.parametrize(
    "endless",
    [HEAD[:-2] + b"X: y\r\n" * 4_000, HEAD[:-2] + b"x" * 20_000, b"HTTP/1.1 101 " + b"x" * 20_000,
     b"HTTP/1.1 403 " + b"x" * 20_000 + b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000],
    ids=["headers", "header line", "status line", "status line of a refusal", "interim answers"],
)  # fmt: skip
def test_no_more_than_16_kib_of_heads_are_read(endless: bytes) -> None:
    assert read(*bytewise(endless[:LONGEST])) == (b"", None)
    for pieces in (bytewise(endless[: LONGEST + 1]), [endless]):
        refusal = read(*pieces)
        assert isinstance(refusal, Refusal)
        assert str(refusal) == "the answer's head has more than 16384 bytes"


def test_a_head_may_have_16_kib() -> None:
    head = HEAD[:-2] + b"X: ".ljust(LONGEST - len(HEAD) - 2, b"y") + b"\r\n\r\n"
    assert len(head) == LONGEST
    assert read(head + REST) == (head, REST)
    assert isinstance(read(head.replace(b"yyy", b"yyyy", 1) + REST), Refusal)


odd_ends = st.sampled_from([b"\r\n"] * 6 + [b"\n", b"\r", b"\r\r\n", b"\n\r", b"", b" \r\n", b"\x00\r\n", b"\r\n "])
odd_lines = st.sampled_from(
    [b"Upgrade: websocket", b"Connection: Upgrade", b"Connection: close", b"X:", b"X: ", b": x"]
) | (
    st.sampled_from(
        [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"", b"HTTP/1.1 101 X", b"caf\xe9: \xff", b" x"]
    )
)
odd_starts = st.just(HEAD.partition(b"\r\n")[0]) | st.builds(
    lambda version, rest: version + rest,
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"http/1.1", b" HTTP/1.1", b"HTTP/11"]),
    st.sampled_from(
        [b" 101 X", b" 101", b" 101 ", b" 101 \xff", b" 101 a\tb", b" 101 \x00", b" 200 OK", b"", b" 1010"]
    ),
)
answers = st.builds(
    lambda start, end, lines: start + end + b"".join(line + end for line, end in lines) + b"\r\n" + REST,
    odd_starts,
    odd_ends,
    st.lists(st.tuples(odd_lines, odd_ends), max_size=5),
)


@given(answers, st.lists(st.integers(0, 400), max_size=6))
def test_the_other_parser_ends_every_head_that_it_takes_where_this_one_does(data: bytes, cuts: list[int]) -> None:
    """It may refuse what passes here, but not read it differently; and the cuts make no difference."""
    found = read(data)
    edges = [0, *sorted({place % (len(data) + 1) for place in cuts}), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert same(read(*pieces), found)
    assert same(read(*bytewise(data)), found)
    if isinstance(found, Refusal) or found[1] is None:
        return
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "h"), ("Upgrade", "websocket")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    try:
        event = client.next_event()
    except h11.RemoteProtocolError:
        return
    assert isinstance(event, h11.InformationalResponse)
    assert event.status_code == 101
    assert client.trailing_data[0] == found[1]


def test_a_header_that_was_cut_is_not_read_as_if_it_were_whole() -> None:
    refusal = read(b"HTTP/1.1 429 Too Many\r\nServer: X\t\r\nDate: 10:11:12\r\nRetry-After: 1")
    assert isinstance(refusal, Refusal)
    assert refusal.headers == {"server": "X", "date": "10:11:12"}


def test_a_header_made_to_be_hard_to_read_costs_no_more_than_another() -> None:
    """Of 16 KiB of blanks a pattern with two repetitions made half an hour; a test that hangs would show it again."""
    refusal = read(b"HTTP/1.1 403 X\r\na:" + b" " * 16_000 + b"\rb\r\n\r\n")
    assert isinstance(refusal, Refusal)
    assert refusal.headers == {"a": "\rb"}


def test_a_control_character_in_the_head_is_refused() -> None:
    """Behind many blanks another parser would take quadratic time to find it."""
    refusal = read(HEAD[:-2] + b"X: " + b" " * 10_000 + b"\x00\r\n\r\n")
    assert isinstance(refusal, Refusal)
    assert "control character" in str(refusal)
