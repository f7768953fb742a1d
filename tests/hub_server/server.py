"""The HTTP side: two origins on loopback, the Hub and the store of large files that it redirects to."""

import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_server import api
from tests.hub_server.answers import Answer, Refusal, Request
from tests.hub_server.faults import Fault, Faults
from tests.hub_server.storage import Storage


@dataclass
class Seen:
    """One request as it came in: for tests that count what a client asks, or look for a token where none
    belongs."""

    method: str
    path: str
    origin: str  # hub or store
    authorization: str | None
    status: int = 0


@dataclass
class HubServer:
    """A Hub at `url`; `with HubServer(folder) as hub:` starts and stops it.

    `tokens` maps a token to the user it belongs to; a user may write below his own name.
    """

    root: Path
    tokens: dict[str, str] = field(default_factory=lambda: {"hf_testtokenofalice0000": "alice"})
    read_only: set[str] = field(default_factory=set)
    """Tokens that may only read."""
    announces_xet: bool = False
    """Say of large files that they are in a Xet store; there is none, whatever is asked of it fails."""

    def __post_init__(self) -> None:
        self.storage = Storage(self.root)
        self.faults = Faults()
        self.seen: list[Seen] = []
        self._servers: list[ThreadingHTTPServer] = []

    def __enter__(self) -> "HubServer":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        addresses = []
        for origin in ("hub", "store"):
            server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self, "origin": origin}))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            self._servers.append(server)
            addresses.append(f"http://127.0.0.1:{server.server_port}")
        self.url, self.store_url = addresses

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers.clear()

    def fail(self, where: str, **how: object) -> Fault:
        """Spoil the next requests that match; see Fault for the ways."""
        return self.faults.add(Fault(where, **how))  # type: ignore[arg-type]

    def answer(self, request: Request) -> Answer:
        """Carry a request out; a refusal is an answer too."""
        try:
            return api.answer(self, request)
        except Refusal as refusal:
            return refusal.answer()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent when a client hangs up; tests look at what the client got."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    origin: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def serve(self) -> None:
        path = urlsplit(self.path)
        request = Request(
            method=self.command,
            origin=self.origin,
            path=path.path,
            query={key: values[-1] for key, values in parse_qs(path.query).items()},
            headers={key.lower(): value for key, value in self.headers.items()},
            body=self.read_body(),
        )
        seen = Seen(self.command, unquote(path.path), self.origin, self.headers.get("Authorization"))
        self.hub.seen.append(seen)
        fault = self.hub.faults.take(f"{self.command} {unquote(path.path)}")
        if fault is not None and fault.delay:
            time.sleep(fault.delay)
        if fault is not None and fault.meanwhile is not None:
            fault.meanwhile()
        answer = self.hub.answer(request) if fault is None or fault.after or not _replaces(fault) else None
        if fault is not None and fault.drop:
            seen.status = -1
            self.hang_up()
            return
        answer = _spoiled(answer, fault)
        seen.status = answer.status
        self.send(answer, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, answer: Answer, fault: Fault | None) -> None:
        body, status, headers = answer.body, answer.status, dict(answer.headers)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and status == 200 and answer.ranged and not (fault and fault.ignore_range):
            first, last = int(wanted[1]), int(wanted[2] or len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}"
            body, status = body[first : last + 1], 206
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.cut_at is not None:
            self.wfile.write(body[: int(len(body) * fault.cut_at)])
            self.wfile.flush()
            self.hang_up(reset=False)
            return
        self.wfile.write(body)

    def hang_up(self, *, reset: bool = True) -> None:
        self.close_connection = True
        if reset:  # a reset rather than an orderly end, as a broken line gives
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)


def _replaces(fault: Fault) -> bool:
    return fault.status is not None or fault.body is not None or fault.drop


def _spoiled(answer: Answer | None, fault: Fault | None) -> Answer:
    if fault is None:
        assert answer is not None
        return answer
    if fault.status is not None:
        text = json.dumps({"error": f"fault on demand: {fault.status}"}).encode()
        return Answer(fault.status, text, {"Content-Type": "application/json", **(fault.headers or {})})
    if fault.body is not None:
        return Answer(200, fault.body.encode(), {"Content-Type": "text/html", **(fault.headers or {})})
    assert answer is not None
    body = answer.body
    if fault.corrupt and body:
        middle = len(body) // 2
        body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    if fault.short_by:
        body = body[: -fault.short_by]
    return Answer(answer.status, body, dict(answer.headers), ranged=answer.ranged)
