"""A chat server on this machine that misbehaves on purpose, and keeps account of what it delivered.

``faults`` maps a fault's name to its share of all requests.  An answer counts as billed once it has been sent whole;
``worked`` counts the tokens of all that were worked out, as a server would bill them that does not care what arrived.
"""

import json
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("429", "500", "hang", "drip", "cut", "not json", "no choices", "truncated content", "wrong schema", "twice")
OF_THE_WAY = FAULTS[:7]
"""The client gets nothing that it could have to pay for."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *, latency=0.0, faults=None, seed=0, say=lambda body: '{"score": 3}', accepts=("json_schema", "json_object", "none"),
                 retry_after="0.05", hang=1.0, reply=None):  # fmt: skip
        super().__init__(("127.0.0.1", 0), _Handler)
        self.latency, self.faults, self.say, self.accepts = latency, faults or {}, say, accepts
        self.retry_after, self.hang, self.reply = retry_after, hang, reply
        self.draw, self.lock = random.Random(seed), threading.Lock()
        self.asked, self.billed, self.met = Counter(), Counter(), Counter()
        self.bodies, self.headers, self.times = [], [], []
        self.tokens = self.worked = self.open = self.most_open = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the game


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, name = self.server, self.headers.get("Idempotency-Key", "")
        with server.lock:
            server.open += 1
            server.most_open = max(server.most_open, server.open)
            server.asked[name] += 1
            server.bodies.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.times.append(time.monotonic())
            pick, fault = server.draw.random(), None
            for kind, share in server.faults.items():
                pick -= share
                if pick < 0:
                    fault = kind
                    break
            server.met[fault] += 1
            late = server.draw.random()
        try:
            time.sleep(server.latency * (0.5 + late))
            self.answer(body, name, fault)
        finally:
            with server.lock:
                server.open -= 1

    def answer(self, body, name, fault):
        server = self.server
        if server.reply is not None and (given := server.reply(body)) is not None:
            return self.send(*given)
        if body.get("response_format", {"type": "none"})["type"] not in server.accepts:
            return self.send(
                400, {"error": {"message": "response_format is not supported here", "code": "unsupported"}}
            )
        if fault == "429":
            return self.send(429, {"error": {"message": "slow down"}}, {"Retry-After": server.retry_after})
        if fault == "500":
            return self.send(500, {"error": {"message": "stumbled"}})
        read = sum(len(m["content"]) for m in body["messages"]) // 4 + 4
        with server.lock:
            server.worked += read + 8
        if fault == "hang":
            time.sleep(server.hang)
            self.close_connection = True
            return None
        content = server.say(body)
        if fault == "truncated content":
            content = content[: len(content) // 2]
        if fault == "wrong schema":
            content = '{"mood": "fine"}'
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        usage = {"prompt_tokens": read, "completion_tokens": 8, "total_tokens": read + 8}
        whole = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"] + "-resolved",
            "choices": [choice] * (1 + (fault == "twice")),
            "usage": usage,
        }
        if fault == "not json":
            return self.send(200, b"<html>Bad gateway</html>")
        if fault == "no choices":
            return self.send(200, {"id": "x"})
        if fault in ("cut", "drip"):
            return self.limp(json.dumps(whole).encode(), fault)
        self.send(200, whole)
        with server.lock:
            server.billed[name] += 1
            server.tokens += read + 8
        return None

    def send(self, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for header, value in dict(headers).items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def limp(self, data, fault):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        end = time.monotonic() + self.server.hang
        for byte in data[: len(data) // 2]:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if fault == "drip":
                if time.monotonic() > end:
                    break
                time.sleep(0.05)
        self.close_connection = True


@contextmanager
def serving(**settings):
    """A running server."""
    server = Server(**settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
