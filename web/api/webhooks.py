"""Webhooks: the app calls an address of a client when its job has ended.

Requests are signed by the specification Standard Webhooks. A host's name is looked up once, and the connection is made to the
address that was checked, so that no name leads into the app's own network; redirects are not followed.
"""

import base64
import hashlib
import hmac
import http.client
import logging
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address
from threading import Event, Thread
from urllib.parse import SplitResult, urlsplit

from web import texts
from web.errors import WebError
from web.jobs import API_OWNER, WebJob
from web.settings import ApiSettings
from web.store import JobStore

SCHEMES = {"https": 443, "http": 80}
TIMEOUT_SEC = 10.0
RETRY_SEC = (5.0, 60.0, 600.0)  # after the first, second and third attempt that failed
POLL_SEC = 0.5
CALLS_AT_ONCE = 4
log = logging.getLogger(__name__)


def checked_url(url: str, settings: ApiSettings) -> str:
    """The address of a webhook; WebError if it is none, or its host is not allowed."""
    if not settings.webhook_hosts:
        raise WebError(texts.NO_WEBHOOKS)
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port or SCHEMES.get(parts.scheme)
    except ValueError:
        raise WebError(texts.WEBHOOK_URL) from None
    schemes = tuple(SCHEMES) if settings.private_webhooks else ("https",)
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in schemes or not host or "@" in parts.netloc or not is_plain:
        raise WebError(texts.WEBHOOK_URL)
    named = f"{host}:{port}"
    allowed = {
        name.lower() if ":" in name else f"{name.lower()}:{SCHEMES[parts.scheme]}" for name in settings.webhook_hosts
    }
    if named not in allowed:
        shown = host if port == SCHEMES[parts.scheme] else named
        raise WebError(texts.WEBHOOK_HOST.format(host=shown, known=" or ".join(settings.webhook_hosts)))
    return url


def is_public(address: str) -> bool:
    """Whether an IP address is one of the Internet, and does not contain a private one."""
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


def public_address(host: str, port: int, allow_private: bool) -> str:
    """The first IP address of a host; OSError if it has none, or (unless `allow_private`) one of them is private."""
    addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in addresses:
        if not allow_private and not is_public(address):
            raise OSError(texts.WEBHOOK_PRIVATE.format(address=address))
    return addresses[0]


def connection_to(parts: SplitResult, allow_private: bool) -> http.client.HTTPConnection:
    """A connection to a checked address of the host; OSError if there is none."""
    host, port = str(parts.hostname), parts.port or SCHEMES[parts.scheme]
    connected = socket.create_connection((public_address(host, port, allow_private), port), TIMEOUT_SEC)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SEC)
    try:
        is_secure = parts.scheme == "https"
        context = ssl.create_default_context() if is_secure else None
        connection.sock = context.wrap_socket(connected, server_hostname=host) if context else connected
    except OSError:
        connected.close()
        raise
    return connection


def signature(token: str, message_id: str, sent: int, body: bytes) -> str:
    """The header webhook-signature: HMAC with SHA-256 of id, time (Unix seconds) and body, with the client's token as key."""
    signed = f"{message_id}.{sent}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(token.encode(), signed, hashlib.sha256).digest()).decode()


class Webhooks:
    """Calls the webhooks of ended jobs in its own threads, and again later if a call fails."""

    def __init__(
        self, store: JobStore, settings: ApiSettings, tokens: Mapping[str, str], body_of: Callable[[WebJob], bytes]
    ):
        self.store, self.settings, self.tokens, self.body_of = store, settings, tokens, body_of
        self.retry_sec: Sequence[float] = RETRY_SEC
        self._due: dict[str, float] = {}  # id of a job -> time of its next attempt, monotonic
        self._called: set[str] = set()  # ids of jobs whose call goes on
        self._stopping = Event()
        self._thread = Thread(target=self._work, name="webhooks", daemon=True)

    def start(self) -> None:
        if self.settings.webhook_hosts:
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _work(self) -> None:
        with ThreadPoolExecutor(CALLS_AT_ONCE, "webhook") as pool:
            while not self._stopping.wait(POLL_SEC):
                now = time.monotonic()
                for job in self.store.due_webhooks():
                    if job.id not in self._called and self._due.get(job.id, 0.0) <= now:
                        self._called.add(job.id)
                        pool.submit(self._attempt, job)

    def _attempt(self, job: WebJob) -> None:
        assert job.webhook is not None
        try:
            error = self.call(job)
            with job.lock:
                job.webhook.attempts += 1
                job.webhook.error = error
                failures = job.webhook.attempts - 1
                if not error:
                    job.webhook.state = "delivered"
                elif failures >= len(self.retry_sec):
                    job.webhook.state = "failed"
                else:
                    self._due[job.id] = time.monotonic() + self.retry_sec[failures]
            job.save()
        except Exception:  # the folder of the job may have been deleted; the other webhooks go on
            log.exception("The webhook of a job could not be called")
            job.webhook.state = "failed"
        finally:
            if job.webhook.state != "pending":
                self._due.pop(job.id, None)
            self._called.discard(job.id)

    def call(self, job: WebJob) -> str:
        """Call a job's webhook once; why it failed, or an empty text."""
        assert job.webhook is not None
        body, sent = self.body_of(job), int(time.time())
        message_id = f"{job.id}.{int(job.ended or 0)}"
        token = self.tokens.get(job.owner.removeprefix(API_OWNER))
        if token is None:
            return texts.WEBHOOK_NO_TOKEN
        headers = {
            "host": urlsplit(job.webhook.url).netloc,
            "content-type": "application/json",
            "user-agent": "LatentSync",
            "webhook-id": message_id,
            "webhook-timestamp": str(sent),
            "webhook-signature": signature(token, message_id, sent, body),
        }
        try:
            checked_url(job.webhook.url, self.settings)
            parts = urlsplit(job.webhook.url)
            connection = connection_to(parts, self.settings.private_webhooks)
            try:
                target = parts.path or "/"
                connection.request("POST", f"{target}?{parts.query}" if parts.query else target, body, headers)
                status = connection.getresponse().status
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, WebError) as error:
            return texts.WEBHOOK_UNREACHED.format(reason=str(error).rstrip(".") or type(error).__name__)
        if 300 <= status < 400:
            return texts.WEBHOOK_REDIRECTS.format(status=status)
        return "" if 200 <= status < 300 else texts.WEBHOOK_STATUS.format(status=status)
