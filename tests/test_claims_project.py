"""Claims of a project, as notebook 08 checks them: from its file of claims, its papers and the
tables in its figures; with a model that extracts and reviews; and the report of it all.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
from mock_server import MockServer
from test_claims_evidence import STAGE, row, save

from negfail_nb.agents import EndpointModel, LocalModel, ModelError
from negfail_nb.claims import (
    Claim,
    Measure,
    RecordAltered,
    Source,
    Term,
    check_claims,
    extract_claims,
    measure_weakness,
    open_ask,
    open_encoder,
    open_literature,
    paper_claims,
    read_claims,
    review,
    write_records,
    write_report,
)
from negfail_nb.settings import ClaimSettings, EndpointSettings, LiteratureSettings, ModelSettings
from negfail_nb.training import load_model, make_tokenizer

ENDS = {"em_difference_low": 6.0, "em_difference_high": 12.0}
SAID = "NAT improves exact match by 9 points over Vanilla."


@pytest.fixture
def home(tmp_path):
    """A project folder with a table, the run that it came from, a claim about it, and the source of
    the claim.
    """
    measure = Measure(csv="t.csv", column="em", terms=(Term(row={"arm": "nat"}),))
    claim = Claim(id="c", text=SAID, source="note", measure=measure)
    write_records(tmp_path / "mine.json", "claims", [claim])
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "note.md").write_text(f"# A note\n\n{SAID}")
    (tmp_path / "figures").mkdir()
    save(tmp_path / "figures" / "pocket", [row("nat", 9, 6, 12)])
    run = tmp_path / "runs" / "pocket" / "evaluate" / f"20260101-{STAGE[:8]}"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    return tmp_path


def found(home, claims=(), **literature):
    settings = LiteratureSettings(**{"folder": str(home / "papers"), **literature})
    return open_literature(settings, home / "runs" / "pocket" / "literature", claims)


def check(home, encoder=None, **literature):
    claims, figures = read_claims(home / "mine.json"), home / "figures" / "pocket"
    sources = found(home, claims, **literature)
    return check_claims(claims, sources, figures, encoder=encoder, runs=home / "runs")


def verdict(home, **literature):
    return check(home, **literature).verdicts[0]


def test_a_claim_is_judged_from_its_source_its_table_and_the_run_behind_it(home):
    first = check(home)
    assert (first.verdicts[0].measured, first.verdicts[0].tier) == ("supported", "A")
    assert first == check(home) and review(first) == review(check(home))


def test_weakness_is_measured_on_three_sets():
    assert set(measure_weakness()["pairs"]) == {"chosen on", "held out", "generated"}


def test_the_sources_offer_candidates(home):
    assert [(c.source, c.quotation) for c in extract_claims(found(home).sources).claims] == [
        ("note", SAID)
    ]


def test_a_table_that_changed_is_judged_anew(home):
    assert verdict(home).measured == "supported"
    save(home / "figures" / "pocket", [row("nat", -9, -12, -6)])
    assert verdict(home).measured == "contradicted"


def test_a_cell_that_moved_is_not_measured_any_more(home):
    save(home / "figures" / "pocket", [row("nat-k", 9, 6, 12)])
    found = verdict(home)
    assert found.measured == "not measured" and "no row arm=nat" in found.reason


def test_a_run_that_is_gone_is_noticed_and_its_claims_are_not_measured(home):
    for gone in (home / "runs" / "pocket" / "evaluate", home / "runs"):
        shutil.rmtree(gone)
        found = verdict(home)
        assert found.measured == "not measured" and STAGE[:8] in found.reason


def test_without_any_figure_nothing_is_measured_and_nothing_fails(tmp_path):
    checked = check_claims(paper_claims(), open_literature(), tmp_path / "figures")
    assert {v.measured for v in checked.verdicts} == {"not measured"}
    assert {v.written for v in checked.verdicts} == {"backed"}


def test_the_encoder_of_retrieval_gives_the_dense_similarity(home):
    pytest.importorskip("sentence_transformers")
    (found,) = check(home, encoder=open_encoder("auto")).verdicts
    assert found.dense == pytest.approx(1.0, abs=1e-3) and found.checks["dense"]


def test_a_folder_without_sources_is_an_error(home):
    (home / "empty").mkdir()
    with pytest.raises(ValueError, match="no source in .*empty; give .txt"):
        found(home, folder=str(home / "empty"))


def test_a_search_takes_what_fits_and_tells_what_it_did_not_find(home):
    (home / "papers" / "whales.md").write_text("Whales sing.")
    checked = check(home, queries=["exact match", "quantum"])
    assert [(s.id, s.query) for s in checked.sources] == [("note", "exact match")]
    assert [str(p) for p in checked.problems] == ["folder:quantum: nothing was found"]


def test_a_source_that_a_claim_names_stays_whatever_is_searched(home):
    (home / "papers" / "whales.md").write_text("Whales sing.")
    checked = check(home, queries=["whales"])
    assert [s.id for s in checked.sources] == ["note", "whales"]
    assert checked.verdicts[0].written == "backed"


def test_a_search_of_a_network_alone_needs_queries(home):
    with pytest.raises(ValueError, match="say what to search"):
        found(home, searches=["arxiv"])


def test_the_how_to_holds(home, monkeypatch):
    """Its file of claims can be read, and its code runs, in a project of one's own."""
    page = (Path(__file__).parents[1] / "docs" / "claims.md").read_text(encoding="utf-8")
    (claims,), (code,) = (
        re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("toml", "python")
    )
    (home / "claims.toml").write_text(claims)
    monkeypatch.chdir(home)
    rows = [{"arm": "nat", "seed": "", "em_difference": 9.3} | ENDS]
    save(Path("runs/pocket/figures"), rows, "05_agents")
    names = {}
    exec(code, names)
    assert [v.measured for v in names["checked"].verdicts] == ["supported"]
    assert (home / "report" / "report.html").is_file()
    assert names["checked"].claims[0].measure.terms == (Term(row={"arm": "nat", "seed": ""}),)


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


def asker(server, folder=""):
    settings = EndpointSettings(base_url=server.url, model="m", timeout=20.0, retries=0)
    return open_ask(EndpointModel(settings), folder)


def test_a_model_behind_an_endpoint_extracts_and_only_its_exact_quotations_count(home, server):
    server.said = json.dumps(
        [{"claim": "NAT helps.", "quotation": SAID}, {"claim": "x", "quotation": "invented"}]
    )
    candidates = extract_claims(found(home).sources, asker(server))
    assert [(c.text, c.quotation) for c in candidates.claims] == [("NAT helps.", SAID)]
    assert [str(p) for p in candidates.problems] == [
        "note:x: its quotation does not stand in the source"
    ]
    assert len(server.requests) == 1


def test_a_model_plays_the_three_roles_and_is_named(home, server):
    said = review(check(home), ask=asker(server))
    assert [(o.role, o.score, o.by) for o in said.rounds[0].opinions] == [
        (role, 8.0, "m") for role in ("sceptic", "validator", "synthesiser")
    ]
    assert said.passed and "language model m" in said.kind and len(server.requests) == 3
    first = server.requests[0]
    assert "sceptic" in first["messages"][0]["content"] and SAID in str(first)


def test_answers_of_a_model_are_kept_and_not_asked_for_again(home, server):
    first = review(check(home), ask=asker(server, home / "answers"))
    again = review(check(home), ask=asker(server, home / "answers"))
    assert first == again and len(server.requests) == 3
    save(home / "figures" / "pocket", [row("nat", -9, -12, -6)])
    review(check(home), ask=asker(server, home / "answers"))
    assert len(server.requests) > 3  # another draft is another prompt


@pytest.mark.parametrize("answer", ["Fine.", '{"score": 11}', '{"score": true}', "[]"])
def test_an_answer_that_is_no_opinion_is_replaced_by_the_rule_and_told(home, server, answer):
    server.opinion = answer
    first = review(check(home), ask=asker(server)).rounds[0].opinions[0]
    assert first.by == "rules" and "m gave no opinion that could be used" in first.comments[0]


def test_a_low_vote_of_a_model_is_revised_once_and_all_of_it_kept(home, server):
    server.opinion = '{"score": 2, "comments": "too few questions"}'
    said = review(check(home), ask=asker(server))
    assert len(said.rounds) == 2 and not said.passed
    assert said.rounds[0].opinions[0].comments == ("too few questions",)


def test_a_model_that_cannot_be_asked_stops_with_its_reason(home, server):
    server.key = "secret"
    with pytest.raises(ModelError, match="401"):
        extract_claims(found(home).sources, asker(server, home / "answers"))
    assert not (home / "answers").exists()


def test_a_model_on_this_machine_is_asked_too():
    tokenizer = make_tokenizer([SAID, "You are the sceptic: score and comments."] * 3, 400)
    settings = ModelSettings(layers=1, width=32, heads=2, vocabulary=400, positions=1024)
    ask = open_ask(LocalModel(load_model(settings, tokenizer), tokenizer, "tiny"), tokens=8)
    answer = ask("List the findings.")
    assert isinstance(answer, str) and answer == ask("List the findings.") and ask.name == "tiny"
    candidates = extract_claims([Source(id="s", text=SAID)], ask)
    assert candidates.claims == ()  # it has learnt nothing
    assert "no list of claims from the model" in candidates.problems[0].reason


# The report


def write(home):
    checked = check(home)
    given = review(checked), measure_weakness()
    return write_report(checked, home / "reports" / "pocket", *given, command="make run")


def contents(home):
    return {p.name: p.read_bytes() for p in sorted((home / "reports" / "pocket").glob("report.*"))}


def test_the_report_is_written_twice_the_same(home):
    write(home)
    first = contents(home)
    assert set(first) == {f"report.{ending}" for ending in ("html", "md", "json", "bib")}
    write(home)
    assert contents(home) == first
    record = json.loads(first["report.json"])
    assert record["verdicts"][0]["measured"] == "supported"
    assert not any("chosen on" in line for line in record["checks"])


def test_a_verdict_that_changed_stands_in_the_record_of_corrections(home):
    write(home)
    save(home / "figures" / "pocket", [row("nat", -9, -12, -6)])
    write(home)
    record = home / "reports" / "pocket" / "corrections.jsonl"
    assert "measured: supported -> contradicted" in record.read_text()
    record.write_text(record.read_text().replace("contradicted", "undecided"))
    with pytest.raises(RecordAltered):
        write(home)


def test_a_claim_or_source_that_spells_html_is_shown_and_not_rendered(home):
    evil = "<script>alert(1)</script> improves EM by 3 points."
    claim = Claim(id="c", text=evil, source="note", quotation=evil)
    write_records(home / "mine.json", "claims", [claim])
    source = Source(id="note", title="<b>x</b>", text=evil)
    write_records(home / "papers" / "note.json", "sources", [source])
    write(home)
    page = contents(home)["report.html"].decode()
    assert "<script" not in page and "<b>" not in page and "&lt;script&gt;" in page


def test_the_settings_of_claims_reach_the_record(home):
    settings = ClaimSettings(threshold=0.2)
    checked = check_claims(paper_claims(), open_literature(), settings=settings)
    assert checked.provenance["settings"]["threshold"] == 0.2
