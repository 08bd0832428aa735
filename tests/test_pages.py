"""Executed notebooks as pages: no text of a log ends or opens an element of the page."""

import json
import shutil
from html.parser import HTMLParser

import nbformat
import pytest

from negfail_nb.notebooks import WIDGET_STATE, _write

EVIL = "<!-- <script> </script> ]]> \u2028 & <img src=x onerror=window.ran=1>"
READ = "kind => JSON.parse(document.querySelector(`script[type='${kind}']`).textContent)"
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


class Scripts(HTMLParser):
    """The texts of the elements that hold a widget's state, and what stands behind them."""

    def __init__(self):
        super().__init__()
        self.inside, self.found, self.tags = False, [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag == "script" and dict(attrs).get("type") == WIDGET_STATE
        self.found += [""] * self.inside

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.found[-1] += data


@pytest.fixture
def page(tmp_path):
    state = {"version_major": 2, "version_minor": 0, "state": {"a": {"state": {"value": EVIL}}}}
    cells = [nbformat.v4.new_markdown_cell("The end")]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {WIDGET_STATE: state}})
    path = _write(notebook, tmp_path / "x.ipynb").with_suffix(".html")
    return path, state


def test_widget_data_hold_no_markup_and_are_read_as_they_were(page):
    path, state = page
    parser = Scripts()
    parser.feed(path.read_text(encoding="utf-8"))
    assert [json.loads(text) for text in parser.found] == [state]
    assert not set("<>&\u2028") & set(parser.found[0]) and "img" not in parser.tags


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_browser_reads_the_same(page):
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path, state = page
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=("--no-sandbox", "--disable-gpu")
        )
        shown = browser.new_page()
        shown.route("http**", lambda route: route.abort())
        shown.goto(path.as_uri(), wait_until="domcontentloaded")
        read = shown.evaluate(READ, WIDGET_STATE)
        assert read == state and shown.evaluate("window.ran") is None
        browser.close()
