"""The review, the report and the record of corrections."""

import json
import re
from dataclasses import replace

import pytest

from negfail_nb.claims import (
    Checked,
    Claim,
    RecordAltered,
    Source,
    Verdict,
    check_claims,
    paper_claims,
    paper_sources,
    read_corrections,
    review,
    reviewing,
    write_report,
)
from negfail_nb.claims.report import append_correction
from negfail_nb.settings import ClaimSettings

EVIL = (
    "<script>alert(1)</script> <img src=x onerror=y> [a](javascript:b) | `c` **NAT** improves 9 "
    "points http://x.y"
)
GOOD = dict(measured="supported", value=9.0, low=6.0, high=12.0, n=90, written="backed", tier="A")
WRONG = GOOD | dict(measured="contradicted", tier="X")
OPEN = GOOD | dict(measured="undecided", tier="B")
LOST = dict(written="not found", tier="D")


def checked(*verdicts):
    claims = tuple(
        Claim(id=f"c{i}", text="NAT helps.", source="s", quotation="NAT")
        for i in range(len(verdicts))
    )
    made = tuple(Verdict(claim=f"c{i}", **fields) for i, fields in enumerate(verdicts))
    return Checked(
        claims, made, (Source(id="s", title="T"),), (), {"settings": {"threshold": 0.15}}
    )


@pytest.mark.parametrize(
    ("verdicts", "rounds", "withdrawn", "passed"),
    [
        ([GOOD, GOOD], 1, set(), True),
        ([GOOD, WRONG, OPEN], 2, {"c1", "c2"}, True),
        (
            [GOOD] * 9 + [WRONG],
            2,
            {"c9"},
            True,
        ),  # however good the rest, a contradicted claim is not stated
        ([LOST, LOST], 2, {"c0", "c1"}, False),
    ],
)
def test_what_is_not_established_leaves_the_findings(verdicts, rounds, withdrawn, passed):
    found = review(checked(*verdicts))
    assert (len(found.rounds), set(found.withdrawn), found.passed) == (rounds, withdrawn, passed)
    assert not set(found.rounds[-1].stated) & withdrawn
    assert [o.role for o in found.rounds[0].opinions] == ["sceptic", "validator", "synthesiser"]
    assert all(0 <= o.score <= 10 for r in found.rounds for o in r.opinions)
    assert "rules" in found.kind


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (GOOD | {"n": 12}, "fewer than 50 questions: c0"),
        (GOOD | {"low": None, "high": None}, "without an interval: c0"),
        (GOOD, "no negative result is told"),
        (GOOD | {"written": "no source"}, "not among the sources: c0"),
        (GOOD | {"written": "doubtful"}, "a check of its words failed: c0"),
    ],
)
def test_each_fault_is_commented(fields, said):
    comments = [c for o in review(checked(fields)).rounds[0].opinions for c in o.comments]
    assert any(said in comment for comment in comments)


def test_a_draft_below_the_pass_mark_is_revised_once(monkeypatch):
    monkeypatch.setattr(reviewing, "PASS_SCORE", 10.0)
    assert len(review(checked(GOOD)).rounds) == 2
    with pytest.raises(ValueError, match="no claims"):
        review(checked())


def papers(**settings):
    return check_claims(paper_claims(), paper_sources(), settings=ClaimSettings(**settings))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_report_is_made_again_byte_by_byte(tmp_path):
    write_report(papers(), tmp_path / "a")
    first = contents(tmp_path / "a")
    assert set(first) == {"report.json", "report.md", "report.html", "report.bib"}
    write_report(papers(), tmp_path / "a", date="2031-01-01")
    write_report(papers(), tmp_path / "elsewhere")
    assert contents(tmp_path / "a") == contents(tmp_path / "elsewhere") == first


def test_text_of_sources_is_shown_and_never_rendered(tmp_path):
    claim = Claim(id="<b>c</b>", text=EVIL, source="s", quotation=EVIL, place="<i>p</i>")
    found = check_claims([claim], [Source(id="s", title="<u>t</u>", text=EVIL, url="javascript:x")])
    write_report(found, tmp_path, command="<kbd>make</kbd>")
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for mark in ("<script", "<img", "<b>", "<i>", "<u>", "<kbd>"):
        assert mark not in page and mark not in text
    assert "href" not in page and "http://x.y" not in text and not re.search(r"(?<!\\)\]\(", text)
    assert "&lt;script&gt;" in page and "<script" not in found._repr_html_()


def test_the_table_of_markdown_keeps_its_columns(tmp_path):
    claim = Claim(id="c", text="a | b\n\n| c", source="s")
    write_report(check_claims([claim], [Source(id="s", text="a")]), tmp_path)
    rows = [
        line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| ")
    ]
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}


def test_the_record_says_what_it_was_made_from(tmp_path):
    record = json.loads(
        (write_report(papers(), tmp_path, command="make run").folder / "report.json").read_text()
    )
    assert record["schema"] == 1 and record["provenance"]["command"] == "make run"
    assert {"claims", "sources", "tables", "settings", "versions"} <= set(record["provenance"])
    assert record["uncertainty"] and any(
        "all rules: precision" in line for line in record["checks"]
    )
    other = papers(threshold=0.2)
    assert other.provenance["settings"] != record["provenance"]["settings"]


def test_a_verdict_that_changed_is_appended_and_stays(tmp_path):
    write_report(checked(GOOD, GOOD), tmp_path, date="2026-01-01")
    assert not (tmp_path / "corrections.jsonl").exists()
    report = write_report(checked(GOOD, WRONG), tmp_path, date="2026-01-02")
    assert report.corrected == ("c1",)
    write_report(checked(GOOD, WRONG), tmp_path, date="2026-01-03")
    write_report(checked(GOOD), tmp_path, date="2026-01-04")
    entries = read_corrections(tmp_path / "corrections.jsonl")
    assert [(e["date"], e["claim"]) for e in entries] == [
        ("2026-01-02", "c1"),
        ("2026-01-04", "c1"),
    ]
    assert entries[0]["change"] == "measured: supported -> contradicted; tier: A -> X"
    assert "2026-01-02" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("damage", ["change", "first line out", "swap", "no JSON"])
def test_a_record_that_was_altered_is_refused(tmp_path, damage):
    path = tmp_path / "corrections.jsonl"
    for number in range(3):
        append_correction(path, "2026-01-01", f"c{number}", "tier: A -> B", "")
    lines = path.read_text().splitlines()
    lines = {
        "change": [lines[0].replace("A -> B", "A -> X"), *lines[1:]],
        "first line out": lines[1:],
        "swap": [lines[1], lines[0], lines[2]],
        "no JSON": [*lines, "{"],
    }[damage]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordAltered, match="line"):
        write_report(checked(GOOD), tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 0}'])
def test_an_earlier_report_that_is_damaged_is_not_written_over(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match="move it away"):
        write_report(checked(GOOD), tmp_path)
    assert (tmp_path / "report.json").read_text() == content


def test_keys_do_not_reach_the_report(tmp_path):
    found = checked(GOOD)
    secret = "sk-" + "a1" * 20
    found = replace(found, claims=(replace(found.claims[0], quotation=secret),))
    write_report(found, tmp_path, command=f"run --key {secret}")
    assert all(secret.encode() not in content for content in contents(tmp_path).values())
