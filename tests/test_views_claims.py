"""What is seen of claims: every claim and its evidence, escaped; figures that hold the numbers of
their tables.
"""

from dataclasses import replace
from types import MappingProxyType

import pandas as pd
import pytest
from test_claims_evidence import row, save

from negfail_nb import views
from negfail_nb.claims import (
    Claim,
    Measure,
    Review,
    Source,
    Term,
    check_claims,
    check_weakness,
    review,
)
from negfail_nb.claims.extraction import Candidates
from negfail_nb.claims.report import Report, write_report
from negfail_nb.claims.reviewing import Opinion, Round
from negfail_nb.claims.weakness import GENERATED, HELD_OUT, load_pairs, make_pairs
from negfail_nb.trajectory import Problem
from negfail_nb.views.claims_pages import claim_filters, show_claims, show_evidence
from negfail_nb.views.pages import to_html as html

EVIL = "<script>alert(1)</script><img src=x onerror=y>"


def measure(name, direction="above", threshold=0.0, column="em_difference"):
    return Measure(
        csv="t.csv",
        column=column,
        terms=(Term(row={"arm": name}),),
        direction=direction,
        threshold=threshold,
    )


CLAIMS = [
    Claim(id="up", text="NAT improves EM by 9 points.", source="s", quotation="NAT improves EM",
        group="finding",
          measure=measure("nat")),
    Claim(id="down", text="NUT improves EM by 3 points.", source="s", group="finding",
        measure=measure("nut", "below")),
    Claim(id="near", text="Wording is near.", group="finding", measure=measure("x", "within", 4.0)),
    Claim(id="gone", text=f"Gone {EVIL}", source="s", group=EVIL, scope=EVIL, measure=measure("y")),
    Claim(id="said", text="NAT improves EM by 8 points.", source="s", group="number",
        quotation=EVIL),
]  # fmt: skip


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    named = {"em": "em_difference", "em_low": "em_difference_low", "em_high": "em_difference_high"}
    rows = [row("nat", 9, 6.123456789, 12), row("nut", 3, 1, 5), row("x", 1, -1, 3)]
    save(folder, [{named.get(k, k): v for k, v in one.items()} for one in rows])
    return folder


@pytest.fixture(scope="module")
def checked(figures):
    text = f"NAT improves EM by 9 points. {EVIL}"
    sources = [
        Source(id="s", title=f"A {EVIL}", text=text, authors=(EVIL, "B"), url="javascript:x")
    ]
    return check_claims(CLAIMS, sources, figures)


@pytest.fixture(scope="module")
def weakness():
    sets = {HELD_OUT: load_pairs(held_out=True), GENERATED: make_pairs(10)}
    parts = [check_weakness(p).assign(pairs=name) for name, p in sets.items()]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def table(checked):
    return views.claims_table(checked)


def test_the_margin_is_above_0_where_the_measurement_is_as_claimed(table):
    shown = table.set_index("claim")[["measured", "margin", "margin_low", "margin_high", "unit"]]
    assert shown.loc["up"].tolist() == ["supported", 9, 6.12346, 12, "points"]
    assert shown.loc["down"].tolist() == ["contradicted", -3, -5, -1, "points"]
    assert shown.loc["near"].tolist() == [
        "supported",
        3,
        1,
        4,
        "points",
    ]  # 4 minus what is at most 3, at least 0
    assert pd.isna(shown.loc["gone", "margin"]) and pd.isna(shown.loc["said", "margin"])


def test_verdicts_are_counted_and_problems_told(checked):
    told = {"problems": (Problem("a.pdf", "", EVIL),), "merged": (("a", "b", "same DOI"),)}
    shown = html(replace(checked, **told))
    assert (
        "5 claims: 2 supported, 1 contradicted, 2 not measured; sources: 1" in shown
        and "b is a: same DOI" in shown
    )
    assert "a.pdf" in shown and "<img" not in shown


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, {"up", "down", "near", "gone", "said"}),
        ({"measured": "supported"}, {"up", "near"}),
        ({"measured": "not measured", "written": "doubtful"}, {"said", "gone"}),
        ({"group": "number"}, {"said"}),
        ({"measured": "supported", "group": "number"}, set()),
    ],
)
def test_filters_leave_the_claims_that_fit_all_of_them(table, wanted, found):
    wanted.setdefault("written", "all")
    written = (
        set(table["claim"])
        if wanted["written"] == "all"
        else set(table["claim"][table["written"] == "doubtful"])
    )
    shown = html(show_claims(table, **wanted))
    assert {name for name in table["claim"] if f"<b>{name}</b>" in shown} == found & written
    assert f"{len(found & written)} of 5 claims" in shown


def test_filters_and_the_chosen_claim_change_what_is_shown(checked, figures):
    shown = views.browse_claims(checked, figures)
    knobs = {knob.description: knob for knob in shown.children[0].children}
    knobs["measured"].value = "contradicted"
    assert "<b>down</b>" in shown.children[1].value and "<b>up</b>" not in shown.children[1].value
    assert "best sentence" in shown.children[1].value, "the evidence of the first claim"
    knobs["claim"].value = "gone"
    assert "no row arm=y" in shown.children[1].value


def test_each_filter_offers_what_occurs(table):
    offered = claim_filters(table)
    assert offered["measured"] == ("all", "supported", "contradicted", "not measured")
    assert offered["group"] == ("all", "finding", EVIL, "number")


def test_the_evidence_of_a_claim_shows_words_checks_and_the_cell(checked, figures):
    shown = html(show_evidence(checked, "up", figures))
    assert (
        "NAT improves EM by 9 points." in shown
        and "supported" in shown
        and "numbers &#10003;" in shown
    )
    assert "<td>nat</td>" in shown and "<td>12</td>" in shown
    assert "<td>nut</td>" not in shown and "<td>6.1235</td>" in shown
    assert "numbers <b>&#10007;</b>" in html(show_evidence(checked, "said", figures))


def test_evidence_of_a_cell_that_is_gone_says_so(checked, figures):
    assert "no row arm=y" in html(show_evidence(checked, "gone", figures))


def test_an_unknown_claim_lists_those_there_are(checked, figures):
    with pytest.raises(ValueError, match="no claim 'x'; there are up, down"):
        show_evidence(checked, "x", figures)


def test_the_figure_of_the_measurement_is_shown_where_there_is_one(checked, figures):
    assert "<img" not in html(show_evidence(checked, "up", figures))
    (figures / "t.png").write_bytes(b"png")
    assert 'src="data:image/png;base64,cG5n"' in html(show_evidence(checked, "up", figures))
    (figures / "t.png").unlink()


def test_no_text_of_a_claim_source_or_model_is_rendered(checked, table, figures):
    opinion = Opinion("sceptic", 3.0, (EVIL,), by=EVIL)
    said = Review((Round((), (opinion,)),), MappingProxyType({EVIL: EVIL}), False, EVIL)
    pages = [show_claims(table), said, views.show_candidates(Candidates((CLAIMS[3],)))]
    pages += [show_evidence(checked, claim.id, figures) for claim in CLAIMS]
    entry = {"date": "d", "claim": EVIL, "change": EVIL, "reason": EVIL}
    pages += [Report(figures, {"corrections": [entry]}, ())]
    for page in pages:
        shown = html(page)
        assert "<script" not in shown and "<img" not in shown and "href" not in shown
        assert "&lt;script" in shown or "javascript" not in shown


def test_a_review_shows_votes_comments_and_what_was_taken_out(checked):
    shown = html(review(checked))
    assert "Round 1" in shown and "Round 2" in shown and "sceptic" in shown
    assert "a measurement contradicts it" in shown


def test_no_corrections_and_no_candidates_say_so(checked, tmp_path):
    shown = html(write_report(checked, tmp_path / "pocket", review(checked)))
    assert (
        "no verdict has changed" in shown
        and "report.bib, report.html, report.json, report.md" in shown
    )
    assert "none" in html(views.show_candidates(Candidates()))


def test_candidates_beyond_the_limit_are_counted():
    assert "2 more" in html(views.show_candidates(Candidates((CLAIMS[3],) * 3), limit=1))


def test_figures_hold_what_their_tables_say(table, weakness, tmp_path):
    figure = views.draw_verdicts(table)
    counts, margins = figure.axes
    assert sum(float(bar.get_width()) for bar in counts.patches) == len(table)
    assert [label.get_text() for label in margins.get_yticklabels()] == ["near", "down", "up"]
    drawn = views.draw_weakness(weakness)
    first = weakness[weakness["pairs"] == HELD_OUT].iloc[::-1]
    assert drawn.axes[0].lines[0].get_xdata().tolist() == (100 * first["recall"]).tolist()
    for name, one, numbers in (("v", figure, table), ("w", drawn, weakness)):
        views.save_figure(one, numbers, name, tmp_path)
        again = views.redraw(tmp_path / f"{name}.csv")
        assert [len(a.lines) for a in again.axes] == [len(a.lines) for a in one.axes]


def test_nothing_measured_is_drawn_as_that():
    checked = check_claims([replace(CLAIMS[0], measure=None)], [])
    figure = views.draw_verdicts(views.claims_table(checked))
    assert "No claim is measured" in figure.axes[1].texts[0].get_text()
