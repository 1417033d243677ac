"""The report and the comparison: the numbers they read, the words they choose, what they escape."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from difflib import SequenceMatcher
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from si.errors import DataError
from si.metrics import ends
from si.records import LEVELS
from si.report.compare import Named, compare, page
from si.report.findings import matthew, progress, rebalanced, unread
from si.report.intervals import wilson
from si.report.page import PAPER, Section, extended
from si.report.run_tables import words
from si.report.sample_images import PIXELS, embed
from si.report.summary import Iteration, RunSummary, collect
from si.report.tables import Table, percent, percents, points
from si.stages.job import Job
from si.stages.report import report
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.browser.made_up import HOSTILE, make_run, report_spec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    return FolderStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def runs(store: FolderStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    scratch = tmp_path_factory.mktemp("scratch")
    return {name: make_run(store, scratch, name, 2, hostile=True) for name in ("vanilla", "gr+rp")}


@pytest.fixture(scope="module")
def files(
    store: FolderStore, runs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    return _report(store, runs["gr+rp"], tmp_path_factory.mktemp("report"))


def _report(store: FolderStore, refs: Any, scratch: Path, iterations: int = 2) -> dict[str, Any]:
    return report(Job(store, report_spec(refs, "gr+rp", iterations), scratch))(0).files


@pytest.mark.slow
def test_same_inputs_same_bytes(
    store: FolderStore, runs: Any, files: dict[str, Any], tmp_path: Path
) -> None:
    """Reports hold no date, no random id, no path: made twice, they are the same bytes."""
    assert _report(store, runs["gr+rp"], tmp_path) == files
    assert set(files) == {"report.html", "report.md", "report.json"}
    assert str(tmp_path.parent).encode() not in files["report.html"]


def test_the_numbers_are_the_artefacts(
    store: FolderStore, runs: Any, files: dict[str, Any]
) -> None:
    """report.json repeats what evaluate, rebalance and train committed, iteration by iteration."""
    refs = runs["gr+rp"]
    said = json.loads(files["report.json"])
    for t, it in enumerate(said["iterations"]):
        assert it["scores"] == Artifact.open(store, refs[f"scores-{t}"]).json("scores.json")
        if t:
            examples = Artifact.open(store, refs[f"examples-{t}"])
            assert it["metrics"] == examples.json("metrics.json")
            facts = Artifact.open(store, refs[f"policy-{t}"]).manifest.facts
            assert (it["spent"]["steps"], it["losses"]) == (facts["steps"], facts["losses"])
            second = Artifact.open(store, refs[f"explore2-{t}"]).manifest.facts
            assert it["spent"]["samples_2"] == second["samples"]
    assert said["recipe"]["strategy"] == "gr+rp"
    assert {"best", "last", "oracle", "matthew", "words"} <= said.keys()


def test_wrong_steps_of_correct_answers_are_counted(files: dict[str, Any]) -> None:
    """Before and after re-balancing: these responses all have a line that is not a step."""
    zero, *trained = (it["spurious"] for it in json.loads(files["report.json"])["iterations"])
    assert zero is None
    for found in trained:
        assert found["first_round"]["n"] > 100 and found["examples"]["n"] > 0
        assert found["first_round"]["share"] == found["examples"]["share"] == 1
    assert "Correct answers reached by wrong steps" in files["report.md"].decode()


def test_page_is_self_contained(store: FolderStore, runs: Any, files: dict[str, Any]) -> None:
    """No address to load anything from, and a policy that forbids it; the report's one script is
    the one that the policy names by its hash, and the comparison has none."""
    comparison = page(compare(store, [Named(*run) for run in runs.items()]))
    report = files["report.html"].decode()
    for text in (report, comparison):
        assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
        loads = _Loads()
        loads.feed(text)
        assert loads.tags.isdisjoint({"iframe", "object", "embed", "base"})
        assert loads.addresses
        followed = {PAPER} if text == report else set()  # only by a reader who clicks
        assert loads.links - set(loads.addresses) == followed
        assert all(address.startswith(("data:", "#")) for address in loads.addresses)
        assert ("script" in loads.tags) == (text == report)
    scripts = re.findall(r"<script>(.*?)</script>", report, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert re.findall(r"script-src '([^;]*)';", report) == [f"sha256-{d}" for d in digests]
    assert len(re.findall(r"<script", report)) == 2  # and the block of data


def test_a_copy_may_show_more(files: dict[str, Any]) -> None:
    """A copy outside of the store has the run's name in title and heading, what is known about it
    in the head, and more in the section on cost, all escaped; the rest stays as it was."""
    html = files["report.html"].decode()
    table = Table("Spent", ["stage", "<b>"], [["explore", "<script>"]])
    sections = [Section("times", "Times & costs", "Seconds.", tables=[table])]
    more = extended(html, sections, "a<b>", [("Date", "<i>1999")])
    matched = SequenceMatcher(None, html.split("\n"), more.split("\n"), False).get_opcodes()
    changes = ["\n".join(more.split("\n")[a:b]) for kind, _, _, a, b in matched if kind != "equal"]
    title, head, times = changes
    assert title.startswith("<title>a&lt;b&gt;: ") and head.startswith("<h1>a&lt;b&gt;: ")
    assert "<div><dt>Date</dt><dd>&lt;i&gt;1999</dd></div>" in head
    assert "Times &amp; costs" in times and "&lt;script&gt;" in times and "<script" not in times
    start = more.index('<div id="times">')
    assert more.index('<section id="spent">') < start < more.index('<section id="samples">')
    assert more.count("</section>") == html.count("</section>")


def test_pages_stored_before_may_show_more() -> None:
    """A page that an older version stored gets its times, too."""
    old = "<title>x</title><!-- more sections -->\n"
    assert 'id="times"' in extended(old, [Section("times", "Times", "Seconds.")])


class _Loads(HTMLParser):
    """Collects a page's tags and every address in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if (tag, name) == ("a", "href"):
                self.links.add(value or "")
                if value == PAPER:
                    continue
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.addresses.append(value or "")
            self.addresses += re.findall(r"url\(([^)]*)", value or "")


def test_untrusted_text_is_escaped(files: dict[str, Any]) -> None:
    """Tags in questions and responses arrive as text, in the page and in the Markdown."""
    text = files["report.html"].decode()
    assert "&lt;script&gt;window.pwned" in text
    for hostile in HOSTILE:
        tag = re.match(r"<\w+[ >]", hostile)
        assert tag is None or hostile not in text
    assert "window.pwned" not in files["report.md"].decode()


def test_guided_prefix_is_marked(files: dict[str, Any]) -> None:
    """The part of a guided response that was given is set apart from what the policy wrote."""
    text = files["report.html"].decode()
    assert re.search(r"<pre><mark>[^<]+</mark>[^<]+</pre>", text)


def test_every_plot_says_what_it_shows(files: dict[str, Any]) -> None:
    """Under each plot stands what to look for, and what this run shows."""
    text = files["report.html"].decode()
    plots = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    said = [re.search(r"<figcaption>(.+?) <b>Here:</b> (.+?)</figcaption>", plot) for plot in plots]
    assert len(plots) > 10
    assert all(said)
    assert len({match[1] for match in said}) >= len(plots) - 1  # test and dev ask the same


def test_headline_numbers_have_intervals(files: dict[str, Any]) -> None:
    """Accuracies come with Wilson's interval, differences to policy 0 with the paired bootstrap's,
    in the page, the tables and the JSON."""
    said = json.loads(files["report.json"])
    zero, last = said["iterations"][0]["scores"]["test"], said["iterations"][-1]["scores"]["test"]
    low, high = said["intervals"][-1]["test"]["accuracy"]["all"]
    assert [low, high] == list(wilson(last["correct"], last["n"]))
    assert low < last["accuracy"] < high
    low, high = said["intervals"][-1]["test"]["difference"]
    assert low <= last["accuracy"] - zero["accuracy"] <= high
    assert said["intervals"][0]["test"]["difference"] == [0, 0]
    text = files["report.html"].decode().replace("\u00a0", " ")
    assert percents(wilson(zero["correct"], zero["n"])) in text
    assert "Against policy 0, query by query, on test" in files["report.md"].decode()


def test_a_run_without_iterations_has_a_report(
    store: FolderStore, runs: Any, tmp_path: Path
) -> None:
    """Policy 0's scores alone make a page, and its words claim nothing."""
    refs = {
        role: ref for role, ref in runs["gr+rp"].items() if role in ("data", "levels", "scores-0")
    }
    files = _report(store, refs, tmp_path, 0)
    assert "nothing has been trained yet" in files["report.md"].decode()
    assert b"nothing has been trained yet" in files["report.html"]
    with pytest.raises(DataError):
        collect(store, {"data": refs["data"]})


def test_strategy_is_read_from_what_was_done(store: FolderStore, runs: Any) -> None:
    """A summary names the strategy by the draws and examples that were made, not by the run."""
    assert collect(store, runs["vanilla"]).strategy == "vanilla"
    assert collect(store, runs["gr+rp"]).strategy == "gr+rp"
    assert collect(store, runs["gr+rp"]).k == 8


def test_comparison_counts_queries(store: FolderStore, runs: Any) -> None:
    """Side by side: each run's test accuracy, and won and lost queries that add up to it."""
    made = compare(store, [Named(*run) for run in runs.items()])
    tables = {table.title: table for table in made.tables}
    (row, *_) = tables["Query by query against vanilla, on test"].rows
    first, second = (run.iterations[run.best_trained or 0] for _, run in made.runs)
    difference = second.scores["test"]["correct"] - first.scores["test"]["correct"]
    assert int(row[7]) - int(row[8]) == difference
    assert row[2:4] == ["all", str(first.scores["test"]["n"])]
    assert [name for name, _ in made.words] == ["vanilla", "gr+rp", "gr+rp against vanilla"]
    assert all(len(r) == len(t.columns) for t in made.tables for r in t.rows)
    json.dumps(made.to_json())


def _run(
    *shares: tuple[float, float], right: tuple[str, ...] = ("a", "ab"), total: int = 100_000
) -> RunSummary:
    """A run with these (head, tail) shares of successes, and these queries right."""
    iterations = []
    for t in range(len(shares) + 1):
        known = {q: q in right[min(t, len(right) - 1)] for q in "abcdefghij"}
        correct = sum(known.values())
        part = {
            "n": 10,
            "correct": correct,
            "accuracy": correct / 10,
            "by_level": {},
            "tokens_mean": 1.0,
        }
        metrics = None
        if t:
            head, tail = shares[t - 1]
            by_level = dict.fromkeys(LEVELS, 0.0) | {"L1": head, "U": tail, "L3": 1 - head - tail}
            figures = {"share_by_level": by_level, "total": total}
            metrics = dict.fromkeys(("successes", "examples"), figures)
        scores = {"dev": part, "test": part}
        iterations.append(Iteration(t, scores, {"dev": known, "test": known}, metrics, {}))
    return RunSummary("vanilla", 8, "data/x", tuple(iterations))


@pytest.mark.parametrize(
    ("shares", "seen"),
    [
        ([(0.50, 0.05), (0.60, 0.02)], "yes"),
        ([(0.50, 0.05), (0.60, 0.05)], "partly"),
        ([(0.50, 0.05), (0.50, 0.02)], "partly"),
        ([(0.50, 0.05), (0.505, 0.045)], "no"),
        ([(0.60, 0.02), (0.50, 0.05)], "no"),
        ([(0.50, 0.05), (0.70, 0.01), (0.50, 0.05)], "no"),
        ([(0.50, 0.05)], "unknown"),
        ([], "unknown"),
    ],
)
def test_matthew_effect_is_called_by_its_rule(shares: Any, seen: str) -> None:
    """Seen when the head's share grew and the tail's fell, each by more than a point; else not."""
    assert matthew(_run(*shares)).seen == seen


def test_a_few_successes_show_no_effect() -> None:
    """What chance may do to the shares is not called a Matthew effect, however large."""
    shares = (0.50, 0.20), (0.60, 0.10)
    assert matthew(_run(*shares, total=1000)).seen == "yes"
    assert matthew(_run(*shares, total=40)).seen == "no"


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (("a", "abcdefghi"), "Held-out accuracy rose: 10.0 % to 90.0 %"),
        (("a", "ab"), "did not change measurably"),
        (("abcdefghi", "a"), "Held-out accuracy fell: 90.0 % to 10.0 % on test"),
        (("abcdefghi", "a"), "none beat policy 0 on dev"),
        (("a", "a"), "none beat policy 0 on dev"),
        (("a", "a"), "did not change measurably"),
    ],
)
def test_progress_is_claimed_only_beyond_chance(right: tuple[str, ...], words: str) -> None:
    """A gain of one query in ten is no rise; nor is one that dev did not choose."""
    assert words in progress(_run((0.5, 0.1), right=right))


def test_a_fall_after_the_best_iteration_is_told() -> None:
    """A run that rose and then fell says both; one that stayed says nothing of its last
    iteration."""
    fell = progress(_run((0.5, 0.1), (0.5, 0.1), right=("a", "abcdefghij", "ab")))
    assert fell.startswith("Held-out accuracy rose: 10.0 % to 100.0 % on test")
    assert "From there it fell to 20.0 % at the last iteration" in fell
    stayed = progress(_run((0.5, 0.1), (0.5, 0.1), right=("a", "abcdefghij", "abcdefghi")))
    assert "From there" not in stayed


def test_rebalancing_says_when_nothing_was_moved() -> None:
    """Examples that equal the successes are called unchanged."""
    assert "unchanged successes" in rebalanced(_run((0.5, 0.1)))


def _resampled(
    rates: tuple[float, float], given: tuple[float, float], examples: tuple[float, float]
) -> RunSummary:
    """A run with a second round: pass rates of 50 head and 50 tail queries in the first, and the
    (head, tail) shares of both rounds' successes and of the examples."""
    run = _run(given, given)
    by_level = dict.fromkeys(LEVELS, 0.0)
    figures = {
        what: {"share_by_level": by_level | {"L1": head, "U": tail}, "total": 100}
        for what, (head, tail) in (("successes", given), ("examples", examples))
    }
    figures["queries_by_level"] = dict.fromkeys(LEVELS, 0) | {"L1": 50, "U": 50}
    figures["accuracy_by_level"] = dict.fromkeys(LEVELS) | {"L1": rates[0], "U": rates[1]}
    its = [replace(it, metrics=it.metrics and figures) for it in run.iterations]
    its[1] = replace(its[1], spent={"samples_2": 10})
    return replace(run, iterations=tuple(its), strategy="gr+rp")


@pytest.mark.parametrize(
    ("given", "words"),
    [((0.6, 0.4), "with it 60.0 % and 40.0 %."), ((0.9, 0.1), "with it 90.0 % and 10.0 %.")],
)
def test_a_second_round_is_compared_with_the_first_alone(given: Any, words: str) -> None:
    """Resampling is judged by what vanilla would have trained on, in whichever direction it went;
    a reshaping strategy on top is told apart."""
    said = rebalanced(_resampled((0.8, 0.2), given, given))
    assert "Without the second round the head would have been 80.0 %, the tail 20.0 %" in said
    assert words in said and "From successes" not in said
    both = rebalanced(_resampled((0.8, 0.2), given, (0.5, 0.5)))
    assert f"gr+rp moved the head's share from {percent(given[0])} to 50.0 %" in both


def test_unreadable_answers_are_told_beyond_a_third() -> None:
    """The judge's warning stands on the page if more than a third of a round cannot be read."""
    run = _run((0.5, 0.1), (0.5, 0.1))
    few, many = (
        replace(run, iterations=(*run.iterations[:2], replace(run.iterations[2], unread=share)))
        for share in (0.33, 0.5)
    )
    assert unread(few) == ""
    assert unread(many).startswith("In 1 of 2 iterations, more than a third")
    assert "50.0 %, iteration 2" in unread(many)
    assert words(many)[0][0] == "Warning"


def test_levels_of_one_sample_mean_nothing() -> None:
    """Levels from one sample a query are called meaningless; from more they are not."""
    run = _run((0.5, 0.1))
    assert "mean nothing" in dict(words(replace(run, level_samples=1)))["Warning"]
    assert words(replace(run, level_samples=16))[0][0] == "Held-out accuracy"


def test_losses_are_compared_by_quarters() -> None:
    """One noisy step does not make a training look worse."""
    assert ends([0.5, 0.4, 0.4, 0.3, 0.3, 0.2, 0.1, 0.9]) == (0.45, 0.5)
    assert ends([0.4]) == (0.4, 0.4) and ends([]) is None


def test_figures_are_printed_alike() -> None:
    """Rounding does not depend on how a number was come by."""
    assert points(0.6 - 0.4625) == points(11 / 80) == "+13.8 points"
    assert points(-0.05) == "−5.0 points"
    assert percent(None) == "–"


def test_plots_ignore_the_machines_settings(tmp_path: Path) -> None:
    """A matplotlibrc of one's own, or a hash seed, does not change a plot's bytes."""
    (tmp_path / "matplotlibrc").write_text(
        "lines.linewidth: 9\naxes.facecolor: red\nsvg.fonttype: path"
    )
    code = (
        "from si.report.plots import *;"
        "print(lines('a', 'A <b> & $x$', [0, 1],"
        " [Line('L1', [0.1, None], 'L1'), Line('U', [0.2, 0.4], 'U')]))"
    )
    made = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            cwd=folder,
            env={
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": str(ROOT),
                "MPLCONFIGDIR": str(tmp_path / "cache"),
            },
        ).stdout
        for folder, seed in ((tmp_path, "1"), (ROOT, "2"))
    ]
    assert made[0] == made[1]
    assert b"A &lt;b" in made[0]
    assert b"var(--L1)" in made[0]


def test_only_pixels_pass() -> None:
    """Images are decoded and encoded anew: SVG, text, bombs and broken files are left out."""
    file = io.BytesIO()
    Image.new("RGB", (2000, 500), "red").save(file, "PNG")
    picture = embed(file.getvalue() + b"<script>alert(1)</script>")
    assert picture is not None
    assert picture.uri.startswith("data:image/png;base64,")
    assert picture.width == PIXELS
    gif = io.BytesIO()
    Image.new("RGB", (20, 20)).save(gif, "GIF")
    for bad in (
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        gif.getvalue(),
        file.getvalue()[:60],
    ):
        assert embed(bad) is None


def test_matplotlib_is_left_alone_until_a_page_is_made() -> None:
    """Importing the stages costs no matplotlib, no math-verify and no browser's worth of jinja."""
    code = (
        "import sys, si.stages.verify, si.stages.evaluate, si.stages.report, si.report.compare;"
        "print([m for m in ('matplotlib', 'sympy', 'math_verify', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
