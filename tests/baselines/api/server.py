"""A chat API on loopback that speaks OpenAI's protocol, and misbehaves as a test wants."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = (50, 5)


@dataclass
class Reply:
    """What the server does about one question. `content` None sends no message text; `closes` no bytes at all."""

    content: str | None = None
    refusal: str | None = None
    finished: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    closes: bool = False
    wait: float = 0
    tokens: tuple[int, int] | None = TOKENS


Rule = Callable[[dict[str, Any], int], Reply]


@dataclass
class Seen:
    """What came, in the order of arrival; `times` are monotonic seconds."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def prompts(self) -> list[str]:
        return [json.dumps(body["messages"]) for body in self.bodies]


def named(label: str, **more: Any) -> Reply:
    """The reply of an API that kept to the schema."""
    return Reply(json.dumps({"behavior": label}), **more)


def failed(status: int, code: str = "", message: str = "no", **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message, "code": code, "type": "error", "param": None}}).encode()
    return Reply(status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


@contextmanager
def serving(rule: Rule) -> Iterator[Seen]:
    """A server that answers question number n (0 and up) with body b as `rule(b, n)` says."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(seen.bodies)
                seen.bodies.append(body)
                seen.headers.append(dict(self.headers))
                seen.times.append(time.monotonic())
            assert self.path == "/v1/chat/completions"
            reply = rule(body, number)
            time.sleep(reply.wait)
            if reply.closes:
                self.close_connection = True
                return
            raw = json.dumps(_completion(body, reply)).encode() if reply.body is None else reply.body
            try:
                self.send_response(reply.status)
                for name, value in {"content-type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # whoever asked has gone

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    seen = Seen(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()


def _completion(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    result = {
        "id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "system_fingerprint": "fp_test",
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finished, "logprobs": None}],
    }
    if reply.tokens is not None:
        read, written = reply.tokens
        result["usage"] = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return result
