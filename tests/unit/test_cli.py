"""The command line's shape: light, documented, and able to find its parts."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from si.cli import VERBS, app, load

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "pyarrow", "numpy", "pydantic", "boto3", "matplotlib", "rich")


def loaded_after(code: str) -> set[str]:
    probe = f"{code}\nimport sys; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_command_line_imports_nothing_heavy():
    """Importing the command line loads none of the libraries that its verbs need."""
    bare = loaded_after("import typer")
    ours = loaded_after("import si.cli")
    assert not (ours - bare) & set(HEAVY)


def imports_of_the_command_line():
    """(module, imported module, whether inside a function) of every import in si/cli."""
    for path in sorted((ROOT / "si" / "cli").glob("*.py")):
        module = "si.cli" if path.stem == "__init__" else f"si.cli.{path.stem}"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                yield module, node.module, node.col_offset > 0
            elif isinstance(node, ast.Import):
                yield from ((module, name.name, node.col_offset > 0) for name in node.names)


def test_imports_inside_functions_are_the_exception():
    """Verbs are loaded when called, so they import at the top; what is named here is what a verb
    rarely needs and takes long to load."""
    inside = {(m, imported) for m, imported, within in imports_of_the_command_line() if within}
    assert inside == {
        ("si.cli", "si.cli.console"),  # rich, to show an error
        ("si.cli.export", "si.engines.merging"),  # torch and peft
        ("si.cli.iterate", "si.cli.on_cluster"),  # the Kubernetes client, as below
        ("si.cli.logs", "si.cli.on_cluster"),
        ("si.cli.options", "si.clusters.kubernetes.runs"),
        ("si.cli.status", "si.cli.on_cluster"),
    }


def test_the_command_line_has_no_import_circle():
    """No module of si/cli imports itself by way of others, wherever the import stands."""
    below = defaultdict(set)
    for module, imported, _ in imports_of_the_command_line():
        if imported.startswith("si.cli."):
            below[module].add(imported)
    assert len(below) > 10
    list(TopologicalSorter(below).static_order())  # raises CycleError


def test_every_verb_has_a_module():
    """The table of verbs and the modules agree, also about what each verb does."""
    helpers = {"__init__", "console", "on_cluster", "options", "pages"}
    assert {path.stem for path in (ROOT / "si" / "cli").glob("*.py")} - helpers == set(VERBS)
    for name, verb in VERBS.items():
        assert load(name).help.split("\n\n")[0].replace("\n", " ") == verb.help, name


def test_functions_and_modules_of_the_command_line_are_short():
    """No function of si/cli has more than 60 lines, and no module more than 450."""
    for path in sorted((ROOT / "si" / "cli").glob("*.py")):
        tree = ast.parse(path.read_text())
        assert len(path.read_text().splitlines()) <= 450, path.name
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, (path.name, node.name)


def test_defaults_are_shown():
    """--help of iterate shows what runs without any option."""
    from typer.testing import CliRunner

    shown = CliRunner().invoke(app, ["iterate", "--help"], env={"COLUMNS": "200"}).stdout
    for option, default in (("strategy", "gr"), ("k", "8"), ("iterations", "5"), ("seed", "0")):
        line = next(line for line in shown.splitlines() if f"--{option} " in line)
        assert f"[default: {default}]" in line


def test_controller_needs_no_torch():
    """The loop, its stages and the verbs' code run without torch, transformers or boto3."""
    stages = "explore verify levels resample rebalance train evaluate report"
    code = "import si.loop, si.runs.status, si.runs.dry_run, si.stages.worker, si.clusters.local\n"
    code += "import si.datasets.sources, si.datasets.importing, si.report.dataset\n"
    code += "\n".join(f"import si.stages.{stage}" for stage in stages.split())
    assert not loaded_after(code) & {"torch", "transformers", "peft", "boto3", "botocore"}


def test_a_kept_run_needs_no_matplotlib():
    """What `iterate` imports when every stage is committed already does not draw."""
    code = "import si.loop, si.report.templates, si.runs.status, si.cli.report"
    assert "matplotlib" not in loaded_after(code)


def test_stage_scripts_are_found_in_a_checkout():
    """Every stage's script is found beside the package in a checkout."""
    from si.stages import STAGES
    from si.stages.worker import script

    for stage in STAGES:
        assert script(stage) == ROOT / "jobs" / f"{stage}.py"
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(STAGES)


@pytest.mark.parametrize("layout", ["wheel", "image"])
def test_stage_scripts_are_found_where_installed(layout, tmp_path):
    """The resolver finds the scripts inside an installed package, with no checkout around."""
    package = tmp_path / ("lib/python/site-packages" if layout == "wheel" else "opt/si") / "si"
    shutil.copytree(ROOT / "si", package, ignore=shutil.ignore_patterns("embedded", "_bundle"))
    shutil.copytree(ROOT / "jobs", package / "_bundle" / "jobs")
    code = "from si.stages import STAGES\nfrom si.stages.worker import script\n"
    code += "for stage in STAGES: print(script(stage))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.split()
    assert len(lines) >= 8
    assert all(line.startswith(str(package / "_bundle" / "jobs")) for line in lines)


def test_missing_scripts_are_named(tmp_path):
    """An installation without its scripts says so, and where it looked."""
    package = tmp_path / "si"
    shutil.copytree(ROOT / "si", package, ignore=shutil.ignore_patterns("embedded", "_bundle"))
    code = "from si.stages.worker import script\nscript('verify')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "The folder jobs is missing from this installation" in done.stderr


def test_shipped_recipe_is_the_default(monkeypatch):
    """Without --recipe, every command computes what jobs/recipes/embedded.yaml says."""
    from si.cli.options import recipe_file, resolve
    from si.config.loading import load

    for name in [name for name in os.environ if name.startswith("SI_")]:
        monkeypatch.delenv(name)
    assert resolve(None, None, {})[0] == load(recipe_file("embedded"), environment={})[0]


def test_settings_come_in_rising_order(tmp_path):
    """Defaults < recipe file < environment < flags."""
    from si.config.loading import load

    file = tmp_path / "r.yaml"
    file.write_text("k: 3\nseed: 3\niterations: 3\nplace: {workers: 3}\n")
    env = {"SI_SEED": "4", "SI_ITERATIONS": "4", "SI_STORE": "elsewhere", "SI_TRAIN__LR": "1e-4"}
    recipe, place = load(file, {"iterations": 5}, env)
    assert (recipe.k, recipe.seed, recipe.iterations, recipe.train.lr) == (3, 4, 5, 1e-4)
    assert (place.workers, place.store) == (3, "elsewhere")


def test_every_setting_is_explained():
    """The schema gives a meaning to every key of recipe and place."""
    from si.config.loading import keys
    from si.config.place import Place
    from si.config.recipe import Recipe

    for model in (Recipe, Place):
        for name in keys(model):
            info = model
            *path, last = name.split(".")
            for part in path:
                info = next(
                    kind
                    for kind in (
                        getattr(info.model_fields[part].annotation, "__args__", None)
                        or (info.model_fields[part].annotation,)
                    )
                    if hasattr(kind, "model_fields")
                )
            field = info.model_fields[last]
            section = "model_fields" in dir(field.annotation) or "|" in str(field.annotation)
            assert field.description or section or name in ("data", "model"), name


def test_place_travels_as_environment(monkeypatch):
    """A stage script reads from its environment the place that the controller was given."""
    from si.config.loading import load
    from si.config.place import S3, Place, place_environment

    place = Place(
        store="s3://b/p", s3=S3(endpoint="http://127.0.0.1:9", region="eu", path_style=False)
    )
    again = load(environment=place_environment(place))[1]
    assert (again.store, again.s3) == (place.store, place.s3)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("synth:embedded", "embedded"),
        ("synth:puzzles", "embedded"),
        ("data/shapes-06fc3bd94327", "shapes"),
        ("data/shapes-2-06fc3bd94327", "shapes-2"),
        ("hub:Somebody/Geometry3K@v1.0", "geometry3k"),
        ("hub:somebody/a.name_that-is-much-too-long", "a-name-that-is-much"),
        ("data/---", "data"),
    ],
)
def test_a_recipe_is_called_after_its_data(source, name):
    """Runs on other data do not fall on each other's names; a recipe's own name stands."""
    from si.config.recipe import Recipe

    assert Recipe(data={"source": source}).name == name
    assert Recipe(data={"source": source}).run_name == f"{name}-gr-k8-s0"
    assert Recipe(name="mine", data={"source": source}).name == "mine"


def test_run_names_are_dns_labels():
    """Default run names are DNS labels of at most 30 characters for every strategy."""
    from si.config.recipe import STRATEGIES, Recipe

    for strategy in STRATEGIES:
        recipe = Recipe(name="a-rather-long-recipe", strategy=strategy, k=16, seed=123)
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?", recipe.run_name)


def test_version_and_help():
    """--version prints the version, and every verb has help with a first sentence."""
    from typer.testing import CliRunner

    from si import __version__
    from si.cli import app

    runner = CliRunner()
    assert runner.invoke(app, ["--version"]).stdout.strip() == f"si-ctl {__version__}"
    for (
        verb
    ) in "iterate status report export compare diagnose rebalance replay data config".split():
        shown = runner.invoke(app, [verb, "--help"])
        assert shown.exit_code == 0 and "Usage" in shown.stdout
