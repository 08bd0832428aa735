"""Measured evidence, and the verdict on a claim as a whole."""

import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.claims import (
    Claim,
    Measure,
    Source,
    Term,
    check_claims,
    paper_claims,
    paper_sources,
)
from negfail_nb.claims.evidence import _side, finished_runs, judge
from negfail_nb.claims.extraction import find_quotation
from negfail_nb.content import fingerprint

STAGE = "abcdef0123456789"


def save(folder, rows, name="t", fingerprints=None):
    table = pd.DataFrame(rows)
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    record = {"table": fingerprint(text), "provenance": fingerprints or {"fingerprint": STAGE}}
    (folder / f"{name}.json").write_text(json.dumps(record))


def row(arm, value, low, high, questions=60):
    return {
        "arm": arm,
        "seed": "",
        "em": value,
        "em_low": low,
        "em_high": high,
        "questions": questions,
    }


def measure(*terms, **kwargs):
    return Measure(csv="t.csv", column="em", terms=terms, **kwargs)


def arm(name, weight=1.0, take="only"):
    return Term(row={"arm": name}, weight=weight, take=take)


@pytest.fixture
def figures(tmp_path):
    rows = [
        row("vanilla", 0, -0.5, 0.5),
        row("nut", 3, 1, 5),
        row("nat", 9, 6, 12),
        row("worse", -4, -7, -1),
        row("x", 1, -1, 3),
    ]
    save(tmp_path / "figures", rows)
    return tmp_path / "figures"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (measure(arm("nat")), ("supported", 9, 6, 12)),
        (measure(arm("nat"), direction="below"), ("contradicted", 9, 6, 12)),
        (measure(arm("x")), ("undecided", 1, -1, 3)),
        (measure(arm("worse"), direction="below"), ("supported", -4, -7, -1)),
        (measure(arm("nat"), arm("nut", -1.0)), ("supported", 6, 1, 11)),  # 6 - 5 to 12 - 1
        (measure(arm("nut"), arm("nat", -1.0)), ("contradicted", -6, -11, -1)),
        (measure(arm("n*", take="first")), ("supported", 3, 1, 5)),
        (measure(arm("n*", take="last")), ("supported", 9, 6, 12)),
        (measure(arm("x"), direction="within", threshold=3.5), ("supported", 1, -1, 3)),
        (
            measure(arm("*", take="every"), direction="within", threshold=5.5),
            ("contradicted", 9, 6, 12),
        ),
        (
            measure(arm("*", take="every"), direction="within", threshold=7.0),
            ("undecided", 9, 6, 12),
        ),
        (measure(arm("nat"), threshold=13.0), ("contradicted", 9, 6, 12)),
    ],
)
def test_the_interval_decides(figures, made, expected):
    found = judge(made, figures)
    assert (found.measured, found.value, found.low, found.high) == expected
    assert found.n == 60


@given(low=st.floats(-50, 50), width=st.floats(0, 50), threshold=st.floats(-50, 50))
def test_what_supports_a_claim_contradicts_its_opposite(low, width, threshold):
    sides = [
        _side(measure(arm("a"), direction=d, threshold=threshold), low, low + width)
        for d in ("above", "below")
    ]
    assert set(sides) in ({"undecided"}, {"supported", "contradicted"})


@pytest.mark.parametrize(("low", "high"), [(0, 12), (-12, 0), (0, 0), (6, 6)])
def test_an_interval_that_touches_the_threshold_or_has_no_width_does_not_decide(
    tmp_path, low, high
):
    save(tmp_path / "f", [row("nat", (low + high) / 2, low, high)])
    for direction in ("above", "below"):
        assert (
            judge(measure(arm("nat"), direction=direction), tmp_path / "f").measured == "undecided"
        )


@pytest.mark.parametrize(("take", "value"), [("first", 7), ("last", 2)])
def test_first_and_last_may_go_by_a_number_and_not_by_the_table(tmp_path, take, value):
    rows = [
        row("long@512", 7, 5, 9) | {"length": 512},
        row("long@1024", 2, 1, 3) | {"length": 1024},
    ]
    save(tmp_path / "f", rows[::-1])
    term = Term(row={"arm": "long@*"}, take=take, order="length")
    assert judge(measure(term), tmp_path / "f").value == value
    lost = judge(measure(Term(row={"arm": "long@*"}, take=take, order="tokens")), tmp_path / "f")
    assert lost.measured == "not measured" and "no column tokens" in lost.reason


def test_what_the_others_are_compared_with_is_no_evidence(tmp_path):
    rows = [
        {
            "arm": name,
            "em_difference": value,
            "em_difference_low": value - 1,
            "em_difference_high": value + 1,
        }
        | {"baseline": "vanilla"}
        for name, value in (("vanilla", 0), ("nat", 3), ("nut", 2))
    ]
    save(tmp_path / "f", rows)
    made = {"csv": "t.csv", "column": "em_difference"}
    found = judge(Measure(terms=(arm("vanilla"),), **made), tmp_path / "f")
    assert found.measured == "not measured" and "compared with" in found.reason
    assert judge(Measure(terms=(arm("*", take="first"),), **made), tmp_path / "f").value == 3
    every = Measure(terms=(arm("*", take="every"),), direction="within", threshold=5.0, **made)
    assert "all of 2 rows" in judge(every, tmp_path / "f").reason


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (measure(arm("nat-k")), "no row arm=nat-k"),
        (Measure(csv="t.csv", column="f1", terms=(arm("nat"),)), "no column f1"),
        (Measure(csv="t.csv", column="arm", terms=(arm("nat"),)), "is no number"),
        (
            Measure(csv="u.csv", column="em", terms=(arm("nat"),)),
            "no run of this profile has drawn",
        ),
        (measure(arm("n*")), "2 rows"),
    ],
)
def test_a_cell_that_moved_is_not_measured(figures, made, said):
    found = judge(made, figures)
    assert found.measured == "not measured"
    assert said in found.reason


def test_a_table_that_was_edited_is_not_measured(figures):
    path = figures / "t.csv"
    path.write_text(path.read_text().replace("nat,,9,6", "nat,,9,8"))
    assert "changed since its figure was drawn" in judge(measure(arm("nat")), figures).reason


@pytest.mark.parametrize("damage", ["{", "[]", ""])
def test_a_record_that_is_damaged_is_not_measured(figures, damage):
    (figures / "t.json").write_text(damage)
    assert judge(measure(arm("nat")), figures).measured == "not measured"


def test_a_run_that_is_gone_is_not_measured(figures, tmp_path):
    runs = tmp_path / "runs"
    found = judge(measure(arm("nat")), figures, finished_runs(runs))
    assert found.measured == "not measured" and "abcdef01" in found.reason
    folder = runs / "pocket" / "evaluate" / "20260101-abcdef01"
    folder.mkdir(parents=True)
    assert (
        judge(measure(arm("nat")), figures, finished_runs(runs)).measured == "not measured"
    )  # begun, not finished
    (folder / "manifest.json").write_text("{}")
    assert judge(measure(arm("nat")), figures, finished_runs(runs)).measured == "supported"


def test_another_value_than_when_the_claim_was_written_is_said(figures):
    assert "it was 8" in judge(measure(arm("nat"), was=8.0), figures).reason
    assert "it was" not in judge(measure(arm("nat"), was=9.0), figures).reason


def test_a_cell_without_an_interval_does_not_decide(tmp_path):
    save(tmp_path / "f", [{"arm": "nat", "em": 9}])
    assert judge(measure(arm("nat")), tmp_path / "f").measured == "undecided"


@pytest.mark.parametrize("name", ["../t.csv", "/etc/t.csv", "t.json", ".csv"])
def test_a_measure_names_a_table_without_a_folder(name):
    with pytest.raises(ValueError, match="without a folder"):
        Measure(csv=name, column="em", terms=(arm("nat"),))


SOURCE = Source(id="s", text="NAT improves exact match by 9 points over Vanilla. The sky is blue.")
SAID = {"text": "NAT improves exact match by 9 points over Vanilla.", "source": "s"}


@pytest.mark.parametrize(
    ("fields", "cell", "written", "tier"),
    [
        (SAID, "nat", "backed", "A"),
        (SAID, "x", "backed", "B"),
        (SAID, "worse", "backed", "X"),
        (SAID, None, "backed", "B"),
        (
            SAID | {"text": "NAT improves exact match by 8 points over Vanilla."},
            None,
            "doubtful",
            "C",
        ),
        (SAID | {"quotation": "NAT is best"}, None, "doubtful", "C"),
        (SAID | {"text": "Whales sing at night."}, None, "not found", "D"),
        (SAID | {"source": "gone"}, None, "no source", "D"),
        (SAID | {"source": "gone"}, "nat", "no source", "B"),
        ({"text": SAID["text"]}, None, "backed", "B"),
    ],
)
def test_the_tier_follows_its_rule(figures, fields, cell, written, tier):
    claim = Claim(id="c", measure=measure(arm(cell)) if cell else None, **fields)
    verdict = check_claims([claim], [SOURCE], figures).verdicts[0]
    assert (verdict.written, verdict.tier) == (written, tier)


def test_the_claims_of_the_papers_are_quoted_from_their_sources():
    sources = {source.id: source for source in paper_sources()}
    claims = paper_claims()
    assert {claim.source for claim in claims} <= set(sources)
    assert all(find_quotation(claim.quotation, [sources[claim.source]]) for claim in claims)
    checked = check_claims(claims, sources.values())
    assert {verdict.written for verdict in checked.verdicts} == {"backed"}
    assert {verdict.measured for verdict in checked.verdicts} == {"not measured"}


def test_the_findings_of_the_paper_are_judged_from_the_tables_of_a_sweep(tmp_path):
    """The cells that the claims name are those that `views.study_table` writes."""
    from negfail_nb import views
    from negfail_nb.conditions import paper_studies
    from negfail_nb.swept import Swept

    rows = [
        {
            "study": c.study,
            "condition": c.name,
            "arm": c.arm,
            "seed": seed,
            "question_id": f"q{q}",
            "em": float((q + seed) % 3 == 0 or (c.arm == "nat" and q % 2 == 0)),
            "action_errors": q % 2,
            "turns": 2,
        }
        for c in paper_studies(120, 480)
        for seed in (0, 1)
        for q in range(12)
    ]
    swept = Swept(pd.DataFrame(rows), pd.DataFrame())
    for study in ("arms", "epochs", "failures", "successes", "wordings", "quality"):
        save(tmp_path / "f", views.study_table(swept, study), f"05_study_{study}")
    save(tmp_path / "f", views.study_table(swept, "arms"), "05_study_action_errors")
    claims = [c for c in paper_claims() if c.measure and c.measure.csv.startswith("05_study")]
    verdicts = check_claims(claims, paper_sources(), tmp_path / "f").verdicts
    assert {v.claim: v.reason for v in verdicts if v.measured == "not measured"} == {}
    assert {v.claim: v.measured for v in verdicts}["nat-failures-help"] == "supported"


def test_a_figure_that_was_saved_is_evidence_and_one_that_was_edited_is_none(tmp_path):
    """What `views.save_figure` writes beside a figure is what a claim is judged by."""
    from negfail_nb import views
    from negfail_nb.views.figures import new_figure

    figure, _ = new_figure()
    rows = pd.DataFrame([row("nat", 9.123456789, 6, 12), row('größer, "x"', 1, -1, 3)])
    views.save_figure(figure, rows, "t", tmp_path, {"fingerprint": STAGE})
    found = judge(measure(arm("nat")), tmp_path, {STAGE[:8]})
    assert found.measured == "supported" and found.value == pytest.approx(9.12346, abs=1e-4)
    assert judge(measure(arm('größer, "x"')), tmp_path).measured == "undecided"
    assert "is gone" in judge(measure(arm("nat")), tmp_path, set()).reason
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace("9.12", "9.92"))
    assert "changed since" in judge(measure(arm("nat")), tmp_path).reason


def test_a_folder_of_runs_says_which_there_are(figures, tmp_path):
    claim, runs = Claim(id="c", text="NAT helps.", measure=measure(arm("nat"))), tmp_path / "runs"
    checked = check_claims([claim], [SOURCE], figures, runs=runs)
    assert checked.verdicts[0].measured == "not measured"
    folder = runs / "pocket" / "evaluate" / "20260101-abcdef01"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    checked = check_claims([claim], [SOURCE], figures, runs=runs)
    assert checked.verdicts[0].measured == "supported" and set(checked.provenance["tables"]) == {
        "t.csv"
    }
