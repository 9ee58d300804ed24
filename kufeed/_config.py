"""`FeedConfig`: everything a feed can be told, checked where it is made."""

from __future__ import annotations

import math
import os
import ssl
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ._credentials import Credentials
from ._json import loads as strict_loads
from ._proxy import Proxy
from ._rest import is_loopback
from ._untrusted import read_host, read_url
from .errors import UsageError
from .protocol.futures import FUTURES
from .protocol.spot import SPOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class _Checked:
    """Validators that name the field, what it was given and what it takes."""

    @staticmethod
    def seconds(*, zero: bool = False, optional: bool = False) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
        def check(_: object, field: attrs.Attribute[Any], value: Any) -> None:
            if optional and value is None:
                return
            if not _is_real(value) or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
                least = "a number of seconds, zero or more" if zero else "a positive number of seconds"
                raise UsageError(f"{field.name} must be {least}{' or None' if optional else ''}, not {value!r}")

        return check

    @staticmethod
    def count(least: int, *, optional: bool = False) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
        def check(_: object, field: attrs.Attribute[Any], value: Any) -> None:
            if optional and value is None:
                return
            if type(value) is not int or value < least:
                also = " or None" if optional else ""
                raise UsageError(f"{field.name} must be a whole number from {least} up{also}, not {value!r}")

        return check

    @staticmethod
    def url(_: object, field: attrs.Attribute[Any], value: Any) -> None:
        try:
            if read_url(value, "http", "https").query:
                raise ValueError("it has a query")
        except ValueError as error:  # which does not repeat it: a password may stand in it
            raise UsageError(f"{field.name} must be a URL such as https://api.kucoin.com: {error}") from None

    @staticmethod
    def flag(_: object, field: attrs.Attribute[Any], value: Any) -> None:
        if type(value) is not bool:
            raise UsageError(f"{field.name} must be True or False, not {value!r}")


def _is_real(value: object) -> bool:
    return type(value) is int or type(value) is float


@attrs.frozen(kw_only=True)
class FeedConfig:
    """What `open_feed()` is told. Frozen; every value is checked here, and a `UsageError` names its field.

    Times are seconds.
    """

    futures_url: str = attrs.field(default=FUTURES.rest_url, validator=_Checked.url)
    """REST base of the futures market. Everything else (the WebSocket's host) follows from the token reply."""
    spot_url: str = attrs.field(default=SPOT.rest_url, validator=_Checked.url)
    """REST base of the spot market."""

    max_reconnect_attempts: int | None = attrs.field(default=10, validator=_Checked.count(0, optional=True))
    """Failed tries in a row, after the first, before `ConnectionFailed` is raised to subscriptions. None: never."""
    reconnect_delay: float = attrs.field(default=1.0, validator=_Checked.seconds(zero=True))
    """The first back-off step; each further failure doubles it. What is waited is drawn between zero and the step."""
    max_reconnect_delay: float = attrs.field(default=32.0, validator=_Checked.seconds(zero=True))
    """The largest back-off step."""
    healthy_after: float = attrs.field(default=60.0, validator=_Checked.seconds(zero=True))
    """A link that lived this long since its welcome has a clean record: the next failure counts as the first."""
    circuit_cooldown: float | None = attrs.field(default=60.0, validator=_Checked.seconds(optional=True))
    """Once the attempts are used up, the time until one trial dial, which the welcome ends well. None: only
    `Feed.reset()` tries again."""

    ping_interval: float | None = attrs.field(default=None, validator=_Checked.seconds(optional=True))
    """Time between JSON pings. None: the server's, but 1 to 50 s. A longer one is cut to that, with one warning."""
    pong_timeout: float | None = attrs.field(default=None, validator=_Checked.seconds(optional=True))
    """How long after a ping something must be heard, and how long sending one frame may take.

    None: the server's, but 1 to 60 s.
    """
    connect_timeout: float = attrs.field(default=10.0, validator=_Checked.seconds())
    """One deadline over token, DNS, TCP, TLS, upgrade and welcome."""
    ack_timeout: float = attrs.field(default=5.0, validator=_Checked.seconds())
    """How long after sending a subscribe frame is sent once more; after twice this it has failed."""
    close_timeout: float = attrs.field(default=2.0, validator=_Checked.seconds(zero=True))
    """The most that leaving `open_feed()` takes: one absolute deadline for the whole feed."""
    linger: float = attrs.field(default=5.0, validator=_Checked.seconds(zero=True))
    """How long a link without topics stays open, for the next subscription."""

    message_buffer_size: int = attrs.field(default=10_000, validator=_Checked.count(1))
    """Updates a subscription may hold for its consumer, unless it says `buffer=` itself."""
    max_connections: int = attrs.field(default=100, validator=_Checked.count(1))
    """Links this feed may have at once, both markets together; while one is replaced there are two of it."""
    max_concurrent_dials: int = attrs.field(default=8, validator=_Checked.count(1))
    """Links that may be connecting at the same time."""
    budget_share: float = attrs.field(default=1.0)
    """This run's share of the exchange's dials per minute, above 0 and up to 1: several runs must add up to 1."""
    topics_per_connection: int | None = attrs.field(default=None, validator=_Checked.count(1, optional=True))
    """Topics on one link; one symbol of one channel is one. None: the market's own limit (futures 100, spot 300)."""
    max_message_size: int = attrs.field(default=4 * 2**20, validator=_Checked.count(1024))
    """Bytes of one message; a larger one closes the link with code 1009."""

    book_audit_every: float | None = attrs.field(default=None, validator=_Checked.seconds(optional=True))
    """How often each live order book is compared with a fresh snapshot at the same sequence; None: never.

    One that differs is begun anew. Each comparison costs a request of the weight of a snapshot.
    """
    stale_after: float | None = attrs.field(default=60.0, validator=_Checked.seconds(optional=True))
    """Silence after which it is looked whether a stream is dead, at least; longer for one that is slow by nature.

    None: never. A stream is told to be stale only where the exchange has something newer (:doc:`staleness`).
    """
    latency_warning: float | None = attrs.field(default=0.100, validator=_Checked.seconds(optional=True))
    """Age above which an update is `late`: flagged, counted, and warned about once an episode. None: never.

    Ages are measured with this machine's clock against the exchange's.
    """
    rotate_after: float = attrs.field(default=23 * 3600.0, validator=_Checked.seconds())
    """Age at which a link is replaced, give or take a tenth, and at 23.75 h at the latest: a token lives 24 h.

    The next link is up and acknowledged before the old one goes; nothing is lost and nothing told.
    """
    redundancy: int = attrs.field(default=1, validator=_Checked.count(1))
    """Links that carry each topic, on different instance servers where there are several. What comes first counts.

    Each is a connection as `max_connections` counts them, and has its own messages to read and to decode.
    """

    ssl_context: ssl.SSLContext | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(ssl.SSLContext))
    )
    """TLS settings. None: as `ssl.create_default_context()`, deaf to the environment unless `trust_env`."""
    proxy: str | None = attrs.field(default=None, repr=False)
    """An HTTP proxy for REST and WebSocket, `http://user:password@host:port`, percent-encoded where need be."""
    trust_env: bool = attrs.field(default=False, validator=_Checked.flag)
    """Whether `HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` and `SSL_CERT_DIR` of the environment are honoured.

    What is set here wins: `proxy` over `HTTPS_PROXY`, `ssl_context` over the certificates.
    """
    allowed_hosts: tuple[str, ...] = attrs.field(default=())
    """Hosts a token reply may send us to, besides the base's own and those under `kucoin.com` and `kucoin.eu`."""

    loads: Callable[[bytes], Any] = attrs.field(default=strict_loads, repr=False)
    """The JSON decoder, from bytes; a `ValueError` refuses a message. The default refuses all that is not JSON.

    It also keeps all digits of a number, of which others leave 17 where it has a fraction. `orjson.loads` fits, refuses
    the same and is faster, and makes floats of integers beyond 64 bits. `ujson.loads` reads `01` as 1 and `-` as 0,
    which no later check sees.
    """
    numbers: type[Decimal] | type[float] = attrs.field(default=Decimal)
    """What prices, amounts and rates are: `Decimal`, exact, or `float`, where annotations still say `Decimal`.

    Sizes of futures are whole contracts (`int`) either way.
    """
    keep_raw: bool = attrs.field(default=False, validator=_Checked.flag)
    """Whether `Update.raw` is the whole decoded message of each update; else it is None."""
    on_reject: Literal["raise", "skip"] = attrs.field(default="raise")
    """What a topic that the exchange refuses does to a subscription that does not say so itself: `"raise"`, or `"skip"`
    to go on without it (`SubscriptionOptions.on_reject`)."""
    credentials: Credentials | None = attrs.field(default=None)
    """What signs the requests for whole spot books. Never read from the environment by a feed:
    `Credentials.from_env()` does so when asked."""

    @budget_share.validator
    def _check_share(self, _: object, value: Any) -> None:
        if not _is_real(value) or not 0 < value <= 1:
            raise UsageError(f"budget_share must be above 0 and at most 1, not {value!r}")

    @numbers.validator
    def _check_numbers(self, _: object, value: Any) -> None:
        if value is not Decimal and value is not float:
            raise UsageError(f"numbers must be Decimal or float, not {value!r}")

    @on_reject.validator
    def _check_on_reject(self, _: object, value: Any) -> None:
        if value not in ("raise", "skip"):
            raise UsageError(f"on_reject must be 'raise' or 'skip', not {value!r}")

    @loads.validator
    def _check_loads(self, _: object, value: Any) -> None:
        if not callable(value):
            raise UsageError(f"loads must be a function from bytes, not {value!r}")

    @allowed_hosts.validator
    def _check_hosts(self, _: object, value: Any) -> None:
        if not isinstance(value, tuple):
            raise UsageError(f"allowed_hosts must be a tuple of host names, not {value!r}")
        for index, host in enumerate(value):
            try:
                read_host(host)
            except ValueError:
                expected = "a name or an address such as 'relay.example' or '::1', without scheme, port or path"
                raise UsageError(f"allowed_hosts[{index}] must be {expected}") from None

    @proxy.validator
    def _check_proxy(self, _: object, value: Any) -> None:
        if value is not None:
            Proxy.from_url(value)

    @credentials.validator
    def _check_credentials(self, _: object, value: Any) -> None:
        if value is not None and not isinstance(value, Credentials):
            raise UsageError("credentials must be kufeed.Credentials or None")

    def __attrs_post_init__(self) -> None:
        if self.max_reconnect_delay < self.reconnect_delay:
            raise UsageError(
                f"max_reconnect_delay must be at least reconnect_delay, not {self.max_reconnect_delay!r} "
                f"with {self.reconnect_delay!r}"
            )
        if self.credentials is not None:
            base = read_url(self.spot_url, "http", "https")
            if base.scheme == "http" and not is_loopback(base.host):
                raise UsageError("credentials need a spot_url that is https://: others could read what is signed")

    @classmethod
    def from_env(cls, prefix: str = "KUFEED_", environ: Mapping[str, str] | None = None) -> FeedConfig:
        """A configuration from environment variables named *prefix* + field, such as `KUFEED_ACK_TIMEOUT=2.5`.

        Only when called: a feed never reads the environment by itself. Empty and absent variables keep the default;
        `none` gives None where the field takes it; lists are separated by commas. Raises `UsageError` naming variable
        and field for a bad value, for a field that text cannot express, and for a name that is no field.
        """
        environ = os.environ if environ is None else environ
        fields = {f"{prefix}{field.name.upper()}": field for field in attrs.fields(cls)}
        chosen: dict[str, Any] = {}
        for variable, text in environ.items():
            if not variable.startswith(prefix) or not text:
                continue
            field = fields.get(variable)
            if field is None:
                raise UsageError(f"{variable}: FeedConfig has no field {variable.removeprefix(prefix).lower()!r}")
            try:
                chosen[field.name] = _from_text(field, text)
                if field.validator is not None:
                    field.validator(None, field, chosen[field.name])
            except UsageError as error:
                raise UsageError(f"{variable}: {error}") from None
        return cls(**chosen)


def _from_text(field: attrs.Attribute[Any], text: str) -> Any:
    """Text as a value of the field's type, which its default or its annotation tells."""
    annotation = str(field.type)
    if annotation.startswith("Credentials"):
        raise UsageError(f"{field.name} cannot be set from the environment")
    if "None" in annotation and text.lower() == "none":
        return None
    if annotation.startswith("type"):
        kinds: dict[str, type] = {"decimal": Decimal, "float": float}
        if text.lower() not in kinds:
            raise UsageError(f"{field.name} must be Decimal or float, not {text!r}")
        return kinds[text.lower()]
    if annotation.startswith(("ssl", "Callable")):
        raise UsageError(f"{field.name} cannot be set from the environment")
    try:
        if annotation.startswith("float"):
            return float(text)
        if annotation.startswith("int"):
            return int(text)
    except ValueError:
        kind = "a whole number" if annotation.startswith("int") else "a number"
        raise UsageError(f"{field.name} must be {kind}, not {text!r}") from None
    if annotation.startswith("bool"):
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if text.lower() not in words:
            raise UsageError(f"{field.name} must be true or false, not {text!r}")
        return words[text.lower()]
    if annotation.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
