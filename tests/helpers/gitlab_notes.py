"""The notes of one merge request, over HTTP as GitLab's API has them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

ME, TOKEN = 7, "secret"
NOTES = "/api/v4/projects/3/merge_requests/5/notes"


class _Handler(BaseHTTPRequestHandler):
    notes: list[dict[str, Any]]  # oldest first

    def do_GET(self) -> None:
        if self.path == "/api/v4/user":
            return self._answer({"id": ME})
        assert self.path == f"{NOTES}?per_page=100", self.path
        return self._answer(self.notes[::-1])

    def do_POST(self) -> None:
        assert self.path == NOTES, self.path
        self.notes.append({"id": 100 + len(self.notes), "author": {"id": ME}, "body": self._body()})
        self._answer(self.notes[-1])

    def do_PUT(self) -> None:
        (note,) = [note for note in self.notes if self.path == f"{NOTES}/{note['id']}"]
        note["body"] = self._body()
        self._answer(note)

    def _body(self) -> str:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        form = message_from_bytes(f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + sent)
        (field,) = form.get_payload()
        return field.get_payload(decode=True).decode()

    def _answer(self, content: Any) -> None:
        sent = json.dumps(content).encode()
        self.send_response(200 if self.headers["PRIVATE-TOKEN"] == TOKEN else 401)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def merge_request(notes: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Serve `notes`, which change as comments are made; gives what GitLab sets for a job, with a token."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"notes": notes}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/api/v4"
        yield {"CI_API_V4_URL": url, "CI_PROJECT_ID": "3", "CI_MERGE_REQUEST_IID": "5", "GITLAB_TOKEN": TOKEN, "no_proxy": "127.0.0.1"}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
