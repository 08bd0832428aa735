"""The notebooks in a real browser: JupyterLab, the system's chromium, a person's hands. Pictures go
to build/browser.

Skipped where Playwright for Python or chromium is missing; `.ci/run` installs both.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from conftest import HOME, SMALL

from negfail_nb.notebooks import find_notebooks, with_parameters
from negfail_nb.start import START, lab_environment

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
if CHROMIUM is None:
    pytest.skip("no chromium: apt-get install chromium", allow_module_level=True)

NOTEBOOKS = find_notebooks(HOME / "notebooks")
WORDS_ONLY = {
    "claims": {"encoder": ""}
}  # sentence vectors take most of room 08's time, and nothing is new about them here
PICTURES = HOME / "build" / "browser"
CALM = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
SLOW = 120_000  # milliseconds: machines that test are busy; nothing here measures time
# Cells outside of the window are drawn too, so that pictures and errors are found wherever they
# are.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
OPEN = """async path => {
  const panel = await jupyterapp.commands.execute(
    'docmanager:open', {path, kernel: {name: 'python3'}});
  await panel.context.ready; await panel.sessionContext.ready;
}"""
CLOSE = """async () => {
  const panel = jupyterapp.shell.currentWidget;
  await panel.sessionContext.shutdown(); await panel.context.save(); panel.close();
}"""
RUN = "async () => await jupyterapp.commands.execute('notebook:run-all-cells')"
ERRORS = """() => jupyterapp.shell.currentWidget.content.model.toJSON().cells.flatMap(
  cell => (cell.outputs || []).filter(o => o.output_type === 'error')
    .map(o => `${o.ename}: ${o.evalue}`))"""
# The contrast (WCAG 2) of each piece of text in the outputs with what lies behind it.
CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const over = (color, below) => {
    canvas.fillStyle = `rgb(${below})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const behind = element => {
    const chain = [];
    for (let e = element; e; e = e.parentElement) chain.unshift(e);
    return chain.reduce((b, e) => over(getComputedStyle(e).backgroundColor, b), [255, 255, 255]);
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const panel = jupyterapp.shell.currentWidget.node;
  for (const element of panel.querySelectorAll('.jp-OutputArea-output *')) {
    const own = [...element.childNodes].filter(n => n.nodeType === 3 && n.data.trim());
    if (!own.length || element.closest('svg, style, .widget-readout') ||
        !element.getClientRects().length) continue;
    const below = behind(element);
    const [a, b] = [light(over(getComputedStyle(element).color, below)), light(below)];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), own[0].data.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""
THEME = "async theme => jupyterapp.commands.execute('apputils:change-theme', {theme})"
WIDE = """() => [...jupyterapp.shell.currentWidget.node.querySelectorAll('.jp-OutputArea-output')]
  .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))"""
RED = "[data-mime-type='application/vnd.jupyter.error'], .jp-OutputArea-output b:text('Error:')"


@pytest.fixture(scope="module")
def lab(walked, tmp_path_factory):
    """JupyterLab on the walked runs: its address, and the folder that it shows."""
    home, config = walked / "lab", tmp_path_factory.mktemp("jupyter")
    _copy_notebooks(home)
    for name, values in SETTINGS.items():
        path = config / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {
        f"JUPYTER_{name}_DIR": str(config / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [
        f"--ServerApp.root_dir={home}",
        "--IdentityProvider.token=t",
        "--LabApp.expose_app_in_browser=True",
    ]
    command += [f"--LabApp.user_settings_dir={config / 'settings'}"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    # Seldom, a kernel's first message is lost; the server then waits so long, in seconds, and goes
    # on.
    command += ["--MappingKernelManager.kernel_info_timeout=10"]
    with (config / "log").open("w") as log:
        server = subprocess.Popen(command, env=lab_environment() | folders, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api?token=t", server, config / "log")
            yield f"http://127.0.0.1:{port}/lab?token=t&reset", home
        finally:
            server.terminate()
            server.wait(30)


def _copy_notebooks(home):
    """The notebooks as they are, with the small settings behind their parameters."""
    (home / "notebooks").mkdir(exist_ok=True)
    for path in NOTEBOOKS:
        small = {"profile": "pocket", "home": "..", "changes": SMALL | WORDS_ONLY}
        nbformat.write(
            with_parameters(nbformat.read(path, as_version=4), small),
            home / "notebooks" / path.name,
        )
    shutil.copyfile(HOME / "notebooks" / START, home / "notebooks" / START)


def _wait_for(address, server, log):
    for _ in range(600):
        try:
            return urllib.request.urlopen(address)
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module")
def page(lab):
    address, _ = lab
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CALM)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(SLOW)
        page.goto(address)
        page.wait_for_function(
            "window.jupyterapp && jupyterapp.commands.hasCommand('docmanager:open')"
        )
        page.wait_for_selector("#jp-top-panel")
        yield page
        browser.close()


@pytest.fixture
def opened(page):
    """Open notebooks by name, run them; each is closed, with its kernel, when the test ends."""

    def run(name):
        page.evaluate(OPEN, f"notebooks/{name}")
        page.evaluate(RUN)
        return page.locator(".jp-NotebookPanel:visible")

    yield run
    page.evaluate(CLOSE)


def picture(page, name):
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def show(page, element, name):
    """Bring an element into sight and keep a picture."""
    element.scroll_into_view_if_needed()
    picture(page, name)


def write(home, name, source):
    cells = [nbformat.v4.new_code_cell(source)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=kernel), home / "notebooks" / name
    )


def clean(page, panel):
    assert page.evaluate(ERRORS) == []
    assert panel.locator(RED).count() == 0


def fits(page):
    """Nothing scrolls sideways in a window of 1,000 pixels."""
    page.set_viewport_size({"width": 1000, "height": 1000})
    page.evaluate("() => jupyterapp.commands.execute('application:toggle-left-area')")
    page.wait_for_timeout(300)
    try:
        assert page.evaluate(WIDE) == []
    finally:
        page.evaluate("() => jupyterapp.commands.execute('application:toggle-left-area')")
        page.set_viewport_size({"width": 1300, "height": 1000})


def check_contrasts(page):
    """Text can be read in both themes."""
    try:
        for theme in ("JupyterLab Light", "JupyterLab Dark"):
            page.evaluate(THEME, theme)
            page.wait_for_timeout(300)
            contrasts = page.evaluate(CONTRASTS)
            assert len(contrasts) > 20 and contrasts[0][0] >= 4.5, (theme, contrasts[:5])
            picture(page, f"03_{theme.split()[-1].lower()}")
    finally:
        page.evaluate(THEME, "JupyterLab Light")


PLAIN = [
    p for p in NOTEBOOKS if p.stem[:2] not in ("01", "02", "04", "07")
]  # those have a test of their own
LOOK_AT = {
    "03": "span[title^='trained, token']"
}  # what is worth a picture, where it is not the first figure


@pytest.mark.parametrize("path", PLAIN, ids=lambda p: p.stem)
def test_a_notebook_runs_without_red(page, opened, path):
    panel = opened(path.name)
    panel.locator(".jp-OutputArea-output img").first.wait_for()
    clean(page, panel)
    fits(page)
    if path.stem == "03_prefix":
        check_contrasts(page)
    show(
        page,
        panel.locator(LOOK_AT.get(path.stem[:2], ".jp-OutputArea-output img")).first,
        path.stem,
    )


def test_01_a_run_is_chosen_with_the_keyboard(page, opened):
    panel = opened("01_collect.ipynb")
    clean(page, panel)
    runs, field = panel.locator("select[size]").first, panel.get_by_label("run", exact=True)
    before = runs.evaluate("list => list.selectedIndex")
    field.focus()
    field.press("ArrowUp")
    page.wait_for_function(
        "([list, old]) => list.selectedIndex === old + 1", arg=[runs.element_handle(), before]
    )
    assert (
        panel.locator("td >> text=success").count() and panel.locator("td >> text=failure").count()
    )
    show(page, runs, "01_collect")


def test_02_a_slider_is_kept_and_one_button_draws_the_figures_below_anew(page, opened, lab):
    kept = lab[1] / "settings.json"
    panel = opened("02_quality.ipynb")
    clean(page, panel)
    show(page, panel.locator("select[size]").first, "02_browser")
    funnel = panel.locator(".jp-OutputArea-output img").nth(1)
    before = funnel.get_attribute("src")
    handle = panel.locator(".widget-slider:has-text('min_score') .noUi-handle")
    handle.focus()
    for _ in range(60):
        handle.press("ArrowRight")
    panel.locator("pre:has-text('0.6}')").wait_for()
    assert json.loads(kept.read_text()) == {"pocket": {"quality": {"min_score": 0.6}}}
    panel.locator("button:has-text('Run below')").click()
    playwright.expect(funnel).not_to_have_attribute("src", before, timeout=SLOW)
    clean(page, panel)
    assert handle.get_attribute("aria-valuenow") == "0.6", "the form was made anew, from the file"
    show(page, panel.locator("b:has-text('profile: 0.0')"), "02_form")
    panel.locator("button:has-text('Reset')").click()
    panel.locator("b:has-text('profile: 0.0')").wait_for(state="detached")
    assert not kept.exists()


def test_04_a_button_says_its_cost_then_trains_with_a_bar_that_goes(page, opened, lab):
    panel = opened("04_train.ipynb")
    clean(page, panel)
    button = panel.locator("button:has-text('Train nat-k')")
    steps = panel.get_by_label("steps", exact=True).last
    steps.fill("5")
    steps.press("Tab")
    button.click()
    panel.locator("text=tokens, 0.00 USD").wait_for()
    show(page, button, "04_estimate")
    bars = panel.locator(".jp-OutputArea-output").last.locator(".progress-bar")
    assert bars.count() == 0
    button.click()
    bars.first.wait_for()
    button.locator("text=estimate first").wait_for()
    bars.first.wait_for(state="detached")
    panel.locator("text=nat-k, now").or_(panel.locator(".widget-html img").last).first.wait_for()
    clean(page, panel)
    show(page, button, "04_trained")
    steps.fill("5000")
    steps.press("Tab")
    button.click()
    panel.locator("button:has-text('Train nat-k now')").click()
    panel.locator("button:has-text('cancel')").click()
    panel.locator("text=stopped; what is finished stays in").wait_for()
    clean(page, panel)


def test_07_an_arm_goes_off_and_numbers_stand_under_the_pointer(page, opened):
    panel = opened("07_tradeoff.ipynb")
    clean(page, panel)
    fits(page)
    title = panel.locator("svg title").filter(has_text="oracle").first
    title.wait_for(state="attached")
    assert "EM" in title.text_content() and "seconds per question" in title.text_content()
    tick = panel.locator("label:has-text('oracle') input[type=checkbox]")
    tick.uncheck()
    title.wait_for(state="detached")
    clean(page, panel)
    show(page, panel.locator("svg:has(title)").first, "07_tradeoff")


def test_from_the_start_page_to_a_changed_figure_as_pdf_in_four_clicks(page, lab):
    address, home = lab
    page.goto(address.replace("/lab?", f"/lab/tree/notebooks/{START}?"))
    page.locator("a:has-text('07_tradeoff')").click()
    panel = page.locator(".jp-NotebookPanel:visible")
    panel.locator("[data-command='notebook:restart-run-all'] >> visible=true").click()
    tick = panel.locator("label:has-text('oracle') input[type=checkbox]")
    tick.click()
    panel.locator("button:has-text('Save this figure')").first.click()
    panel.locator("text=saved: ").wait_for()
    picture(page, "four_clicks")
    saved = list((home / "runs" / "pocket-own" / "figures").glob("07_*.pdf"))
    assert saved and tick.is_checked() is False
    page.evaluate(CLOSE)


def test_a_figure_is_exported_with_its_numbers(lab, page, opened):
    _, home = lab
    write(
        home,
        "export.ipynb",
        "import pandas as pd\nfrom negfail_nb import views\n"
        "table = pd.DataFrame({'log': ['x'], 'success': [1], 'failure': [2], 'unlabelled': "
        "[0], 'questions': [3]})\n"
        "figure = views.draw_outcomes(table)\nviews.save_figure(figure, table, 'mine', "
        "'../exported')\nfigure",
    )
    panel = opened("export.ipynb")
    panel.locator("img").first.wait_for()
    assert {p.name for p in (home / "exported").iterdir()} == {
        f"mine.{e}" for e in ("pdf", "png", "csv", "json")
    }


def test_errors_in_callbacks_are_seen_and_text_of_logs_is_text(lab, page, opened):
    _, home = lab
    write(
        home,
        "planted.ipynb",
        "import ipywidgets as w\nfrom negfail_nb import views\nfrom negfail_nb.trajectory "
        "import Trajectory\n"
        "evil = '<img src=x onerror=\"window.ran=1\"><script>window.ran=1</script>'\n"
        "run = Trajectory(id='a', question_id='a', question=evil, success=False,"
        " messages=({'role': 'user', 'content': evil},))\n"
        "display(views.browse([run]))\n"
        "display(views.explore(lambda n: 1 / (n - 2), n=w.IntSlider(value=1, "
        "description='planted')))\n"
        "views.widgets.StartButton(lambda _: [][1], lambda _: views.widgets.Cost(minutes=1), "
        "label='Fail')",
    )
    panel = opened("planted.ipynb")
    assert page.evaluate(ERRORS) == []
    panel.locator("text=<img src=x").first.wait_for()
    assert page.evaluate("window.ran") is None
    handle = panel.locator(".noUi-handle").first
    handle.focus()
    handle.press("ArrowRight")
    panel.locator("b:has-text('ZeroDivisionError: division by zero')").wait_for()
    panel.locator("button:has-text('Fail')").click()
    panel.locator("button:has-text('Fail now')").click()
    panel.locator("b:has-text('IndexError')").wait_for()
    picture(page, "planted")
