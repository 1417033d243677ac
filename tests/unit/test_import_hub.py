"""A data set of the Hugging Face hub: its Parquet files are fetched, or the reason is given."""

import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest

from tests.loop.running import si_ctl
from tests.unit.layouts import hub_parquet, rows

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as fetching a data set needs: its list of files, and the files."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, code, body=b"", **headers):
        self.send_response(code)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        names = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*.*"))
        if path.startswith("/api/datasets/me/sums/revision/"):
            about = {
                "_id": "1",
                "id": "me/sums",
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in names],
            }
            self.answer(200, json.dumps(about).encode(), Content_Type="application/json")
        elif path.startswith("/api/datasets/me/sums/tree/"):
            tree = [
                {
                    "type": "file",
                    "path": name,
                    "oid": hashlib.sha1((self.folder / name).read_bytes()).hexdigest(),
                    "size": (self.folder / name).stat().st_size,
                }
                for name in names
            ]
            self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        elif path.startswith(f"/datasets/me/sums/resolve/{COMMIT}/"):
            body = (self.folder / path.split(COMMIT + "/")[1]).read_bytes()
            etag = hashlib.sha1(body).hexdigest()
            self.answer(200, body, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        else:
            self.answer(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(tmp_path):
    """The address of a hub with the data set me/sums, and settings that lead there."""
    folder = hub_parquet(tmp_path / "hub", {"train": rows(range(8)), "test": rows(range(8, 12))})
    handler = type("Here", (Hub,), {"folder": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    server.shutdown()
    server.server_close()


def test_data_set_of_the_hub(hub, tmp_path):
    """owner/name is fetched, its commit is kept as provenance, and a second import is offline."""
    done = si_ctl("data", "import", "me/sums", cwd=tmp_path, **hub)
    address = done.stdout.strip()
    assert address.startswith("data/sums-")
    assert "12 queries: train 8, dev 0, test 4" in done.stderr
    assert "No dev: a run needs all three" in done.stderr
    (note, _) = (tmp_path / "si-runs" / address / "provenance").iterdir()
    assert json.loads(note.read_bytes())["source"] == f"hf:me/sums@{COMMIT}"
    again = si_ctl("data", "import", "me/sums", cwd=tmp_path, **hub | {"HF_HUB_OFFLINE": "1"})
    assert again.stdout == done.stdout


def test_data_set_that_the_hub_does_not_have(hub, tmp_path):
    """A name that neither this machine nor the hub knows is an error that says both."""
    done = si_ctl("data", "import", "me/nothing", cwd=tmp_path, check=False, **hub)
    assert done.returncode == 3, done.stderr
    assert "no file or folder me/nothing, and no data set of that name on the hub" in done.stderr


def test_hub_that_cannot_be_reached(hub, tmp_path):
    """Where the hub does not answer, the error says how to bring the files; try again later."""
    hub |= {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = si_ctl("data", "import", "me/other", cwd=tmp_path, check=False, **hub)
    assert done.returncode == 4, done.stderr
    assert "cannot be reached" in done.stderr and "hf download" in done.stderr
