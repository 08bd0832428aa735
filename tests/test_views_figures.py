"""Figures for papers: made again they are the same bytes, from the csv too; in the venue's size;
without colour too.
"""

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from test_curves import FAST, GPU, MODEL, PIPE, made
from test_views import ARMS as PERPLEXITIES
from test_views import trajectory
from test_views_agents import measured  # noqa: F401 (a fixture)
from test_views_studies import swept

from negfail_nb import views
from negfail_nb.__main__ import main
from negfail_nb.benchmarking import ARMS
from negfail_nb.curves import tradeoff
from negfail_nb.evaluation import COMPARED
from negfail_nb.runs import make
from negfail_nb.settings import EvaluateSettings
from negfail_nb.speed import break_even, speed_table
from negfail_nb.views.figures import COLORS, LINES, MARKERS, new_figure, paper_style
from negfail_nb.views.papers import (
    SIZES,
    collect_figures,
    describe_origin,
    figure_width,
    read_table,
    snippet,
)

QUICK = EvaluateSettings(resamples=100)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with figures of several notebooks, each drawn from its own table."""
    folder = tmp_path_factory.mktemp("figures")
    runs = [
        trajectory(id=str(i), success=s, question_id=str(i % 2))
        for i, s in enumerate((True, False, False, None))
    ]
    outcomes, curve = views.outcome_table(runs), tradeoff(made(), FAST)
    points, published = views.tradeoff_table(curve), views.published_table(curve)
    speed, even = speed_table(MODEL, GPU, pipeline=PIPE), break_even(MODEL, GPU, pipeline=PIPE)
    curves = pd.DataFrame(
        {"tokens": [1, 2] * 2, "loss": [3.0, 1 / 3] * 2, "arm": ["nat", "nat", "nut", "nut"]}
    )
    lengths = pd.DataFrame(
        {"from": [0, 10], "to": [10, 20], "correct": [3, 4], "incorrect": [1, 0]}
    )
    study = views.study_table(swept(2), "failures", QUICK)
    for name, figure, table in (
        ("01_outcomes", views.draw_outcomes(outcomes), outcomes),
        ("03_lengths", views.draw_lengths(lengths, 2.5), lengths),
        (
            "04_curves",
            views.draw_curves(curves.assign(smooth=curves["loss"])),
            curves.assign(smooth=curves["loss"]),
        ),
        ("05_arms", views.draw_arms(PERPLEXITIES), PERPLEXITIES),
        ("05_study", views.draw_study(study, "action_error_rate"), study),
        ("07_tradeoff", views.draw_tradeoff(points), points),
        ("07_speed", views.draw_speed(speed, even, title="a 70B"), speed),
        ("07_published", views.draw_published(published, 20), published),
    ):
        views.save_figure(figure, table, name, folder, {"profile": "pocket", "input": "abc"})
    return folder


def test_a_new_figure_is_one_function(tmp_path):
    @paper_style
    def draw_mine(table, title=""):
        figure, axes = new_figure()
        axes.plot(table["x"], table["y"])
        axes.set_title(title)
        return figure

    table = pd.DataFrame({"x": [1, 2], "y": [1 / 3, 2 / 3]})
    views.save_figure(draw_mine(table, title="mine"), table, "m", tmp_path / "one")
    views.save_figure(views.redraw(tmp_path / "one" / "m.csv"), table, "m", tmp_path / "two")
    assert (tmp_path / "one" / "m.pdf").read_bytes() == (tmp_path / "two" / "m.pdf").read_bytes()


def test_the_guide_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parents[1] / "docs" / "figures.md").read_text(encoding="utf-8")
    made = {}
    exec(re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[0], made)
    assert isinstance(views.redraw(made["project"].figures / "turns.csv"), Figure)
    page = views.page(made["figure"]).html
    assert f"{len(made['logs']):,} runs." in page and "<img" in page


def test_an_origin_is_a_run_settings_or_a_result(tmp_path):
    run = make(tmp_path / "run", QUICK, lambda run: {"em": 0.5})
    assert describe_origin(run)["fingerprint"] == run.plan["fingerprint"]
    assert describe_origin(run)["results"] == {"em": 0.5} and "environment" in describe_origin(run)
    assert describe_origin(SimpleNamespace(run=run)) == describe_origin(run)
    assert describe_origin(QUICK)["resamples"] == 100
    assert describe_origin(SimpleNamespace(content="ab", runs=[1])) == {"content": "ab"}
    mixed = describe_origin([QUICK, run, {"prices": 1}])
    assert set(mixed) == {"EvaluateSettings", "run", "dict"} and mixed["dict"] == {"prices": 1}
    assert describe_origin(None) == describe_origin(SimpleNamespace(run=None, table=run)) == {}
    twice = describe_origin({"of": (QUICK, QUICK), "lengths": [1, 2]})
    assert set(twice["of"]) == {"EvaluateSettings 1", "EvaluateSettings 2"}
    figure, table = new_figure()[0], pd.DataFrame({"a": [1]})
    views.save_figure(figure, table, "x", tmp_path, {"nat": run, "prices": {"prompt": 2.0}})
    record = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert record["provenance"]["nat"]["fingerprint"] == run.plan["fingerprint"]


def names(folder):
    return sorted(p.stem for p in folder.glob("*.json"))


def test_every_figure_is_drawn_again_from_its_csv_byte_by_byte(drawn, tmp_path):
    assert len(names(drawn)) == 8
    for name in names(drawn):
        figure = views.redraw(drawn / f"{name}.csv")
        views.save_figure(
            figure, read_table(drawn / name), name, tmp_path, {"profile": "pocket", "input": "abc"}
        )
        for ending in (".pdf", ".png", ".csv", ".json"):
            again, before = (
                (folder / f"{name}{ending}").read_bytes() for folder in (tmp_path, drawn)
            )
            assert again == before, f"{name}{ending}"


def test_agents_with_their_seeds_are_drawn_again(measured, tmp_path):  # noqa: F811
    table = views.agent_table(*measured)
    views.save_figure(views.draw_agents(table), table, "x", tmp_path / "one")
    views.save_figure(views.redraw(tmp_path / "one" / "x.csv"), table, "x", tmp_path / "two")
    assert (tmp_path / "one" / "x.pdf").read_bytes() == (tmp_path / "two" / "x.pdf").read_bytes()
    nobody = views.agent_table(pd.DataFrame(columns=list(COMPARED)))
    views.save_figure(views.draw_agents(nobody), nobody, "n", tmp_path / "one")
    assert isinstance(views.redraw(tmp_path / "one" / "n.csv"), Figure)


def test_a_table_comes_back_as_it_was(tmp_path):
    table = pd.DataFrame(
        {
            "seed": ["", "3"],
            "note": [None, "NA"],
            "value": [1 / 3, np.nan],
            "n": [1, 2],
            "on": [True, False],
            "some": [True, None],
        }
    )
    views.save_figure(new_figure()[0], table, "t", tmp_path)
    again = read_table(tmp_path / "t.csv")
    assert again["seed"].tolist() == ["", "3"] and again["note"].isna().tolist() == [True, False]
    assert (
        again["value"][0] == 1 / 3
        and again["on"].tolist() == [True, False]
        and again["n"].dtype == int
    )
    assert again["some"][0] is True and pd.isna(again["some"][1])


def test_the_json_says_what_it_came_from(drawn):
    record = json.loads((drawn / "07_speed.json").read_text(encoding="utf-8"))
    assert (
        record["provenance"]["input"] == "abc" and record["environment"]["packages"]["negfail_nb"]
    )
    assert (
        record["drawn"]["function"] == "draw_speed"
        and record["drawn"]["arguments"]["title"] == "a 70B"
    )
    assert {"git", "command", "python"} <= set(record["environment"])


@pytest.mark.parametrize(("venue", "column", "text"), [(v, *SIZES[v]) for v in SIZES])
def test_figures_have_the_size_of_a_venue(drawn, venue, column, text):
    for part, width in (("column", column), ("text", text)):
        figure = views.redraw(drawn / "01_outcomes.csv", figure_width(venue.upper(), part))
        assert figure.get_figwidth() == width
    figure.canvas.draw()
    assert figure.axes[0].title.get_fontsize() == 9  # letters stay as they are


def test_an_unknown_venue_is_named_with_those_there_are():
    with pytest.raises(
        ValueError, match="no sizes for the venue 'nature'; there are neurips, icml, iclr"
    ):
        figure_width("nature")
    with pytest.raises(ValueError, match="part is 'half'; use one of column, text"):
        figure_width("icml", "half")


def test_no_type_3_fonts_and_letters_are_embedded(drawn):
    for name in names(drawn):
        pdf = (drawn / f"{name}.pdf").read_bytes()
        assert b"/Type3" not in pdf and b"/FontFile2" in pdf, name


def looks(handle):
    """How a legend entry looks, colour aside: marker, line, filling, hatch; grey as the eye sees
    it.
    """
    line = handle.lines[0] if hasattr(handle, "lines") else handle
    if hasattr(line, "get_marker"):
        return (
            line.get_marker(),
            str(line.get_linestyle()),
            line.get_fillstyle(),
            line.get_markerfacecolor() == "white",
        )
    patch = handle.patches[0] if hasattr(handle, "patches") else handle
    grey = np.dot(to_rgb(patch.get_facecolor()), (0.2126, 0.7152, 0.0722))
    return patch.get_hatch(), round(grey, 1)


def test_what_a_legend_tells_apart_is_told_apart_in_grey(drawn):
    compared = 0
    for name in names(drawn):
        figure = views.redraw(drawn / name)
        for axes in figure.axes:
            handles, labels = axes.get_legend_handles_labels()
            seen = [looks(handle) for handle in handles]
            assert len(set(seen)) == len(seen), (name, labels, seen)
            compared += len(seen)
    assert compared > 10
    assert len(set(MARKERS)) == len(set(LINES)) == len(set(COLORS)) == 9 >= len(ARMS)


def test_a_paper_is_one_folder_with_a_snippet_for_each(drawn, tmp_path):
    paper = collect_figures(drawn, tmp_path / "paper", "icml", "text")
    assert list(paper.figures) == names(drawn) and not paper.old
    for name in paper.figures:
        assert {p.suffix for p in paper.folder.glob(f"{name}.*")} == {
            ".pdf",
            ".png",
            ".csv",
            ".json",
            ".tex",
        }
        tex = (paper.folder / f"{name}.tex").read_text(encoding="utf-8")
        assert (
            f"\\includegraphics{{{name}.pdf}}" in tex
            and "\\begin{figure*}" in tex
            and "\\caption{" in tex
        )
        assert f"\\input{{{name}.tex}}" in (paper.folder / "figures.tex").read_text(
            encoding="utf-8"
        )
    width = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", (paper.folder / "05_arms.pdf").read_bytes())
    assert float(width[1]) == pytest.approx(6.75 * 72, abs=0.1)
    assert (paper.folder / "05_arms.csv").read_bytes() == (drawn / "05_arms.csv").read_bytes()


def test_captions_hold_no_latex_of_a_log():
    tex = snippet({"figure": "a_b", "rows": 3, "title": r"50 % of $x$ & \input{y}"})
    assert r"50 \% of \$x\$ \& \textbackslash{}input\{y\}" in tex and r"\label{fig:a-b}" in tex


def test_the_command_collects_a_runs_figures(tmp_path, capsys, drawn):
    figures = tmp_path / "runs" / "pocket" / "figures"
    figures.mkdir(parents=True)
    for path in drawn.glob("05_arms.*"):
        (figures / path.name).write_bytes(path.read_bytes())
    record = json.loads((figures / "05_arms.json").read_text(encoding="utf-8"))
    old = figures / "04_old.json"
    old.write_text(
        json.dumps({k: v for k, v in record.items() if k != "drawn"} | {"figure": "04_old"}),
        "utf-8",
    )
    for ending in (".pdf", ".png", ".csv"):
        (figures / f"04_old{ending}").write_bytes((figures / f"05_arms{ending}").read_bytes())
    assert main(["paper", "--profile", "pocket", "--home", str(tmp_path), "--venue", "acl"]) == 0
    said = capsys.readouterr().out
    assert "2 figures" in said and "04_old" in said
    folder = tmp_path / "runs" / "pocket" / "paper"
    assert {"05_arms.tex", "04_old.pdf", "figures.tex"} <= {p.name for p in folder.iterdir()}
    assert main(["paper", "--profile", "pocket", "--home", str(tmp_path), "--venue", "nature"]) == 1
    assert "no sizes for the venue 'nature'" in capsys.readouterr().err
    assert main(["paper", "--profile", "logs", "--home", str(tmp_path)]) == 1
    assert "no figures in" in capsys.readouterr().err


def test_a_figure_that_says_not_who_drew_it_is_refused(tmp_path):
    table = pd.DataFrame({"a": [1]})
    views.save_figure(new_figure()[0], table, "x", tmp_path)
    with pytest.raises(ValueError, match=r"x\.json does not say which function"):
        views.redraw(tmp_path / "x.csv")
    with pytest.raises(
        FileNotFoundError, match=r"y\.json is not there: a saved figure is its csv and its json"
    ):
        views.redraw(tmp_path / "y.csv")
    record = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    record["drawn"] = {"function": "save_figure", "arguments": {}}
    (tmp_path / "x.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ValueError, match="does not say which function"):
        views.redraw(tmp_path / "x.csv")


def test_a_column_of_one_panel_has_room_for_its_letters(drawn):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error"
        )  # constrained layout warns where nothing is left for the axes
        views.redraw(drawn / "04_curves.csv", figure_width("acl", "column")).canvas.draw()
