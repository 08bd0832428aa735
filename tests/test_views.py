"""What people look at: log text is shown and never runs, errors are seen, figures come with their
numbers.
"""

import importlib
import inspect
import json
import pkgutil

import ipywidgets as widgets
import matplotlib as mpl
import pandas as pd
import pytest

from negfail_nb import views
from negfail_nb.trajectory import Source, Trajectory
from negfail_nb.views.evaluate import verdict
from negfail_nb.views.pages import show_trajectory, side_by_side

SCRIPT = "<script>alert('x')</script>"


def trajectory(success=True, **changes):
    values = {
        "id": "a",
        "question_id": "q",
        "question": f"who {SCRIPT}?",
        "answer": SCRIPT,
        "prediction": SCRIPT,
        "success": success,
        "messages": (
            {"role": "user", "content": SCRIPT},
            {"role": "assistant", "content": f"Thought: {SCRIPT}"},
        ),
        "source": Source(model=SCRIPT, file=SCRIPT, record="1", format="mint"),
        "error": SCRIPT,
    }
    return Trajectory(**values | changes)


def test_text_of_logs_is_escaped_wherever_it_is_shown():
    page = side_by_side(show_trajectory(trajectory()), trajectory().question)
    assert "<script" not in page.html
    assert page.html.count("&lt;script&gt;") == 9  # every place that shows text of a log


def test_a_long_turn_is_cut_and_says_so():
    page = show_trajectory(
        trajectory(messages=({"role": "user", "content": "x" * 5000},)), limit=100
    )
    assert "[4,900 more characters]" in page.html


def test_tool_calls_are_shown():
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "search", "arguments": '{"query": "<b>"}'},
    }
    page = show_trajectory(
        trajectory(messages=({"role": "assistant", "content": None, "tool_calls": [call]},))
    )
    assert "search" in page.html and "<b>\\" not in page.html


def test_a_knob_changes_what_is_shown():
    slider = widgets.IntSlider(value=1)
    box = views.explore(lambda n: pd.DataFrame({"n": [n * 111]}), n=slider)
    pane = box.children[-1]
    assert "111" in pane.value
    slider.value = 2
    assert "222" in pane.value and "111" not in pane.value


def test_a_page_without_widgets_shows_what_the_widget_shows():
    box = views.explore(
        lambda n: pd.DataFrame({"n": [n * 111]}), n=widgets.IntSlider(value=1, description="knob")
    )
    page = box._repr_mimebundle_()["text/html"]
    assert "knob: 1" in page and "111" in page


def test_an_error_in_a_callback_is_raised_at_first_and_shown_later():
    def fail(n):
        if n > 1:
            raise RuntimeError("planted <b>")
        return "fine"

    slider = widgets.IntSlider(value=1)
    pane = views.explore(fail, n=slider).children[-1]
    with pytest.raises(RuntimeError, match="planted"):
        slider.value = 2
    assert "#B00020" in pane.value and "planted &lt;b&gt;" in pane.value
    with pytest.raises(RuntimeError, match="planted"):
        views.explore(fail, n=widgets.IntSlider(value=2))


def test_controls_are_widgets_or_what_interact_takes():
    box = views.explore(
        lambda name, n, on: f"{name} {n} {on}", name={"A": "a", "B": "b"}, n=(1, 5, 2), on=False
    )
    name, n, on = box.children[0].children
    assert [c.description for c in box.children[0].children] == ["name", "n", "on"]
    name.value, n.value, on.value = "b", 5, True
    assert box.children[1].value == "<p>b 5 True</p>" and not n.continuous_update


def test_a_page_shows_anything_and_escapes_text():
    figure = views.draw_arms(ARMS)
    figure.caption = f"one {SCRIPT}\ntwo"
    page = views.page(SCRIPT, figure, pd.DataFrame({"a": [SCRIPT]}), {"b": SCRIPT}).html
    assert "<script" not in page and page.count("&lt;script") == 4
    assert page.index("<img") < page.index("<p>one") < page.index("<p>two</p>")


def test_no_module_is_hidden_and_no_view_takes_a_walk():
    for module in pkgutil.iter_modules(views.__path__):
        found = importlib.import_module(f"negfail_nb.views.{module.name}")
        assert getattr(views, module.name) is found
    for name in views.__all__:
        assert "walk" not in inspect.signature(getattr(views, name)).parameters, name
    assert len(set(views.__all__)) == len(views.__all__) <= 74


@pytest.fixture
def outcomes():
    runs = [
        trajectory(id=str(i), success=s, question_id=str(i % 2))
        for i, s in enumerate((True, False, False, None))
    ]
    return views.outcome_table(runs)


def test_the_outcome_table_counts_every_run(outcomes):
    assert outcomes.to_dict("records") == [
        {"log": "mint qa", "success": 1, "failure": 2, "unlabelled": 1, "questions": 2}
    ]


def test_ends_are_counted_by_outcome():
    runs = [trajectory(termination="max_steps", success=False), trajectory(id="b")]
    table = views.outcome_table(runs, by="termination").set_index("termination")
    assert table.loc["max_steps", "failure"] == 1 and table["success"].sum() == 1


def test_a_figure_is_saved_with_its_numbers_and_origin_and_again_the_same(outcomes, tmp_path):
    for folder in ("one", "two"):
        views.save_figure(
            views.draw_outcomes(outcomes), outcomes, "x", tmp_path / folder, {"seed": 1}
        )
    names = {p.name for p in (tmp_path / "one").iterdir()}
    assert names == {"x.pdf", "x.png", "x.csv", "x.json"}
    for name in ("x.pdf", "x.png", "x.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "one" / "x.csv"), outcomes, check_names=False
    )


def test_drawing_changes_nothing_global(outcomes):
    before = dict(mpl.rcParams)
    views.draw_outcomes(outcomes)
    assert dict(mpl.rcParams) == before


ARMS = pd.DataFrame(
    {
        "arm": ["vanilla", "nat"],
        "questions": [20, 20],
        "examples": [30, 30],
        "perplexity": [9.0, 8.0],
        "perplexity_low": [8.5, 7.6],
        "perplexity_high": [9.6, 8.4],
        "difference": [0.0, -0.118],
        "difference_low": [0.0, -0.14],
        "difference_high": [0.0, -0.09],
    }
)


def test_the_verdict_says_whether_the_difference_is_more_than_noise():
    assert "interval does not include 0" in verdict(ARMS)
    unclear = ARMS.assign(difference_high=[0.0, 0.02])
    assert "interval includes 0" in verdict(unclear)
    assert "differs" not in verdict(ARMS.iloc[:1])


def test_what_an_explorer_shows_can_be_saved_with_its_numbers(tmp_path):
    def show(arms):
        return views.page(views.draw_arms(ARMS.head(arms)), "and more")

    explorer = views.explore(show, arms=(1, 2)).saving(tmp_path / "figures" / "mine", {"run": "x"})
    controls, (name, button, said), pane = (
        explorer.children[0].children,
        explorer.children[1].children,
        explorer.children[2],
    )
    controls[0].value = 2
    button.click()
    assert "mine.pdf" in said.value and "<img" in pane.value
    files = {path.name for path in (tmp_path / "figures").iterdir()}
    assert files == {f"mine.{ending}" for ending in ("pdf", "png", "csv", "json")}
    record = json.loads((tmp_path / "figures" / "mine.json").read_text())
    assert record["rows"] == 2 and record["provenance"]["shown"] == {"arms": 2}
    assert len(views.redraw(tmp_path / "figures" / "mine.csv").axes) == 2
    name.value = "../out"
    button.click()
    assert "is no name of a file" in said.value and not (tmp_path / "out.pdf").exists()


def test_arms_are_told_apart_without_colour():
    figure = views.draw_arms(ARMS)
    markers = [
        line.get_marker() for line in figure.axes[0].lines if line.get_marker() in ("o", "s", "^")
    ]
    assert markers == ["o", "^"], "as in every figure: vanilla, NUT, NAT"
