"""The scripts of the local cluster say at once what is missing, before they build for minutes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS = ROOT / "tests/cluster/offline/needs"
PROGRAMS = ("go", "dockerd", "docker", "debootstrap", "iptables", "ip", "nsenter", "python3")


def stub(path: Path, text: str = "") -> None:
    """A program that runs these lines of shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def needs(tmp_path: Path):
    """Runs the check on a machine that has these programs and so much disk."""
    if any(shutil.which(name, path="/usr/sbin:/sbin") for name in ("dockerd", "debootstrap")):
        folders = "no-sbin"  # this machine has some of what the test takes away
    else:
        folders = "/usr/sbin:/sbin"
    text = NEEDS.read_text().replace("/usr/sbin:/sbin", folders)
    script = tmp_path / "offline" / "needs"
    stub(script)
    script.write_text(text)

    def run(without=(), gigabytes=100, uid="0"):
        stub(script.parent / "space", ROOT.joinpath("tests/cluster/offline/space").read_text())
        bin_ = tmp_path / "bin"
        shutil.rmtree(bin_, ignore_errors=True)
        for name in set(PROGRAMS) - set(without):
            stub(bin_ / name)
        for name in ("bash", "env", "dirname", "sort", "tail", "tr", "mkdir"):
            (bin_ / name).symlink_to(shutil.which(name))
        stub(bin_ / "df", f"echo Avail; echo {gigabytes}G")
        variables = {"PATH": str(bin_), "HOME": str(tmp_path), "SI_NEEDS_UID": uid}
        return subprocess.run([script, "20"], capture_output=True, text=True, env=variables)

    return run


def test_a_machine_with_everything_passes(needs) -> None:
    """Nothing is printed."""
    done = needs()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"without": ["dockerd"]}, "apt-get install docker.io"),
        ({"without": ["debootstrap"]}, "apt-get install debootstrap"),
        ({"without": ["iptables"]}, "apt-get install iptables"),
        ({"without": ["go"]}, "Go 1.26"),
        ({"gigabytes": 3}, "3 GB are free"),
        ({"uid": "1000"}, "root: "),
    ],
)
def test_each_missing_thing_is_named(needs, broken, words) -> None:
    """With what to do, and without a word about the others."""
    done = needs(**broken)
    assert done.returncode == 1 and words in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_all_are_named_together(needs) -> None:
    """So that one look at the machine is enough."""
    done = needs(without=["go", "dockerd", "docker", "debootstrap"], gigabytes=1)
    assert "apt-get install debootstrap docker.io" in done.stderr
    assert "Go 1.26" in done.stderr and "1 GB are free" in done.stderr


@pytest.fixture
def run_tests(tmp_path: Path):
    """Runs tests/cluster/run beside a cluster whose node has these images; None for no cluster."""
    for name in ("k8s/local/tools.sh", "tests/cluster/run", "si/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    stub(tmp_path / ".venv/bin/pytest", 'echo "pytest $*"')
    for name in ("kind", "kubectl", "helm"):
        stub(tmp_path / "bin" / name)

    def run(images, *words):
        from si import __version__

        listed = "\n".join(
            f"docker.io/library/si-ctl-{kind}:{__version__}" for kind in images or ()
        )
        answer = "exit 1" if images is None else f"echo '{listed}'"
        stub(tmp_path / "bin/docker", answer)
        variables = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LOCAL_CLUSTER": "docker"}
        script = tmp_path / "tests/cluster/run"
        return subprocess.run([script, *words], capture_output=True, text=True, env=variables)

    return run


def test_the_cluster_tests_say_that_images_are_missing(run_tests) -> None:
    """All three for all tests, verify's for a choice of them."""
    assert run_tests(["verify", "explore", "train"]).stdout == "pytest tests/cluster\n"
    assert run_tests(["verify"], "-k", "quota").stdout == "pytest tests/cluster -k quota\n"
    for images, words, lacking in ((["verify"], (), "explore"), ([], ("-k", "quota"), "verify")):
        done = run_tests(images, *words)
        assert done.returncode == 1 and "pytest" not in done.stdout
        assert f"no image si-ctl-{lacking}:" in done.stderr and "make kind-demo" in done.stderr


def test_the_cluster_tests_say_that_there_is_no_cluster(run_tests) -> None:
    """Before pytest starts."""
    done = run_tests(None)
    assert done.returncode == 1 and "make kind" in done.stderr
