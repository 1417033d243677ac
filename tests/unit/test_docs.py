"""The docs stay true: every command, option, setting, column, stage and word is in them."""

import ast
import re
from pathlib import Path

import pytest

from si import records
from si.cli import VERBS, load
from si.config.loading import keys
from si.config.place import Place
from si.config.recipe import STRATEGIES, Recipe
from si.config.requires import Requires
from si.stages import STAGES
from si.store.commit import Manifest, ShardRecord
from si.store.keys import Spec

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OPERATIONS = (DOCS / "operations.md").read_text()
ARTIFACTS = (DOCS / "artifacts.md").read_text()


def commands():
    """(words to type, command) of every verb, and of those that a verb groups."""
    for verb in VERBS:
        loaded = load(verb)
        for name, inner in getattr(loaded, "commands", {"": loaded}).items():
            yield f"si-ctl {verb} {name}".strip(), inner


@pytest.mark.parametrize("words,command", list(commands()))
def test_every_command_and_option_is_documented(words, command):
    """docs/operations.md names every command, and every option within that verb's section."""
    assert words in OPERATIONS
    assert command.help
    verb = " ".join(words.split()[:2])
    section = OPERATIONS.split(f"### `{verb}`")[1].split("\n#")[0]
    for option in command.params:
        for name in option.opts:
            if name.startswith("--"):
                assert f"`{name}`" in section, (words, name)


def test_documented_options_exist():
    """No option that the docs name is missing from the command line."""
    known = {"--help", "--version"}
    for _, command in commands():
        known |= {name for option in command.params for name in option.opts}
    section = OPERATIONS.split("## Settings")[0]
    named = set(re.findall(r"`(--[a-z-]+)", section))
    assert named <= known


def test_every_column_is_documented():
    """docs/artifacts.md gives every column's name, type and meaning as the schemas do."""
    tables = {f"{name}.parquet": schema for name, schema in records.SCHEMAS.items()}
    tables["scores.parquet with `evaluate.samples`"] = records.SAMPLED_SCORES
    for name, schema in tables.items():
        section = ARTIFACTS.split(f"### {name}\n")[1].split("\n### ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        expected = [
            f"| `{field.name}` | {field.type} | {field.metadata[b'meaning'].decode()} |"
            for field in schema
        ]
        assert rows == expected, name


def test_every_stage_and_record_field_is_documented():
    """docs/artifacts.md has a row for every stage, and names every field of the records."""
    for stage in ("synth", "import", "fetch", *STAGES):
        assert re.search(rf"^\| `?{stage}`? \|", ARTIFACTS, re.MULTILINE), stage
    spec = Spec("synth", "x", {}, {}, {})
    record = ShardRecord(0, "a", 1, (), {})
    for fields in (spec.to_json(), record.to_json(), Manifest(spec, (record,)).to_json()):
        for name in fields:
            assert f"`{name}`" in ARTIFACTS, name


def test_strategies_and_levels_are_in_the_method():
    """docs/method.md explains every strategy, and the glossary every level's bounds."""
    method = (DOCS / "method.md").read_text()
    for name in {part for strategy in STRATEGIES for part in strategy.split("+")}:
        assert f"`{name}`" in method
    assert "L1 [0.8, 1]" in (DOCS / "glossary.md").read_text()


def test_settings_named_in_docs_exist():
    """Every NAME=VALUE after --set in the docs, the README and our messages is a setting."""
    known = {"requires", *keys(Recipe), *(f"place.{name}" for name in keys(Place))}
    known |= {f"requires.{name}" for name in keys(Requires)}
    known.add("images.registry")  # a value of the chart, in a command of Helm
    files = [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "si").rglob("*.py")]
    for file in files:
        for name in re.findall(r"--set ([a-z0-9_.]+)=", file.read_text()):
            assert name in known, (file.name, name)


PAGES = [*ROOT.glob("*.md"), ROOT / "helm" / "si-ctl" / "README.md", *DOCS.rglob("*.md")]


def test_links_lead_somewhere():
    """Every relative link in the README and the docs leads to a file."""
    for file in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", file.read_text()):
            if "://" not in target:
                assert (file.parent / target).exists(), (file.name, target)


# A path of the repository, not the end of a longer one or of a URL.
FOLDERS = "si|tests|jobs|k8s|helm|images|benchmarks|requirements|docs"
PATH = re.compile(rf"(?<![\w/.~-])((?:{FOLDERS}|\.ci|\.github)/[\w./-]*\w/?)(?![\w<*]|-<)")
NAME = re.compile(r"(?<![\w/.-])si(?:\.\w+)+(?![\w<])")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_modules_exist(page):
    """Every path of the repository and every `si.x.y` that a page names is there."""
    text = page.read_text()
    paths = {found for found in PATH.findall(text) if not (ROOT / found).exists()}
    names = {found for found in NAME.findall(text) if not defined(found)}
    assert (paths, names) == (set(), set())


def defined(name):
    """Whether a dotted name is a module of si, or stands at the top of one."""
    path, parts = ROOT / "si", name.split(".")[1:]
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    if parts and (path / f"{parts[0]}.py").exists():
        path /= f"{parts.pop(0)}.py"
    else:
        path /= "__init__.py"
    if not parts:
        return True
    top = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            top |= {(alias.asname or alias.name) for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            top.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            top |= set(ast.literal_eval(node.value)) if names == {"__all__"} else names
    return parts[0] in top


def test_tree_of_the_readme():
    """The tree in the README has every package of si/, and names nothing that is not there."""
    section = (ROOT / "README.md").read_text().split("## The code")[1].split("\n## ")[0]
    lines = re.findall(r"^    ( *)([\w./]+)(?:  +\S.*)?$", section, re.MULTILINE)
    named = {("si/" if indent else "") + name for indent, name in lines}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    rooms = {
        f"si/{path.name}/" for path in (ROOT / "si").iterdir() if (path / "__init__.py").exists()
    }
    assert rooms <= named


def test_readme_begins_with_the_two_commands():
    """The README's first code block is the two commands that a newcomer types."""
    block = (ROOT / "README.md").read_text().split("```")[1]
    assert "make demo" in block and "make test" in block


def literals(folder):
    """Every text of the code as a pattern: what an f-string fills in may be anything."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else None for part in node.values
                ]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node.value]
            else:
                continue
            if sum(len(part or "") for part in parts) > 12:
                yield "".join(".+?" if part is None else re.escape(part) for part in parts)


def test_errors_of_the_troubleshooting_page_are_said():
    """Every headline on that page is one that the code says, as far as the headline goes."""
    page = (DOCS / "troubleshooting.md").read_text()
    headlines = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    patterns = [re.compile(pattern) for pattern in literals(ROOT / "si")]
    said = {h for h in headlines if any(pattern.match(h) for pattern in patterns)}
    assert len(headlines) > 15 and said == set(headlines)
