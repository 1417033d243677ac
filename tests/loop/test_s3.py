"""A whole run in a bucket, on a real S3 server: moto's, and MinIO where one is started."""

import json
import os
import uuid

import pytest

from si.config.place import S3, Place
from si.runs.status import status
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from si.store.open import open_store
from tests.loop.running import artefacts, read_artefacts, si_ctl
from tests.loop.tiny import tiny_data, tiny_recipe

REAL = os.environ.get("SI_TEST_S3_ENDPOINT")
BUCKET = os.environ.get("SI_TEST_S3_BUCKET", "si-test")
NO_SERVER = pytest.mark.skipif(not REAL, reason="SI_TEST_S3_ENDPOINT names no server")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", ["moto", pytest.param("minio", marks=NO_SERVER)])
def test_a_run_in_a_bucket_makes_what_a_run_in_a_folder_makes(server, request, tmp_path):
    """--store s3://... gives the artefacts of a run in a folder: same addresses, same contents."""
    endpoint = REAL if server == "minio" else request.getfixturevalue("s3_server")
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    bucket = open_store(Place(store=url, s3=S3(endpoint=endpoint)))
    address = tiny_data(bucket)
    recipe = str(tiny_recipe(tmp_path, address))
    words = ("iterate", "--recipe", recipe)
    at = ("--store", url, "--set", f"place.s3.endpoint={endpoint}")
    done = si_ctl(*words, *at, cwd=tmp_path)
    assert "Report:" in done.stdout
    assert tiny_data(FolderStore(tmp_path / "folder")) == address
    si_ctl(*words, "--store", str(tmp_path / "folder"), cwd=tmp_path)
    run = "sums-gr-k4-s0"
    assert read_artefacts(status(bucket, run)) == artefacts(tmp_path / "folder", run)
    again = si_ctl(*words, *at, cwd=tmp_path)
    assert "trying again" not in again.stdout and again.stdout.count(" kept ") > 20
    there = {"SI_PLACE__S3__ENDPOINT": endpoint}
    tracked = si_ctl("track", run, "--store", url, "--json", cwd=tmp_path, **there)
    assert (
        json.loads(tracked.stdout)["trackers"]["tensorboard"]["new"] == 0
    )  # the loop has told all
    events = (tmp_path / "si-runs" / "tensorboard" / run).iterdir()
    assert any(path.name.endswith(".it02-evaluate") for path in events)
    watched = si_ctl("status", run, "--watch", "--store", url, cwd=tmp_path, **there)
    assert watched.stdout.splitlines()[-1].startswith("it02/report")
    words = ("--iteration", "2", "--out", "policy")
    si_ctl("export", run, *words, "--store", url, cwd=tmp_path, **there)
    made = Artifact.open(bucket, read_artefacts(status(bucket, run))["it02/train"][0])
    assert (tmp_path / "policy" / "config.json").read_bytes() == made.read("config.json")


def test_a_bucket_that_does_not_answer_is_named(tmp_path):
    """An unreachable bucket: named, exit code 4, without a traceback, within half a minute."""
    done = si_ctl(
        *("iterate", "--store", "s3://nowhere/x"),
        *("--set", "place.s3.endpoint=http://127.0.0.1:9"),
        cwd=tmp_path,
        check=False,
        AWS_ACCESS_KEY_ID="a",
        AWS_SECRET_ACCESS_KEY="b",
    )
    assert done.returncode == 4, done.stderr
    assert "127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr
