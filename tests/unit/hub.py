"""A model hub of the tests' own: as much of the Hugging Face hub's protocol as fetching needs."""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree)/")
FILE = re.compile(rf"/(datasets/)?([^/]+/[^/]+)/resolve/{COMMIT}/(.+)")


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves `<root>/models/owner/name` and `<root>/datasets/owner/name`, all at one commit.
    Revisions are `main`, the commit and nothing else; `asked` lists the paths of GET requests."""

    root: Path
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if self.command == "GET":
            self.asked.append(path)
        if match := API.match(path):
            folder = self.root / match[1] / match[2]
            revision = path[match.end() :].partition("/")[0]
            if not folder.is_dir():
                self.answer(404, b"{}", X_Error_Code="RepoNotFound")
            elif revision not in ("main", COMMIT):
                self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
            else:
                self.about(match[2], folder, match[3])
        elif match := FILE.match(path):
            body = (
                self.root / ("datasets" if match[1] else "models") / match[2] / match[3]
            ).read_bytes()
            etag = hashlib.sha1(body).hexdigest()
            self.answer(200, body, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        else:
            self.answer(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815

    def about(self, name: str, folder: Path, what: str) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        told: Any
        if what == "revision":
            siblings = [{"rfilename": each} for each in names]
            told = {"_id": "1", "id": name, "sha": COMMIT, "siblings": siblings}
        else:
            told = [
                {
                    "type": "file",
                    "path": each,
                    "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                    "size": path.stat().st_size,
                }
                for each, path in zip(names, files, strict=True)
            ]
        self.answer(200, json.dumps(told).encode(), Content_Type="application/json")


@contextmanager
def serving(root: Path, cache: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """A hub over `root`: the settings that lead there, and what it is asked."""
    asked: list[str] = []
    handler = type("Here", (Hub,), {"root": root, "asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield (
            {
                "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "HF_HOME": str(cache),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_OFFLINE": "0",
            },
            asked,
        )
    finally:
        server.shutdown()
        server.server_close()
