"""Tables as csv: no text is a formula to a spreadsheet, and what is read is what was written."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.csvs import csv_text, read_csv, write_csv

FORMULAS = ("=HYPERLINK(1)", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1")
CELLS = st.one_of(
    st.sampled_from((*FORMULAS, "'=1", "''@", "-5", "-", "plain", "a\r\nb", '"', "x,y")),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")),
)


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_cell_and_no_head_begins_as_a_formula(cell):
    rows = list(
        csv.reader(io.StringIO(csv_text(pd.DataFrame({cell: [cell], "n": [-1.5]})), newline=""))
    )
    assert rows == [[f"'{cell}", "n"], [f"'{cell}", "-1.5"]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, st.floats(allow_nan=False)), min_size=1))
def test_what_is_read_is_what_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "t.csv"
    table = pd.DataFrame(rows, columns=["text", "number"]).astype({"text": "str"})
    write_csv(table, path)
    read = read_csv(
        path, dtype={"text": "str"}, keep_default_na=False, float_precision="round_trip"
    )
    pd.testing.assert_frame_equal(read, table)


def test_a_full_disk_is_told_with_the_file():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_csv(pd.DataFrame({"a": [1]}), "/dev/full")


LONG = ("x" * 3000, "x" * 3000 + "y")
HOSTILE = (
    "$\\frac{$",
    "_^{}\\%&#~",
    "a\nb\r\nc",
    "a\x00\x1b[31mb",
    "\u202eעברית شيء 漢字",
    "=1+1",
    *LONG,
)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_of_data_are_drawn_as_they_are_and_read_again(tmp_path):
    from negfail_nb import views
    from negfail_nb.views.pages import to_html

    rows = [(name, 3, 2, 1, 4) for name in HOSTILE]
    table = pd.DataFrame(rows, columns=["log", "success", "failure", "unlabelled", "questions"])
    figure = views.draw_outcomes(table)
    views.save_figure(figure, table, "x", tmp_path)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (
        "$\\frac{$" in labels and max(map(len, labels)) <= 70 and len(set(labels)) == len(HOSTILE)
    )
    assert not any("\x1b" in label or "\n" in label for label in labels)
    assert len(views.redraw(tmp_path / "x.csv").axes[0].get_yticklabels()) == len(HOSTILE)
    assert to_html(figure).startswith("<img")
