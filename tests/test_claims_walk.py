"""Room 08 of a walk: judged from the tables that are there, kept, and judged anew when what it
rests on changes.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
from mock_server import MockServer
from test_claims_evidence import STAGE, row, save

from negfail_nb.agents.protocol import ModelError
from negfail_nb.claims import (
    Claim,
    Measure,
    RecordAltered,
    Source,
    Term,
    extract_with_model,
    write_records,
)
from negfail_nb.claims.asking import open_ask
from negfail_nb.claims.opening import write_profile_report
from negfail_nb.claims.records import to_record
from negfail_nb.settings import ModelSettings
from negfail_nb.training import load_model, make_tokenizer
from negfail_nb.walk import open_walk

ENDS = {"em_difference_low": 6.0, "em_difference_high": 12.0}
NO_VECTORS = {"claims": {"encoder": ""}}
SAID = "NAT improves exact match by 9 points over Vanilla."


def changed(**stages):
    return {
        stage: {**NO_VECTORS.get(stage, {}), **stages.get(stage, {})}
        for stage in {*NO_VECTORS, *stages}
    }


@pytest.fixture
def home(tmp_path):
    """A project folder with a table, the run that it came from, a claim about it, and the source of
    the claim.
    """
    measure = Measure(csv="t.csv", column="em", terms=(Term(row={"arm": "nat"}),))
    write_records(
        tmp_path / "mine.json", "claims", [Claim(id="c", text=SAID, source="note", measure=measure)]
    )
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "note.md").write_text(f"# A note\n\n{SAID}")
    (tmp_path / "figures").mkdir()
    save(tmp_path / "figures" / "pocket", [row("nat", 9, 6, 12)])
    run = tmp_path / "runs" / "pocket" / "evaluate" / f"20260101-{STAGE[:8]}"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    return tmp_path


def opened(home, **stages):
    own = {"claims": {"file": "mine.json"}, "literature": {"folder": "papers"}}
    given = {stage: {**own.get(stage, {}), **stages.get(stage, {})} for stage in {*own, *stages}}
    return open_walk("pocket", home, changed(**given))


def folders(home):
    return sorted((home / "runs" / "pocket" / "claims").glob("*"))


def verdict(home, **stages):
    return opened(home, **stages).claims().checked.verdicts[0]


def test_claims_are_judged_once_and_read_again(home):
    first = opened(home).claims()
    assert (first.checked.verdicts[0].measured, first.checked.verdicts[0].tier) == (
        "supported",
        "A",
    )
    again = opened(home).claims()
    assert (
        again.checked == first.checked and again.review == first.review and len(folders(home)) == 1
    )
    assert set(again.weakness["pairs"]) == {"chosen on", "held out", "generated"}
    assert [(c.source, c.quotation) for c in again.candidates] == [("note", SAID)]


def test_a_table_that_changed_is_judged_anew(home):
    assert verdict(home).measured == "supported"
    save(home / "figures" / "pocket", [row("nat", -9, -12, -6)])
    assert verdict(home).measured == "contradicted" and len(folders(home)) == 2


def test_a_cell_that_moved_is_not_measured_any_more(home):
    assert verdict(home).measured == "supported"
    save(home / "figures" / "pocket", [row("nat-k", 9, 6, 12)])
    found = verdict(home)
    assert found.measured == "not measured" and "no row arm=nat" in found.reason


def test_a_run_that_is_gone_is_noticed_and_its_claims_are_not_measured(home):
    assert verdict(home).measured == "supported"
    shutil.rmtree(home / "runs" / "pocket" / "evaluate")
    found = verdict(home)
    assert found.measured == "not measured" and STAGE[:8] in found.reason


def test_without_any_figure_nothing_is_measured_and_nothing_fails(tmp_path):
    judged = open_walk("pocket", tmp_path, NO_VECTORS).claims()
    assert {v.measured for v in judged.checked.verdicts} == {"not measured"}
    assert {v.written for v in judged.checked.verdicts} == {"backed"}


def test_the_encoder_of_retrieval_gives_the_dense_similarity(home):
    pytest.importorskip("sentence_transformers")
    found = verdict(home, claims={"file": "mine.json", "encoder": "auto"})
    assert found.dense == pytest.approx(1.0, abs=1e-3) and found.checks["dense"]


def test_a_folder_without_sources_is_an_error(home):
    (home / "empty").mkdir()
    with pytest.raises(ValueError, match="no source in .*empty; give .txt"):
        opened(home, literature={"folder": "empty"}).claims()


def test_a_search_takes_what_fits_and_tells_what_it_did_not_find(home):
    (home / "papers" / "whales.md").write_text("Whales sing.")
    judged = opened(
        home, literature={"folder": "papers", "queries": ["exact match", "quantum"]}
    ).claims()
    assert [(s.id, s.query) for s in judged.checked.sources] == [("note", "exact match")]
    assert [str(p) for p in judged.checked.problems] == ["folder:quantum: nothing was found"]


def test_a_source_that_a_claim_names_stays_whatever_is_searched(home):
    (home / "papers" / "whales.md").write_text("Whales sing.")
    judged = opened(home, literature={"folder": "papers", "queries": ["whales"]}).claims()
    assert [s.id for s in judged.checked.sources] == ["note", "whales"]
    assert judged.checked.verdicts[0].written == "backed"


def test_a_search_of_a_network_alone_needs_queries(home):
    with pytest.raises(ValueError, match="say what to search"):
        opened(home, literature={"searches": ["arxiv"]}).claims()


def test_the_how_to_holds(home, monkeypatch):
    """Its file of claims can be read, and its code runs, in a project of one's own."""
    page = (Path(__file__).parents[1] / "docs" / "claims.md").read_text(encoding="utf-8")
    (claims,), (code,) = (
        re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("toml", "python")
    )
    (home / "claims.toml").write_text(claims)
    monkeypatch.chdir(home)
    save(
        Path("figures/pocket"),
        [{"arm": "nat", "seed": "", "em_difference": 9.3} | ENDS],
        "05_agents",
    )
    names = {}
    exec(code, names)
    assert [v.measured for v in names["checked"].verdicts] == ["supported"]
    assert (home / "report" / "report.html").is_file()
    assert 'terms": [{"row": {"arm": "nat", "seed": ""}' in json.dumps(
        to_record(names["checked"].claims[0])
    )


# A model extracts, and plays the roles


class Answers(MockServer):
    """Answers prompts of extraction and of the roles."""

    said = "[]"
    opinion = '{"score": 8, "comments": ["c is measured once"]}'

    def _reply(self, path, authorization, body):
        status, answer = super()._reply(path, authorization, body)
        extracts = "List its findings" in body["messages"][-1]["content"]
        if status == 200:
            answer["choices"][0]["message"]["content"] = self.said if extracts else self.opinion
        return status, answer


@pytest.fixture
def server():
    with Answers(model="m") as server:
        yield server


def asked(home, server, **claims):
    endpoint = {"base_url": server.url, "model": "m", "timeout": 20.0, "retries": 0}
    return opened(home, endpoint=endpoint, claims={"file": "mine.json", **claims})


def test_a_model_behind_an_endpoint_extracts_and_only_its_exact_quotations_count(home, server):
    server.said = json.dumps(
        [{"claim": "NAT helps.", "quotation": SAID}, {"claim": "x", "quotation": "invented"}]
    )
    judged = asked(home, server, extraction="endpoint").claims()
    assert [(c.text, c.quotation) for c in judged.candidates] == [("NAT helps.", SAID)]
    assert [str(p) for p in judged.checked.problems] == [
        "note:x: its quotation does not stand in the source"
    ]
    assert "rules" in judged.review.kind and len(server.requests) == 1


def test_a_model_plays_the_three_roles_and_is_named(home, server):
    said = asked(home, server, roles="endpoint").claims().review
    assert [(o.role, o.score, o.by) for o in said.rounds[0].opinions] == [
        (role, 8.0, "m") for role in ("sceptic", "validator", "synthesiser")
    ]
    assert said.passed and "language model m" in said.kind and len(server.requests) == 3
    assert "sceptic" in server.requests[0]["messages"][0]["content"] and SAID in str(
        server.requests[0]
    )


@pytest.mark.parametrize("answer", ["Fine.", '{"score": 11}', '{"score": true}', "[]"])
def test_an_answer_that_is_no_opinion_is_replaced_by_the_rule_and_told(home, server, answer):
    server.opinion = answer
    first = asked(home, server, roles="endpoint").claims().review.rounds[0].opinions[0]
    assert first.by == "rules" and "m gave no opinion that could be used" in first.comments[0]


def test_a_low_vote_of_a_model_is_revised_once_and_all_of_it_kept(home, server):
    server.opinion = '{"score": 2, "comments": "too few questions"}'
    said = asked(home, server, roles="endpoint").claims().review
    assert len(said.rounds) == 2 and not said.passed
    assert said.rounds[0].opinions[0].comments == ("too few questions",)


def test_a_model_that_cannot_be_asked_stops_with_its_reason(home, server):
    server.key = "secret"
    with pytest.raises(ModelError, match="401"):
        asked(home, server, extraction="endpoint").claims()
    assert not [folder for folder in folders(home) if (folder / "manifest.json").exists()]


def test_a_model_on_this_machine_is_asked_too(home):
    tokenizer = make_tokenizer([SAID, "You are the sceptic: score and comments."] * 3, 400)
    load_model(
        ModelSettings(layers=1, width=32, heads=2, vocabulary=400, positions=1024), tokenizer
    ).save_pretrained(home / "tiny")
    tokenizer.save_pretrained(home / "tiny")
    profile = opened(home, model={"name": "tiny"}).resolved()
    ask, name = open_ask(profile, "model", tokens=8)
    answer = ask("List the findings.")
    assert isinstance(answer, str) and answer == ask("List the findings.") and name.endswith("tiny")
    claims, problems = extract_with_model([Source(id="s", text=SAID)], ask)
    assert (
        claims == [] and "no list of claims from the model" in problems[0].reason
    )  # it has learnt nothing


def test_a_profile_without_a_model_says_what_to_name(home):
    with pytest.raises(ValueError, match=r"model\.name is empty"):
        opened(home, model={"name": ""}, claims={"file": "mine.json", "roles": "model"}).claims()


# The report beside the figures


def judge(home):
    walk = opened(home, claims={"encoder": ""})
    judged = walk.claims()
    write_profile_report(judged, walk)
    return judged


def report(home):
    return {p.name: p.read_bytes() for p in sorted((home / "reports" / "pocket").glob("report.*"))}


def test_the_report_is_written_twice_the_same(home):
    judge(home)
    first = report(home)
    assert set(first) == {f"report.{ending}" for ending in ("html", "md", "json", "bib")}
    shutil.rmtree(home / "runs" / "pocket" / "claims")
    judge(home)
    assert report(home) == first
    assert json.loads(first["report.json"])["verdicts"][0]["measured"] == "supported"


def test_a_verdict_that_changed_stands_in_the_record_of_corrections(home):
    judge(home)
    save(home / "figures" / "pocket", [row("nat", -9, -12, -6)])
    judge(home)
    record = home / "reports" / "pocket" / "corrections.jsonl"
    assert "measured: supported -> contradicted" in record.read_text()
    record.write_text(record.read_text().replace("contradicted", "undecided"))
    with pytest.raises(RecordAltered):
        judge(home)


def test_a_claim_or_source_that_spells_html_is_shown_and_not_rendered(home):
    evil = "<script>alert(1)</script> improves EM by 3 points."
    write_records(
        home / "mine.json", "claims", [Claim(id="c", text=evil, source="note", quotation=evil)]
    )
    write_records(
        home / "papers" / "note.json", "sources", [Source(id="note", title="<b>x</b>", text=evil)]
    )
    judge(home)
    page = report(home)["report.html"].decode()
    assert "<script" not in page and "<b>" not in page and "&lt;script&gt;" in page
