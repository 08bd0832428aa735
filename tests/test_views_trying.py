"""Trying out behind a button: a model that plays, an arm that is trained once more; the estimate
comes first.
"""

import re
import threading
import time

from negfail_nb import runs, views
from negfail_nb.agents import ScriptedModel, SearchTool
from negfail_nb.pocket import generate_logs, make_tasks
from negfail_nb.prefix import load_templates, render
from negfail_nb.settings import LiveSettings, LoraSettings, ModelSettings, TrainSettings
from negfail_nb.training import load_tokenizer, train
from negfail_nb.views.collect import Browser
from negfail_nb.views.widgets import Cost, StartButton, stop

TINY = ModelSettings(layers=1, width=32, heads=2, vocabulary=400)
SHORT = TrainSettings(budget="steps", steps=2, batch_tokens=512)


def test_the_model_plays_at_the_second_press_and_its_runs_are_browsed():
    opened = []

    def open_model():
        opened.append(ScriptedModel(["Action: finish[Oslo]"] * 9))
        return opened[0]

    tasks, _ = make_tasks(5, 0)
    starter = views.watch_live(open_model, tasks, live=LiveSettings(attempts=4))
    starter.knobs.knobs["max_calls"].value, starter.knobs.knobs["max_tokens"].value = 1, 8
    starter.button.click()
    assert "tokens, 0.00 USD" in starter.cost.value and starter.result is None and not opened
    starter.button.click()
    (browser,) = starter.shown.children
    assert isinstance(browser, Browser) and len(browser.runs) == 3 and len(opened) == 1
    assert all(len(t.messages) and t.source.model == "scripted" for t in browser.runs)
    again = views.watch_live(ScriptedModel([]), tasks)
    assert "Let scripted play" in again.button.description
    assert "no questions" in views.watch_live(open_model, []).html


def test_turns_are_seen_as_they_are_played(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "negfail_nb.views.collect.display",
        lambda pane: pane.observe(lambda change: seen.append(change["new"]), names="value"),
    )
    said = ["Action: search[a <b> c]", "Action: finish[Oslo]"] * 3
    tasks, passages = make_tasks(2, 0)
    given = tasks, [SearchTool(passages)], LiveSettings(concurrency=1)
    starter = views.watch_live(ScriptedModel(said), *given)
    starter.button.click()
    starter.button.click()
    assert len(seen) == 5 and seen[-1] == "", "two turns each of two tasks; then the browser"
    assert "search[a &lt;b&gt; c]" in seen[0] and "Oslo" not in seen[0] and "Oslo" in seen[1]
    assert seen[3].count("<hr>") == 1


def test_an_interruption_is_one_line_that_says_what_stays(tmp_path):
    def stop(chosen):
        def compute(run):
            raise KeyboardInterrupt  # as torch does, deep inside

        runs.make(runs.Place(tmp_path, "train"), SHORT, compute)

    starter = StartButton(stop, lambda chosen: Cost(minutes=1))
    starter.button.click()
    starter.button.click()
    assert "what is finished stays in" in starter.pane.value
    assert "the same call goes on from there" in starter.pane.value
    assert not starter.button.disabled and starter.cancel.value == ""


def test_work_in_another_thread_is_stopped_by_its_name(tmp_path):
    begun = threading.Event()

    def work(chosen):
        def compute(run):
            begun.set()
            while True:
                time.sleep(0.01)

        runs.make(runs.Place(tmp_path, "train"), SHORT, compute)

    starter = StartButton(work, lambda chosen: Cost(minutes=1))
    starter.button.click()
    thread = threading.Thread(target=starter.button.click)  # as in a subshell of JupyterLab
    thread.start()
    assert begun.wait(30)
    exec(re.search(r'data-code="([^"]+)"', starter.cancel.value)[1])
    thread.join(30)
    assert not thread.is_alive() and "what is finished stays in" in starter.pane.value
    stop("nobody")  # what is over is left alone


def test_an_arm_is_trained_once_more_beside_its_first_curve(tmp_path):
    logs = generate_logs(8, 3, 0)
    tokenizer = load_tokenizer(TINY, [m["content"] for t in logs for m in t.messages])
    data = {"nat": render(logs[:6], load_templates()["target-aware"], tokenizer)}
    data["dpo"] = data["nat"]
    run = train(data["nat"], SHORT, model=TINY, folder=tmp_path / "first")
    trained, again = {"nat": run, "dpo": run}, tmp_path / "again"
    given = (SHORT, TINY, LoraSettings(), again)
    starter = views.try_training(data, trained, *given, {"collect": {"generate": 8}})
    knobs = starter.knobs.knobs
    assert "data" not in knobs and "successes" not in knobs, "the arm's data stay"
    knobs["steps"].value = 3
    for text in ("&quot;steps&quot;: 3", "&quot;generate&quot;: 8"):
        assert text in starter.knobs.message.value
    starter.button.click()
    assert "1,536 tokens" in starter.cost.value
    assert "at the speed of the run above" in starter.cost.value
    assert not again.exists(), "an estimate trains nothing"
    starter.button.click()
    assert again.exists()
    labels = [t.get_text() for t in starter.result.axes[0].get_legend().get_texts()]
    assert labels == ["NAT (label)", "nat, now"], "arms that learn by preference are left out"
