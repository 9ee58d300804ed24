"""What stands between the changes of books and their readers, by itself."""

from __future__ import annotations

from kufeed._bookkeeper import BookKeeper, KeptBook, Reader
from kufeed._buffers import Overflow
from kufeed._channels import UpdateQueue
from kufeed.errors import SubscriptionRejected
from kufeed.protocol import BookChange, BookDelta, BookState, BookSync, Side, UpdateType, topic

TOPIC = topic("book_delta", "XBTUSDTM")


async def test_a_book_that_is_forgotten_asks_for_nothing_any_more() -> None:
    """Also where its changes came before the exchange refused it: who fetched its snapshot finds no work left."""
    wanted: list[KeptBook] = []
    keeper = BookKeeper(lambda _, book: wanted.append(book))
    queue = UpdateQueue({UpdateType.BOOK: Overflow.LATEST}, 10)
    book = keeper.books[TOPIC] = KeptBook(BookSync(TOPIC), stir=lambda: None)
    book.readers[queue] = Reader(queue, 1)
    change = BookChange(Side.BUY, 1, 1, 7)  # type: ignore[arg-type]
    keeper.staged.append(BookDelta(TOPIC, TOPIC.symbol, 7, 10**18, 10**18, 7, (change,)))
    keeper.hand_over()
    assert wanted == [book]
    keeper.refuse([TOPIC], SubscriptionRejected(TOPIC.wire, 404, "not found"))
    keeper.care_for(book)
    assert wanted == [book]
    assert (keeper.books, book.sync.state) == ({}, BookState.WAITING)
