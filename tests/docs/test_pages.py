"""What the docs tell a reader to type is typed here, page by page, in the order in which it stands.

A page's fenced files (```python title="x.py") are written first. Runs are made small by environment
variables, so that the commands stay as they are printed.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.loop.running import ROOT, environment, si_ctl, si_ctl_process
from tests.unit import rollout_files

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "how-to").glob("*.md"))]
SMALL = {
    "SI_K": "4",
    "SI_ITERATIONS": "1",
    "SI_DATA__SLICE_SIZE": "20",
    "SI_EVALUATE__LIMIT": "10",
    "SI_PLACE__WORKERS": "2",
}
# What needs more than a laptop, and where it is typed instead.
ELSEWHERE = {
    "--on kubernetes": "tests/cluster",
    "s3://": "tests/loop/test_s3.py",
    "model.source=...": "tests/unit/test_embedded.py",
    "doctor --recipe": "tests/unit/test_doctor.py",
    "--max-cost": "tests/loop/test_gpus.py",
    "--calibrate gr": "tests/loop/test_estimate.py",
    "study --strategies": "tests/loop/test_study.py",  # 180 runs
}
COMMAND = re.compile(r"^ {4,}((?:[A-Z_]+=\S+ )*si-ctl .*?)(?:\s+#.*)?$", re.MULTILINE)
FILE = re.compile(r"^```\w+ title=\"([^\"]+)\"\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    found = COMMAND.findall(page.read_text().replace("\\\n", " "))
    return [line for line in found if not any(mark in line for mark in ELSEWHERE)]


TYPED = [page for page in PAGES if commands(page)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all pages: what their runs have in common is computed once."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.stem)
def test_its_commands_do_what_they_say(
    page: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command of the page ends with 0, in a folder with what the page speaks of."""
    monkeypatch.setitem(SMALL, "SI_PLACE__STORE", str(store))
    # A page's reader has no runs of other pages, whose names would be in the way.
    shutil.rmtree(store / "runs", ignore_errors=True)
    prepare(page, tmp_path)
    address = ""
    for line in commands(page):
        line = line.replace("FOLDER", "shapes").replace("ADDRESS", address)
        done = type_in(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if "data import" in line:
            address = done.stdout.split()[-1]
            assert address.startswith("data/")


def type_in(line: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a line in this process; with a PYTHONPATH of its own, in one of its own."""
    variables = dict(re.findall(r"([A-Z_]+)=(\S+) ", line.partition("si-ctl")[0]))
    words = shlex.split(line[line.index("si-ctl") :])[1:]
    run = si_ctl
    if "PYTHONPATH" in variables:
        variables["PYTHONPATH"] += os.pathsep + environment()["PYTHONPATH"]
        run = si_ctl_process
    return run(*words, cwd=folder, check=False, **SMALL | variables)


def prepare(page: Path, folder: Path) -> None:
    """The files that the page shows, and those that its commands name."""
    shapes = folder / "shapes"
    shapes.mkdir()
    for name, colour in (("square", "blue"), ("angle", "black")):
        Image.new("RGB", (32, 32), colour).save(shapes / f"{name}.png")
    example = (DOCS / "how-to" / "your-data.md").read_text()
    for name, text in FILE.findall(page.read_text()) or FILE.findall(example):
        (folder / name).write_text(text)
    rows = [
        {
            "query_id": str(sample.query),
            "reward": float(sample.right),
            "question": sample.question,
            "answer": rollout_files.ANSWERS[sample.query],
            "response": sample.response,
        }
        for sample in rollout_files.samples(1)
    ]
    other = [{"meta": {"uid": row["query_id"]}, "points": row["reward"]} for row in rows]
    (folder / "rollouts").mkdir()
    for name, lines in (
        ("rollouts.jsonl", rows),
        ("rollouts/part.jsonl", rows),
        ("other.jsonl", other),
    ):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    unjudged = [
        {"prompt": r["question"], "predict": r["response"], "label": r["answer"]} for r in rows
    ]
    (folder / "generated_predictions.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in unjudged)
    )
    # Runs that the page takes for granted.
    text = page.read_text()
    made = set(re.findall(r"^ {4,}.*iterate --strategy (\w+) *(?:#.*)?$", text, re.MULTILINE))
    for named in re.findall(
        r"^ {4,}.*si-ctl (?:compare|replay) ([a-z ]+?)(?: +[-#].*)?$", text, re.M
    ):
        for strategy in named.split():
            if strategy in ("vanilla", "tc", "rp", "ar", "gr") and strategy not in made:
                assert type_in(f"si-ctl iterate --strategy {strategy}", folder).returncode == 0


def test_where_the_rest_is_typed() -> None:
    """What is not typed here names a test that exists, and still stands on a page."""
    text = "".join(page.read_text() for page in PAGES)
    for mark, where in ELSEWHERE.items():
        assert mark in text and (ROOT / where).exists()
