"""The report and the comparison in a real browser: they load, fit, and run nobody's script."""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from si.report.compare import Named, compare, page
from si.stages.job import Job
from si.stages.report import report
from si.store.folder import FolderStore
from tests.browser.made_up import HOSTILE, make_run, report_spec

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver on this machine (Debian: chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A report full of hostile text and a comparison, served by a server that notes requests."""
    folder = tmp_path_factory.mktemp("site")
    store = FolderStore(folder / "store")
    refs = {s: make_run(store, folder, s, 2, hostile=True) for s in ("vanilla", "gr+rp")}
    spec = report_spec(refs["gr+rp"], "gr+rp", 2)
    (folder / "report.html").write_bytes(report(Job(store, spec, folder))(0).files["report.html"])
    runs = [(f"demo-{name.replace('+', '-')}", made) for name, made in refs.items()]
    (folder / "compare.html").write_text(page(compare(store, [Named(*run) for run in runs])))
    asked: list[str] = []

    class Noting(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Noting, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"url": f"http://127.0.0.1:{server.server_port}", "asked": asked, "folder": folder}
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--window-size=1200,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # A driver named by path: selenium then looks for none on the network.
    driver = Chrome(options, ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(params=["report", "compare"])
def opened(request: pytest.FixtureRequest, site: dict[str, Any], browser: Any) -> Iterator[Any]:
    browser.set_window_size(1200, 1000)
    browser.get_log("browser")
    browser.get_log("performance")
    site["asked"].clear()
    browser.get(f"{site['url']}/{request.param}.html")
    yield browser


def test_asks_nobody_and_logs_nothing(opened: Any, site: dict[str, Any]) -> None:
    """The page is the only request, and the console stays empty."""
    asked = list(site["asked"])
    assert asked in (["/report.html"], ["/compare.html"])
    sent = [str(entry) for entry in opened.get_log("performance")]
    sent = [entry for entry in sent if 'Network.requestWillBeSent"' in entry]
    assert sent
    assert not [entry for entry in sent if asked[0] not in entry and '"url":"data:' not in entry]
    assert list(opened.get_log("browser")) == []


def test_has_a_table_and_words_for_every_plot(opened: Any) -> None:
    """Headings are there, every plot has a name, and numbers stand beside the plots."""
    headings = opened.execute_script(
        "return [...document.querySelectorAll('h1,h2')].map(h => h.textContent)"
    )
    wanted = (
        {"Summary", "Held-out accuracy", "Training data by level", "Tables"}
        if "Tables" in headings
        else {"Held-out accuracy", "Samples", "Lineage"}
    )
    assert wanted <= set(headings)
    names = opened.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(s => [s.getAttribute('role'),"
        " s.querySelector('title').textContent, s.getBoundingClientRect().width])"
    )
    assert len(names) >= 6
    assert all(role == "img" and title and width > 150 for role, title, width in names)
    assert opened.execute_script("return document.querySelectorAll('table tbody tr').length") > 10


def test_ids_are_unique(opened: Any) -> None:
    """Many plots on one page do not share element ids: each one's clip paths are its own."""
    ids = opened.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("width", [400, 1200])
def test_fits_the_window(opened: Any, width: int) -> None:
    """The page itself never scrolls sideways; wide tables do, in their own box."""
    # A phone's width is below what a window can have: the device is emulated.
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


def test_hostile_text_stays_text(site: dict[str, Any], browser: Any) -> None:
    """Scripts in responses and questions do not run and are shown letter by letter."""
    browser.get(f"{site['url']}/report.html")
    assert browser.execute_script("return window.pwned") is None
    assert (
        browser.execute_script(
            "return document.querySelectorAll('iframe, object, embed, a[href^=javascript],"
            " [onload], [onerror], [onfocus]').length"
        )
        == 0
    )
    assert browser.execute_script("return document.scripts.length") == 2  # ours
    shown = browser.execute_script(
        "return [...document.querySelectorAll('pre, .question')].map(e => e.textContent).join('')"
    )
    assert sum(text.split("\x00")[0] in shown for text in HOSTILE) >= 4
    assert "49" not in browser.execute_script("return document.title")


def test_images_load_and_svg_images_are_left_out(site: dict[str, Any], browser: Any) -> None:
    """Every image shown is decoded pixels; what is no PNG or JPEG is not on the page."""
    browser.get(f"{site['url']}/report.html")
    widths, sources = browser.execute_script(
        "const all = [...document.images];"
        " return [all.map(i => i.naturalWidth), all.map(i => i.src)]"
    )
    assert len(widths) >= 6
    assert min(widths) > 0
    assert all(
        source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
        for source in sources
    )


def test_follows_the_dark_theme(site: dict[str, Any], browser: Any) -> None:
    """In the dark theme paper is dark, ink is light, and the plots' ink with them."""
    browser.get(f"{site['url']}/report.html")
    script = (
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('figure svg text')).fill]"
    )
    brightness = []
    for theme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        paper, ink = (
            sum(int(part) for part in colour[4:-1].split(","))
            for colour in browser.execute_script(script)
        )
        brightness.append(paper - ink)
    assert brightness[0] > 200
    assert brightness[1] < -200


def test_small(site: dict[str, Any]) -> None:
    """A report with a dozen samples is far below two megabytes."""
    assert (Path(site["folder"]) / "report.html").stat().st_size < 1_000_000
