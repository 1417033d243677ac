"""A data set of the Hugging Face hub: its Parquet files are fetched, or the reason is given."""

import errno
import json

import huggingface_hub
import pytest

from si.datasets.hub import download
from si.errors import StoreUnavailable
from tests.loop.running import si_ctl_process
from tests.unit.hub import COMMIT, serving
from tests.unit.layouts import hub_parquet, rows


@pytest.fixture
def hub(tmp_path):
    """The settings that lead to a hub with the data set me/sums."""
    splits = {"train": rows(range(8)), "test": rows(range(8, 12))}
    hub_parquet(tmp_path / "hub" / "datasets" / "me" / "sums", splits)
    with serving(tmp_path / "hub", tmp_path / "cache") as (settings, _):
        yield settings


@pytest.mark.slow
def test_data_set_of_the_hub(hub, tmp_path):
    """owner/name is fetched, its commit is kept as provenance, and a second import is offline."""
    done = si_ctl_process("data", "import", "me/sums", cwd=tmp_path, **hub)
    address = done.stdout.strip()
    assert address.startswith("data/sums-")
    assert "12 queries: train 8, dev 0, test 4" in done.stderr
    assert "No dev queries: a run needs all three" in done.stderr
    (note, _) = (tmp_path / "si-runs" / address / "provenance").iterdir()
    assert json.loads(note.read_bytes())["source"] == f"hf:me/sums@{COMMIT}"
    again = si_ctl_process(
        "data", "import", "me/sums", cwd=tmp_path, **hub | {"HF_HUB_OFFLINE": "1"}
    )
    assert again.stdout == done.stdout


def test_data_set_that_the_hub_does_not_have(hub, tmp_path):
    """A name that neither this machine nor the hub knows is an error that says both."""
    done = si_ctl_process("data", "import", "me/nothing", cwd=tmp_path, check=False, **hub)
    assert done.returncode == 3, done.stderr
    assert "no file or folder me/nothing, and no data set of that name on the hub" in done.stderr


def test_hub_that_cannot_be_reached(hub, tmp_path):
    """Where the hub does not answer, the error says how to bring the files; try again later."""
    hub |= {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = si_ctl_process("data", "import", "me/other", cwd=tmp_path, check=False, **hub)
    assert done.returncode == 4, done.stderr
    assert "cannot be reached" in done.stderr and "hf download" in done.stderr


@pytest.mark.parametrize(
    "raised,expected,words",
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreUnavailable, "cannot be written"),
        (ConnectionError("refused"), StoreUnavailable, "cannot be reached"),
        (ZeroDivisionError("a fault of ours"), ZeroDivisionError, "a fault of ours"),
    ],
)
def test_errors_are_told_apart(raised, expected, words, monkeypatch):
    """A full disk is not called an unreachable hub, and a fault of ours is not hidden."""

    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(expected, match=words):
        download("me/sums")
