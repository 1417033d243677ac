"""The pages under axe-core, in a real browser: nothing serious or critical, in light and dark."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import si
from si.report.compare import Named, compare, page
from si.report.page import Section, extended
from si.report.tables import Table
from si.stages.job import Job
from si.stages.report import report
from si.store.folder import FolderStore
from tests.browser.made_up import make_run, report_spec
from tests.browser.test_report import browser, pytestmark
from tests.browser.test_samples import choose, ready
from tests.unit.rollout_files import lines, samples

__all__ = ["browser", "pytestmark"]

AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
axe = pytest.mark.skipif(
    not AXE.exists(), reason="no axe-core on this machine: npm ci --prefix tests/browser"
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    store = FolderStore(folder / "store")
    refs = {s: make_run(store, folder, s, 2) for s in ("vanilla", "gr+rp")}
    files = report(Job(store, report_spec(refs["gr+rp"], "gr+rp", 2), folder))(0).files
    table = Table("Seconds", ["iteration", "explore"], [["1", "2.0"]], "A note.")
    more = [Section("times", "Times", "Seconds of work.", tables=[table])]
    made = {"report": extended(files["report.html"].decode(), more)}
    made["compare"] = page(compare(store, [Named(*run) for run in refs.items()]))
    lines(
        folder / "rollouts.jsonl",
        [
            {"query_id": s.query, "step": s.step, "reward": int(s.right), "response": s.response}
            for s in samples()
        ],
    )
    made["diagnose"] = si.diagnose(folder / "rollouts.jsonl").page()
    for name, html in made.items():
        (folder / f"{name}.html").write_text(html)
    return {name: folder / f"{name}.html" for name in made}


@axe
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "compare", "diagnose"])
def test_axe_finds_nothing_serious(
    pages: dict[str, Path], browser: Any, name: str, theme: str
) -> None:
    """Contrast, landmarks, names, tables, alternative texts, focus: axe-core objects to nothing."""
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.set_window_size(1200, 1000)
    if name == "report":
        ready(browser, pages[name].as_uri())
        choose(browser, how="guided", verdict="incorrect")
    else:
        browser.get(pages[name].as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.execute_script(AXE.read_text())
    found = browser.execute_async_script(
        "const done = arguments[0]; axe.run(document).then(r => done([r.violations.map(v => "
        "[v.impact, v.id, v.nodes.slice(0, 4).map(n => n.html + ' ' + n.failureSummary)]),"
        " r.passes.map(p => p.id)]))"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    violations, passes = found
    assert violations == []
    assert {"color-contrast", "landmark-one-main", "region", "html-has-lang"} <= set(passes)


def test_tab_goes_through_the_page_in_its_order(pages: dict[str, Path], browser: Any) -> None:
    """Tab reaches contents, filters, list and sample in the order in which they are seen, and shows
    where it is."""
    ready(browser, pages["report"].as_uri())
    tops, kinds, outlines = [], [], []
    for _ in range(45):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        place = browser.execute_script(
            """const e = document.activeElement, box = e.getBoundingClientRect();
            const shown = e.matches('.pick input') ? e.nextElementSibling : e;
            return [box.top + scrollY, e.closest('nav') ? 'nav' : e.id || e.name || e.tagName,
              getComputedStyle(shown).outlineStyle, e.closest('nav') !== null]"""
        )
        if not place[3]:
            tops.append(place[0])
        kinds.append(place[1])
        outlines.append(place[2])
        if "shown" in kinds:
            break
    assert kinds.index("nav") < kinds.index("level") < kinds.index("text") < kinds.index("list")
    assert kinds.index("list") < kinds.index("shown")
    assert all(style != "none" for style in outlines)
    assert all(after > before - 60 for before, after in pairwise(tops))


def test_the_contents_lead_to_every_section(pages: dict[str, Path], browser: Any) -> None:
    """Each section under a heading of the second order is in the contents, also an added one, and
    every link within the page has a target."""
    ready(browser, pages["report"].as_uri())
    listed = browser.execute_script(
        "return [...document.querySelectorAll('.contents a')].map(a => a.hash.slice(1))"
    )
    sections = [
        s.get_attribute("id") for s in browser.find_elements(By.CSS_SELECTOR, "main > section")
    ]
    assert listed == sections
    lost = browser.execute_script(
        "return [...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))"
        ".filter(id => !id.startsWith('samples?') && !document.getElementById(id))"
    )
    assert lost == []
    closed = browser.find_element(By.CSS_SELECTOR, "#lineage details")
    browser.find_element(By.CSS_SELECTOR, "#lineage .flow a").click()
    assert closed.get_attribute("open") is not None
