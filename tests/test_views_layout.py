"""Every figure fits every venue: no text overlaps another or leaves the page."""

import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import HOME
from figure_checks import misplaced

from negfail_nb import views
from negfail_nb.views.figures import STYLE, new_figure
from negfail_nb.views.layout import at_width, label_points, legend_outside, settle
from negfail_nb.views.papers import SIZES, redraw

WIDTHS = sorted({width for pair in SIZES.values() for width in pair})
# The narrowest column, which is the hardest; `make test-scale` draws every width.
TRIED = WIDTHS if os.environ.get("NEGFAIL_NB_SCALE") else [WIDTHS[0]]
FIGURES = sorted((HOME / "figures").glob("[ps]*/*.csv"))


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_no_text_overlaps_or_leaves_the_page_at_any_width(path):
    for width in TRIED:
        figure = redraw(path, width)
        assert figure.get_figwidth() == pytest.approx(width)
        assert misplaced(figure) == [], width


def test_the_check_finds_what_overlaps_and_what_leaves_the_page():
    figure, axes = new_figure(3, 2)
    axes.set_title("a title that is much wider than three inches of paper allow for it")
    axes.text(0.5, 0.5, "one")
    axes.text(0.5, 0.52, "two")
    wrong = misplaced(figure)
    assert ("one", "two") in wrong and any(str(w).startswith("a title") for w in wrong)
    settle(figure)
    assert misplaced(figure) == [("one", "two")]


@pytest.mark.parametrize(("width", "shape"), [(6.75, (1, 4)), (5.5, (2, 2)), (3.25, (4, 1))])
def test_panels_keep_their_order_in_a_grid_that_fits(width, shape):
    with at_width(width):
        figure, panels = new_figure(6.75, 2.0, 4, sharey=True, squeeze=False)
    assert panels.shape == (1, 4), "as if they stood beside each other"
    figure.draw_without_rendering()
    places = [panel.get_position() for panel in panels[0]]
    assert len({round(p.y0, 3) for p in places}) == shape[0]
    assert len({round(p.x0, 3) for p in places}) == shape[1]
    assert [(-round(p.y0, 3), p.x0) for p in places] == sorted(
        (-round(p.y0, 3), p.x0) for p in places
    )


def test_a_panel_that_is_left_over_is_taken_away():
    with at_width(5.5):
        figure, panels = new_figure(6.75, 2.0, 3)
    assert panels.shape == (3,) and len(figure.axes) == 3


def test_a_legend_goes_below_in_as_many_columns_as_fit():
    with plt.rc_context(STYLE):
        for width, side in ((6.75, "right"), (3.25, "below")):
            figure, axes = new_figure(width, 2)
            for name in ("a rather long name", "another long name", "a third long name"):
                axes.plot([0, 1], [0, 1], label=name)
            legend_outside(figure, side="right")
            figure.draw_without_rendering()
            (legend,) = figure.legends
            box, panel = legend.get_window_extent(), axes.get_window_extent()
            assert box.x0 > panel.x1 if side == "right" else box.y1 < panel.y0
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_a_name_hides_no_point_and_no_other_name():
    figure, axes = new_figure(3, 2)
    rng = np.random.default_rng(0)
    points = [tuple(point) for point in rng.uniform(0.2, 0.8, (6, 2))]
    axes.plot(*zip(*points, strict=True), "o", markersize=4)
    axes.set(xlim=(0, 1), ylim=(0, 1))

    def write(text, at, offset):
        return axes.annotate(text, at, offset, textcoords="offset points", fontsize=7)

    label_points(axes, [(f"name {i}", *p) for i, p in enumerate(points)], points, write)
    assert misplaced(figure) == []
    marks = [axes.transData.transform(point) for point in points]
    for name in axes.texts:
        box = name.get_window_extent()
        assert not any(box.contains(*mark) for mark in marks)


def test_ticks_that_would_touch_are_left_out():
    figure, axes = new_figure(1.5, 1.5)
    axes.set_xticks(range(8), [f"{n:,} tokens" for n in range(8)])
    settle(figure)
    labels = [t.label1.get_text() for t in axes.xaxis.get_major_ticks() if t.label1.get_visible()]
    assert labels[0] == "0 tokens" and len(labels) < 8 and misplaced(figure) == []


def test_most_runs_fail_is_said_only_where_it_is_so():
    def title(success, failure, unlabelled=0):
        row = {"log": "x", "success": success, "failure": failure, "unlabelled": unlabelled}
        figure = views.draw_outcomes(pd.DataFrame([row | {"questions": 1}]))
        return figure.axes[0].get_title(loc="left"), [t.get_text() for t in figure.axes[0].texts]

    assert title(1, 9) == ("Most runs fail", ["  10% of 10"])
    assert title(8, 2)[0] == "80% of the runs succeed"
    assert title(0, 0, 5) == ("No run is labelled", ["  not judged"])
    assert title(1, 1, 8)[1] == ["  50% of 2"]
