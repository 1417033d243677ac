"""The report's sample browser in a real one: it finds, shows, links, and runs nobody's script."""

import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from si.config.recipe import Report
from si.report.lineage import lineage
from si.report.page import page
from si.report.sample_block import opening
from si.report.samples import GREEDY, GUIDED, Responses, gather
from si.report.summary import collect
from si.stages.job import Job
from si.stages.report import report
from si.store.folder import FolderStore
from tests.browser.made_up import HOSTILE, make_run, report_spec
from tests.browser.test_report import browser, pytestmark

__all__ = ["browser", "pytestmark"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report as a file, and what its browser has to show."""
    folder = tmp_path_factory.mktemp("samples")
    store = FolderStore(folder / "store")
    refs = make_run(store, folder, "gr+rp", 2, hostile=True)
    spec = report_spec(refs, "gr+rp", 2)
    path = folder / "report.html"
    path.write_bytes(report(Job(store, spec, folder))(0).files["report.html"])
    shown = gather(store, refs, folder / "scratch", 0, 10_000, 2.0, 2.0)
    return {"page": path, "shown": shown, "store": store, "refs": refs, "spec": spec}


@pytest.fixture(scope="module")
def shown(made: dict[str, Any]) -> Responses:
    responses: Responses = made["shown"]
    return responses


def ready(driver: Any, url: str) -> Any:
    """Open a page anew, and wait for its sample browser."""
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(url)
    WebDriverWait(driver, 30).until(lambda d: d.find_element(By.ID, "browser").is_displayed())
    return driver


@pytest.fixture
def opened(made: dict[str, Any], browser: Any) -> Any:
    browser.set_window_size(1200, 1000)
    return ready(browser, made["page"].as_uri())


def count(driver: Any) -> int:
    """How many samples the page says that it found."""
    words = driver.find_element(By.ID, "found").text
    return 0 if words.startswith("No ") else int(words.split(" of ")[0].replace(",", ""))


def choose(driver: Any, **values: str) -> None:
    """Set filters as a user does, and wait for the typed one."""
    driver.execute_script(
        """const form = document.querySelector('#browser form');
        for (const box of form.elements.level) box.checked = false;
        for (const [name, value] of Object.entries(arguments[0])) {
          if (name === 'level') {
            const levels = value.split(',');
            for (const box of form.elements.level) box.checked = levels.includes(box.value);
          } else form.elements[name].value = value;
        }
        form.dispatchEvent(new Event('change', {bubbles: true}));""",
        dict.fromkeys(("verdict", "how", "t", "split", "family", "used", "text"), "") | values,
    )


@pytest.fixture
def at_first(opened: Any) -> Any:
    """The page at its first sample, wherever it opened: a filter leaves a sample that fits it."""
    opened.find_element(By.ID, "list").send_keys(Keys.HOME)
    return opened


def chosen(driver: Any) -> str:
    """The address of the sample that is shown, as its link has it."""
    link = driver.find_element(By.CSS_SELECTOR, "#shown a").get_attribute("href")
    return urllib.parse.unquote(link.partition("at=")[2])


def address(shown: Responses, i: int) -> str:
    r = shown.responses[i]
    query = shown.queries[r.query].query_id
    return f"{r.t}/{r.how}/{query}/{r.prefix_id}/{r.sample}"


def test_works_from_a_file_and_is_quiet(opened: Any, shown: Responses) -> None:
    """Opened from the disk, all samples are there and the console stays empty."""
    assert count(opened) == len(shown.responses)
    assert chosen(opened) == address(shown, opening(shown) or 0)
    assert list(opened.get_log("browser")) == []
    assert opened.find_element(By.CLASS_NAME, "few").is_displayed() is False


FILTERS: list[tuple[dict[str, str], Any]] = [
    ({"level": "L5,U"}, lambda q, r: q.level in ("L5", "U")),
    ({"verdict": "incorrect"}, lambda q, r: not r.correct),
    ({"how": "guided"}, lambda q, r: r.how == GUIDED),
    ({"how": "greedy", "t": "0"}, lambda q, r: r.how == GREEDY and r.t == 0),
    ({"t": "2", "split": "train"}, lambda q, r: r.t == 2 and q.split == "train"),
    ({"family": HOSTILE[0]}, lambda q, r: q.family == HOSTILE[0]),
    ({"used": "yes", "verdict": "correct"}, lambda q, r: r.copies > 0 and r.correct),
    ({"used": "no", "level": "L1"}, lambda q, r: not r.copies and q.level == "L1"),
    ({"text": "onErrOr answer"}, lambda q, r: _text(q, r, "onerror") and _text(q, r, "answer")),
    ({"text": "no response says this"}, lambda q, r: False),
]


def _text(query: Any, response: Any, words: str) -> bool:
    parts = (query.question, response.given + response.text, response.extracted or "")
    return words in "\n".join((*parts, query.answer, query.family, query.query_id)).lower()


@pytest.mark.parametrize("values,wanted", FILTERS, ids=[json.dumps(f[0])[:40] for f in FILTERS])
def test_filters_find_what_they_say(
    at_first: Any, shown: Responses, values: dict[str, str], wanted: Any
) -> None:
    """Each filter leaves exactly the samples that are like that."""
    choose(at_first, **values)
    right = [r for r in shown.responses if wanted(shown.queries[r.query], r)]
    assert count(at_first) == len(right)
    if right:
        assert chosen(at_first) == address(shown, shown.responses.index(right[0]))


def test_typing_filters(opened: Any, shown: Responses) -> None:
    """Text that is typed filters without a further key."""
    opened.find_element(By.NAME, "text").send_keys("onload")
    wanted = sum(_text(shown.queries[r.query], r, "onload") for r in shown.responses)
    assert 0 < wanted < len(shown.responses)
    WebDriverWait(opened, 10).until(lambda d: count(d) == wanted)


def test_keys_move_through_the_samples(at_first: Any, shown: Responses) -> None:
    """j and k, arrows, Home and End move on from the list; / goes to the text, Enter back."""
    listed = at_first.find_element(By.ID, "list")
    listed.send_keys("jj" + Keys.ARROW_DOWN)
    assert chosen(at_first) == address(shown, 3)
    listed.send_keys("k" + Keys.ARROW_UP)
    assert chosen(at_first) == address(shown, 1)
    listed.send_keys(Keys.END)
    assert chosen(at_first) == address(shown, len(shown.responses) - 1)
    listed.send_keys("j")
    assert chosen(at_first) == address(shown, len(shown.responses) - 1)
    listed.send_keys(Keys.HOME + Keys.PAGE_DOWN)
    assert chosen(at_first) != address(shown, 0)
    listed.send_keys("/")
    field = at_first.switch_to.active_element
    assert field.get_attribute("name") == "text"
    field.send_keys("j", Keys.ENTER)
    assert field.get_attribute("value") == "j"
    assert at_first.switch_to.active_element.get_attribute("id") == "list"


def test_the_list_names_the_chosen_one(at_first: Any) -> None:
    """The option that the list calls active is in the page and selected, out of sight too."""
    script = """const list = document.getElementById('list');
      const row = document.getElementById(list.getAttribute('aria-activedescendant'));
      return row && [row.getAttribute('aria-selected'), row.getAttribute('aria-posinset')]"""
    at_first.find_element(By.ID, "list").send_keys("jjjj")
    assert at_first.execute_script(script) == ["true", "5"]
    at_first.execute_script("document.getElementById('list').scrollTop = 1e6")
    at_first.execute_async_script(
        "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
    )
    assert at_first.execute_script(script) == ["true", "5"]


def test_a_link_opens_its_sample(made: dict[str, Any], browser: Any, shown: Responses) -> None:
    """Filters and sample stand in the address, and the address brings them back."""
    ready(browser, made["page"].as_uri())
    choose(browser, level="L1", how="guided", verdict="correct")
    browser.find_element(By.ID, "list").send_keys("jj")
    WebDriverWait(browser, 10).until(lambda d: chosen(d) in urllib.parse.unquote(d.current_url))
    there, url, n = chosen(browser), browser.current_url, count(browser)
    ready(browser, url)
    assert (chosen(browser), count(browser)) == (there, n)
    lost = url.partition("#")[0] + "#samples?at=" + urllib.parse.quote("9/first/gone//0")
    ready(browser, lost)
    assert "does not contain the linked sample" in browser.find_element(By.ID, "found").text


def test_a_guided_prefix_is_marked(at_first: Any, shown: Responses) -> None:
    """What was given is marked, and the marked and the written part are the stored ones."""
    choose(at_first, how="guided")
    response = next(r for r in shown.responses if r.how == GUIDED)
    pre = at_first.find_element(By.CSS_SELECTOR, "#shown pre")
    assert pre.find_element(By.TAG_NAME, "mark").get_property("textContent") == response.given
    assert pre.get_property("textContent") == response.given + response.text
    assert "given" in at_first.find_element(By.ID, "shown").text


def test_facts_of_a_sample(opened: Any, shown: Responses) -> None:
    """Reference, found answer, how they were compared, and use in training stand beside it."""
    choose(opened, used="yes", how="first", t="2")
    first = [r for r in shown.responses if r.how == "first" and r.t == 2]
    first = [r for r in shown.responses if r.how == "first" and r.t == 2]
    response = max(first, key=lambda r: r.copies)
    query = shown.queries[response.query]
    at = address(shown, shown.responses.index(response))
    opened.execute_script(f"location.hash = '#samples?at={urllib.parse.quote(at)}'")
    WebDriverWait(opened, 10).until(lambda d: chosen(d) == at)
    script = """return Object.fromEntries([...document.querySelectorAll('#shown .facts div')]
      .map(d => [d.children[0].textContent, d.children[1].textContent]))"""
    facts = opened.execute_script(script)
    assert facts["Reference"] == query.answer
    assert facts["Extracted"] == response.extracted
    assert facts["Trained on"] == f"{response.copies} copies"
    assert facts["Length"] == f"{response.tokens} tokens"
    marks = opened.find_elements(By.CSS_SELECTOR, "#shown .strip button")
    assert len(marks) == sum(r.query == response.query for r in shown.responses)
    next(mark for mark in marks if not mark.get_attribute("aria-current")).click()
    there = shown.responses[[address(shown, i) for i in range(count(opened))].index(chosen(opened))]
    assert there != response
    assert there.query == response.query


def test_nothing_that_was_sampled_runs(opened: Any, shown: Responses) -> None:
    """Scripts in questions, responses, answers and families stay text, sample by sample."""
    listed = opened.find_element(By.ID, "list")
    for text in ("script", "onload", "javascript", "iframe", "onerror"):
        choose(opened, text=text)
        assert count(opened)
        listed.send_keys("j" * 12)
    script = """return [window.pwned ?? null, document.scripts.length,
      document.querySelectorAll('iframe, object, embed, a[href^=javascript], [onload], [onerror],'
        + ' [onfocus]').length, [...document.querySelectorAll('#shown *')].map(e => e.tagName)]"""
    pwned, scripts, bad, tags = opened.execute_script(script)
    assert (pwned, scripts, bad) == (None, 2, 0)
    allowed = {"DIV", "SPAN", "I", "IMG", "P", "H3", "PRE", "MARK", "DL", "DT", "DD", "A", "BUTTON"}
    assert set(tags) <= allowed
    families = opened.execute_script(
        "return [...document.querySelector('[name=family]').options].map(o => o.textContent)"
    )
    assert set(HOSTILE[:2]) < set(families)
    choose(opened, family=HOSTILE[0], how="first")
    response = next(
        r
        for r in shown.responses
        if r.how == "first" and shown.queries[r.query].family == HOSTILE[0]
    )
    pre = opened.find_element(By.CSS_SELECTOR, "#shown pre").get_property("textContent")
    assert pre == response.text
    asked = opened.find_element(By.CSS_SELECTOR, "#shown .question").get_property("textContent")
    assert asked == shown.queries[response.query].question
    assert list(opened.get_log("browser")) == []


def test_its_policy_stops_scripts(opened: Any) -> None:
    """Even markup that got into the page by a mistake of ours would not run: the policy forbids all
    scripts but ours, and assigning markup at all."""
    outcome = opened.execute_async_script(
        """const done = arguments[0];
        const script = document.createElement('script');
        let threw = 0;
        try { script.text = 'window.pwned = 20'; } catch { threw += 1; }
        try { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="pwned = 21">'); }
        catch { threw += 1; }
        const image = document.createElement('img');
        try { image.setAttribute('onerror', 'window.pwned = 22'); } catch { threw += 1; }
        image.src = 'data:image/png;base64,AAAA';
        document.body.append(script, image);
        setTimeout(() => { image.remove(); done([window.pwned ?? null, threw]); }, 300);"""
    )
    opened.get_log("browser")
    assert outcome == [None, 3]


def test_without_javascript_all_but_the_browser_is_there(
    made: dict[str, Any], browser: Any
) -> None:
    """Words, plots, tables, lineage and a few responses need no script."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(made["page"].as_uri())
        tree = browser.execute_cdp_cmd(
            "DOMSnapshot.captureSnapshot", {"computedStyles": ["display"]}
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    strings, (document, *_) = tree["strings"], tree["documents"]
    nodes, layout = document["nodes"], document["layout"]
    laid_out = set(layout["nodeIndex"])
    drawn: dict[str, bool] = {}
    for index, attributes in enumerate(nodes["attributes"]):
        pairs = [strings[i] for i in attributes]
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            if name in ("id", "class"):
                drawn[value] = drawn.get(value, False) or index in laid_out
    assert drawn["browser"] is False
    assert all(drawn[name] for name in ("few", "sample", "plot", "findings", "lineage", "accuracy"))
    words = " ".join(strings[i] for i in layout["text"] if i >= 0)
    assert "enable JavaScript" in words


def test_on_paper_a_few_responses_are_printed(opened: Any) -> None:
    """Printed, the browser and the navigation give way to the few responses of the page."""
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        visible = {
            name: opened.find_element(By.CSS_SELECTOR, name).is_displayed()
            for name in ("#browser", ".contents", ".few", ".findings")
        }
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert visible == {"#browser": False, ".contents": False, ".few": True, ".findings": True}


@pytest.fixture(scope="module")
def many(made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A page with ten thousand samples."""
    shown, spec = made["shown"], made["spec"]
    times = -(-10_000 // len(shown.responses))
    responses = [
        response._replace(sample=response.sample + 1000 * time)
        for time in range(times)
        for response in shown.responses
    ][:10_000]
    run = collect(made["store"], made["refs"])
    nodes = lineage(made["store"], made["refs"])
    html = page(run, spec.settings, Report(), shown._replace(responses=responses), nodes)
    path = tmp_path_factory.mktemp("many") / "report.html"
    path.write_text(html)
    yield path


def test_ten_thousand_samples_are_few_elements(many: Path, browser: Any) -> None:
    """However many samples there are, only the rows in sight are in the page; the last one is an
    End away, and the page's file stays small."""
    ready(browser, many.as_uri())
    assert count(browser) == 10_000
    elements = "return document.getElementById('list').querySelectorAll('.row').length"
    assert 5 < browser.execute_script(elements) < 40
    browser.find_element(By.ID, "list").send_keys(Keys.END)
    assert 5 < browser.execute_script(elements) < 40
    last = browser.find_element(By.CSS_SELECTOR, "#list [aria-selected=true]")
    assert last.get_attribute("aria-posinset") == "10000"
    assert last.is_displayed()
    choose(browser, text="step")
    assert browser.execute_script(elements) < 40
    assert many.stat().st_size < 3_000_000
