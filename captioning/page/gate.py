"""What stands before the page's server: which requests come in, and what goes out with every answer.

Only the addresses that the page needs are answered; Gradio has many more. A request must come under a name of this
server (else a foreign site could let its own name point here and read the answers: DNS rebinding), and not from the
script of another site. What a visitor sends is checked before Gradio sees it, so that it is refused in one sentence.
"""

import asyncio
import ipaddress
import json
import re
import sys
import urllib.parse

from captioning.cli import one_line
from captioning.page.uploads import FullError

API = "/gradio_api"
UPLOAD = f"{API}/upload"
PUBLIC = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static|svelte)/.+"
    rf"|{API}/(info|upload|upload_progress|heartbeat/.+|file=.+|startup-events|app_id|theme\.css)/?"
    rf"|{API}/(queue/(join|data)|call/caption(/\w+)?|cancel|reset)/?"
)
CALLS = re.compile(rf"{API}/(queue/join|call/caption)/?")
MAX_BODY = 2**20  # bytes of a request that uploads nothing
OVERHEAD = 2**14  # bytes of an upload's request around its file
UPLOAD_SECONDS = 120  # of one upload
INVALID = 422  # status of a request with a value that makes no sense
LOCAL = ("localhost",)
HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "  # Gradio's own
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self' https://huggingface.co",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
SANDBOX = "default-src 'none'; sandbox"  # of what visitors uploaded: no script in it runs


class RefusedError(Exception):
    """A request is not answered. Arguments: status, sentence."""


class Gate:
    """ASGI middleware.

    uploads:    Uploads
    max_upload: bytes of one of them
    hosts:      names under which this server is reached, besides localhost and any IP address
    check:      check(body) returns the JSON object of a call to be passed on, or raises ValueError, one sentence
    """

    def __init__(self, app, *, uploads, max_upload, hosts, check):
        self.app, self.uploads, self.max_upload, self.check = app, uploads, max_upload, check
        self.hosts = {name.lower() for name in (*LOCAL, *hosts)}

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the page has no websocket
        answer = Answer(send, SANDBOX if "/file=" in scope["path"] else "")
        try:
            await self.admit(scope, receive, answer)
        except RefusedError as error:
            await answer.refuse(*error.args)
        except TimeoutError:
            await answer.refuse(408, f"The upload took longer than {UPLOAD_SECONDS} s.")
        except Exception as error:
            # starlette's: nobody waits for an answer, or a stream of events began before its request was found wrong.
            told = getattr(error.__cause__, "status_code", 500) < 500
            if type(error).__name__ != "ClientDisconnect" and not told:
                reason = f"{type(error).__name__}: {one_line(error, 200)}"
                print(f"warning: {scope['method']} {scope['path'][:100]!r}: {reason!r}", file=sys.stderr)
            await answer.refuse(500, "This request cannot be answered.")

    async def admit(self, scope, receive, answer):
        """Pass a request on to the page. Raises RefusedError if it is not one for the page."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.check_origin(headers, scope)
        if not PUBLIC.fullmatch(scope["path"]):
            raise RefusedError(404, "There is nothing here.")
        if scope["method"] != "POST":
            await self.app(scope, receive, answer.send)
        elif scope["path"].rstrip("/") == UPLOAD:
            length = headers.get("content-length", "")
            if not length.isdecimal():
                raise RefusedError(411, "An upload must tell its length: Content-Length is missing.")
            if int(length) > self.max_upload + OVERHEAD:
                raise RefusedError(413, f"An upload may have {self.max_upload // 2**20} MB at most.")
            try:
                with self.uploads.receive(int(length)):
                    async with asyncio.timeout(UPLOAD_SECONDS):
                        await self.app(scope, receive, answer.send)
            except FullError:
                raise RefusedError(507, "There is no room for this upload now; try again in a minute.") from None
        else:
            body = await read_body(receive)
            if CALLS.fullmatch(scope["path"]):
                body = self.checked(body)
            length = (b"content-length", str(len(body)).encode())
            headers = [*(pair for pair in scope["headers"] if pair[0] not in (length[0], b"transfer-encoding")), length]
            await self.app(scope | {"headers": headers}, replay(body, receive), answer.send)

    def check_origin(self, headers, scope):
        """Raise RefusedError for a request under a foreign name, or by the script of a foreign site."""
        try:
            host = urllib.parse.urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:  # a bracket without its other
            host = ""
        if host not in self.hosts and not is_address(host):  # an address cannot be made to point elsewhere
            raise RefusedError(421, f"This server is not known as {host[:100]!r}; --allowed_hosts adds a name.")
        if scope["method"] != "GET" and headers.get("sec-fetch-site") == "cross-site":
            raise RefusedError(403, "Requests by other sites are not answered.")

    def checked(self, body):
        """Return the body of a call to be passed on. Raises RefusedError if it makes no sense."""
        try:
            parsed = json.loads(body)
            if not isinstance(parsed, dict):
                raise ValueError("a JSON object is needed")
            return json.dumps(self.check(parsed)).encode()
        except (ValueError, RecursionError) as error:
            raise RefusedError(INVALID, one_line(error, 300)) from None


class Answer:
    """Sends one answer, with the headers that every answer has."""

    def __init__(self, send, policy):
        self.send_on, self.started, self.ended, self.is_stream = send, False, False, False
        headers = HEADERS | ({"content-security-policy": policy} if policy else {})
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def send(self, message):
        """Pass a message of the page on."""
        if message["type"] == "http.response.start":
            self.started = True
            headers = message.get("headers", ())
            kinds = [value for name, value in headers if name.lower() == b"content-type"]
            self.is_stream = any(kind.startswith(b"text/event-stream") for kind in kinds)
            message = {**message, "headers": [*headers, *self.headers]}
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body")
        await self.send_on(message)

    async def refuse(self, status, sentence):
        """Answer with one sentence; of an answer that has begun, end a stream, and leave another as it is: cut."""
        if self.started:
            if self.is_stream and not self.ended:
                await self.send_on({"type": "http.response.body", "body": b""})
            return
        body = json.dumps({"detail": validation(sentence) if status == INVALID else sentence}).encode()
        kind = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send(
            {"type": "http.response.start", "status": status, "headers": [*kind, (b"connection", b"close")]}
        )
        await self.send_on({"type": "http.response.body", "body": body})


def validation(sentence):
    """Return "name: what is wrong" as Gradio tells of a wrong value; gradio_client reads no other detail of a 422."""
    name, colon, told = sentence.partition(": ")
    error = {"parameter_name": name, "message": told} if colon else {"parameter_name": "request", "message": sentence}
    return [{"__type__": "validate", "is_valid": False, **error}]


def is_address(host):
    """Return whether the host of a request is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def read_body(receive):
    """Return the body of a request. Raises RefusedError if it is too large."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "The request was cut.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise RefusedError(413, f"A request may have {MAX_BODY} bytes at most.")
    return body


def replay(body, receive):
    """Return a `receive` that gives a body that was read, then what comes after it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again():
        return messages.pop() if messages else await receive()

    return receive_again
