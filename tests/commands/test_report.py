"""The whole page: as text, and in a browser, at the width of a phone and of a desk, light and dark."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from stages.commands.report import main, report
from stages.reports.inputs import read_inputs
from stages.studies.repository import Commit
from tests.events.helpers import ROOT
from tests.reports.made import NASTY, make_run

SECTIONS = ["answer", "metrics", "studies", "behaviours", "confidence", "training", "examples", "data", "model",
            "reproduce"]
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update")
FIGURES = 10


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), rename={"Checking the weather": NASTY})


@pytest.fixture(scope="module")
def page(paths):
    """The file that the command line writes."""
    given = [f"--{name}={getattr(paths, name)}" for name in ("params", "lock", "data", "metrics", "models")]
    out = paths.params.parent / "report.html"
    command = [sys.executable, "-m", "stages.report", "--out", out, "--pictures", out.parent / "pictures", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


class Parsed(HTMLParser):
    """Tags in balance, ids, links and everything that could ask a network."""

    def __init__(self, content):
        super().__init__()
        self.open, self.ids, self.links, self.names, self.values = [], [], [], [], []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self._note(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        self._note(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def _note(self, tag, attributes):
        self.names.append(tag)
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [value for key, value in attributes if key in ("href", "xlink:href", "src", "action", "srcset")]
        self.values += [value for key, value in attributes if not key.startswith("xmlns") and value]


def test_the_page_is_well_formed_and_its_ids_and_links_are_its_own(page):
    content = page.read_text(encoding="utf-8")
    root = ElementTree.fromstring(content.removeprefix("<!DOCTYPE html>"))
    parsed = Parsed(content)
    assert parsed.open == [] and root.tag == "html"
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert [section.get("id") for section in root.iter("section")] == SECTIONS
    assert not {"script", "link", "iframe", "img", "object", "form"} & set(parsed.names)
    assert not [value for value in parsed.values if "//" in value] and "@import" not in content
    assert not re.search(r"url\((?!#)", content)
    pictures = [element for element in root.iter() if element.get("role") == "img"]
    assert len(pictures) == FIGURES and all(len(picture.get("aria-label")) > 20 for picture in pictures)


def test_no_pseudonym_and_no_date_is_anywhere_in_the_page(page, paths):
    content = page.read_text(encoding="utf-8")
    for user in pl.read_parquet(paths.data / "events.parquet")["user"].unique():
        assert str(user) not in content and f"{user:x}" not in content
    assert not re.search(r"\b(19|20)\d\d-\d\d", content)


def test_names_out_of_the_log_are_text(page):
    content = page.read_text(encoding="utf-8")
    assert "<script" not in content and "&lt;script&gt;" in content


def test_a_simulated_log_is_called_so_at_every_table_and_figure(page):
    root = ElementTree.fromstring(page.read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>"))
    sections = [place for place in root.iter("section") if place.get("id") in ("answer", "metrics")]
    captions = [*root.iter("figcaption"), *(caption for place in sections for caption in place.iter("caption"))]
    assert len(captions) > FIGURES
    assert all("simulated log" in "".join(caption.itertext()) for caption in captions)


def test_pictures_are_written_small(page):
    pictures = list((page.parent / "pictures").iterdir())
    assert len(pictures) == FIGURES
    assert all(path.suffix == ".png" and path.stat().st_size < 120_000 for path in pictures)


def test_the_same_run_makes_the_same_page(paths):
    at = Commit("0" * 40, False)
    assert report(read_inputs(paths), at)[0] == report(read_inputs(paths), at)[0]


def test_examples_can_be_left_out_and_of_a_real_log_have_to_be_asked_for(paths):
    simulated = read_inputs(paths)
    real = replace(simulated, counts=simulated.counts | {"ingest": simulated.counts["ingest"] | {"format": "table"}})
    for inputs, asked, shown in ((simulated, False, False), (real, None, False), (real, True, True)):
        content, _ = report(inputs, Commit(None, False), with_examples=asked)
        assert ('id="examples"' in content) == shown and 'id="data"' in content


def test_nothing_is_written_where_nothing_has_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "--out", str(tmp_path / "report.html"), "--metrics", str(tmp_path)])
    with pytest.raises(ValueError, match="nothing to report before `dvc repro` has run"):
        main()
    assert not (tmp_path / "report.html").exists()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((found for name in names if (found := shutil.which(name))), "")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with a chromedriver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[test]'")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def show(browser, page, width, scheme):
    """Load the page at so many pixels, in the light or the dark scheme."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


# every element with text of its own, its colour and that of what it lies on, as the browser computes them
TEXTS = """
const parse = value => { const n = value.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const ground = element => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0) return colour;
  }
  return [255, 255, 255, 1];
};
return [...document.body.querySelectorAll('*')].filter(element =>
  [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
).map(element => {
  const style = getComputedStyle(element);
  const inside = element.closest('svg');
  return [inside ? 'svg' : element.tagName.toLowerCase(), parse(inside ? style.fill : style.color), ground(element)];
});
"""


def contrast(first, second):
    """WCAG 2.2's ratio of two colours `(r, g, b, …)`."""
    def luminance(colour):
        parts = [value / 255 for value in colour[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_in_a_browser(browser, page, width, scheme):
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what came before
    show(browser, page, width, scheme)
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"] for event in asked if event["method"] == "Network.requestWillBeSent"]
    # the browser's own start page may still be loading
    assert {event["request"]["url"] for event in asked if event["documentURL"] == page.as_uri()} == {page.as_uri()}
    assert not [event for event in asked if event["request"]["url"].startswith("http")]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    overflowing = browser.execute_script(
        "return [...document.body.querySelectorAll('*')].filter(e => !e.closest('.scroll, pre') "
        "&& e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))")
    assert overflowing == []
    boxes = browser.execute_script("return [...document.querySelectorAll('figure svg')].map(e => {"
                                   "const b = e.getBoundingClientRect();"
                                   "return [b.width, b.height, e.checkVisibility()]})")
    assert len(boxes) == FIGURES and all(box[0] > 250 and box[1] > 150 and box[2] for box in boxes)
    headings = browser.execute_script("return [...document.querySelectorAll('h1, section > h2')].map(e => e.innerText)")
    assert len(headings) == 1 + len(SECTIONS) and all(headings)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_it_lies_on(browser, page, scheme):
    show(browser, page, 1200, scheme)
    found = browser.execute_script(TEXTS)
    assert {"p", "td", "th", "span", "strong", "dd", "li", "code", "a", "svg"} <= {
        kind for kind, _, _ in found}
    body = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", body)[:3])) < 384) == (scheme == "dark")
    assert [(kind, text, ground) for kind, text, ground in found if contrast(text, ground) < 4.5] == []


def test_it_prints(browser, page):
    show(browser, page, 1200, "dark")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 50_000
