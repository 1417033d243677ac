"""The page of `diagnose` in a real browser: it loads alone, fits, and runs nobody's script."""

from pathlib import Path
from typing import Any

import pytest

import si
from tests.browser.made_up import HOSTILE
from tests.browser.test_report import browser, pytestmark
from tests.unit.rollout_files import lines, samples

__all__ = ["browser", "pytestmark"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diagnosis whose file, columns and rows are all full of hostile text."""
    folder = tmp_path_factory.mktemp("diagnose") / "<img src=x onerror='window.pwned = 8'>"
    rows = [
        {
            "query_id": f"{HOSTILE[s.query]}{s.query}",
            "step": s.step,
            HOSTILE[1]: int(s.right),
            "response": HOSTILE[2] + s.response,
        }
        for s in samples()
    ]
    lines(folder / "x.jsonl", [*rows, rows[0] | {HOSTILE[1]: HOSTILE[0]}])
    path = tmp_path_factory.mktemp("page") / "diagnosis.html"
    path.write_text(si.diagnose(folder, map={"reward": HOSTILE[1]}, skip_bad=True).page())
    return path


@pytest.fixture
def opened(page: Path, browser: Any) -> Any:
    browser.set_window_size(1200, 1000)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())
    return browser


def test_asks_nobody_and_logs_nothing(opened: Any, page: Path) -> None:
    """The page itself is all that is fetched, and the console stays empty."""
    sent = [str(entry) for entry in opened.get_log("performance")]
    sent = [entry for entry in sent if 'Network.requestWillBeSent"' in entry]
    assert sent
    assert not [entry for entry in sent if page.name not in entry and '"url":"data:' not in entry]
    assert list(opened.get_log("browser")) == []


def test_has_plots_with_names_and_numbers_beside(opened: Any) -> None:
    """Every section has a heading, its plots have names, and their numbers are in tables."""
    headings = opened.execute_script(
        "return [...document.querySelectorAll('h2')].map(h => h.textContent)"
    )
    wanted = {"Who feeds the training", "Over steps", "What K buys"}
    assert wanted | {"What each strategy would change"} <= set(headings)
    names = opened.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(s => [s.getAttribute('role'),"
        " s.querySelector('title').textContent, s.getBoundingClientRect().width])"
    )
    assert len(names) == 6
    assert all(role == "img" and title and width > 150 for role, title, width in names)
    assert opened.execute_script("return document.querySelectorAll('table tbody tr').length") > 10
    ids = opened.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("width", [400, 1200])
def test_fits_the_window(opened: Any, width: int) -> None:
    """The page itself never scrolls sideways, not on a phone either."""
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    opened.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    wide, inner = opened.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert inner == width
    assert wide <= inner


def test_hostile_text_stays_text(opened: Any) -> None:
    """Scripts in names of files and columns and in rows do not run, and are shown as they are."""
    assert opened.execute_script("return window.pwned") is None
    selector = "script, iframe, object, embed, img, [onload], [onerror], [onfocus]"
    assert opened.execute_script(f"return document.querySelectorAll('{selector}').length") == 0
    shown = opened.execute_script("return document.body.textContent")
    assert "<img src=x onerror='window.pwned = 8'>" in shown
    assert HOSTILE[1] in shown and HOSTILE[0] in shown
