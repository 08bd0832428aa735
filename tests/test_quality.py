"""02 quality: bad input, notes, the report, real data."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from conftest import real_data
from quality_runs import SETTINGS, react, removed_by, run, runs

from negfail_nb.quality import FILTERS, KINDS, Report, assess, failure_kind, quality_filter
from negfail_nb.trajectory import Source

# --- bad input and notes


def test_nothing_to_assess():
    with pytest.raises(
        ValueError,
        match="there are no trajectories to assess; look at what load_trajectories could not",
    ):
        assess([])


def test_a_path_or_a_dict_is_no_trajectory():
    with pytest.raises(TypeError, match="not text .*use load_trajectories first"):
        assess("logs.jsonl")
    with pytest.raises(TypeError, match="Trajectory records, not dict"):
        assess([{"id": "a"}])


def test_ids_must_be_unique():
    with pytest.raises(ValueError, match="2 trajectories have the id 'a'; load each log once"):
        assess([run("a"), run("a")])


def test_all_removed_names_the_filter_that_removed_most():
    long = ({"role": "user", "content": "word " * 60},)
    logs = [*(t.replace(messages=long + t.messages) for t in runs()), run("u", success=None)]
    message = r"all 13 trajectories were removed, most of them \(12\) by the filter 'too_long' "
    message += r"\(window_tokens=64\)"
    with pytest.raises(ValueError, match=message):
        assess(logs, replace(SETTINGS, window_tokens=64))


@pytest.mark.parametrize(
    ("logs", "note"),
    [
        ([t.replace(success=False) for t in runs()], "No success among the trajectories"),
        ([t.replace(success=True) for t in runs()], "No failure among the trajectories"),
        (runs(questions=1), "about one question: nothing is held out"),
        (runs(9, questions=3), "No success is held out"),
    ],
)
def test_thin_collections_work_and_say_so(logs, note):
    report = assess(logs, replace(SETTINGS, heldout=0.34, seed=4))
    assert len(report.kept) == len(logs)
    assert any(note in text for text in report.notes)


def test_filters_that_leave_no_failure_say_so():
    assert any(
        "No failure is left after the filters" in n
        for n in assess(runs(), replace(SETTINGS, min_score=1.0)).notes
    )


def test_a_healthy_collection_has_no_notes():
    assert assess(runs(60, questions=8), replace(SETTINGS, seed=1)).notes == ()


# --- report


def test_kept_trajectories_carry_split_and_quality_and_are_otherwise_untouched():
    logs = runs(30)
    for before, after in zip(logs, assess(logs).kept, strict=True):
        assert after.split in ("train", "heldout")
        assert after.scores["quality"] == 1.0 if after.success else 0 < after.scores["quality"] < 1
        assert after.replace(split="", scores={}) == before


def test_saved_report_gives_equal_tables(tmp_path):
    call = {"id": "1", "function": {"name": "search", "arguments": '{"query": "x"}'}}
    tricky = run(
        "t",
        question='Whö said "a,b"\n<b>?',
        messages=({"role": "assistant", "content": "", "tool_calls": [call]},),
    )
    report = assess(
        [tricky, run("u", success=None), *runs(20)], replace(SETTINGS, cap_source=8, evaluation=())
    )
    loaded = Report.load(report.save(tmp_path / "quality"))
    assert loaded == report
    for name in ("funnel", "outcomes", "kinds", "table"):
        pd.testing.assert_frame_equal(getattr(loaded, name)(), getattr(report, name)())
        assert len(pd.read_csv(tmp_path / "quality" / f"{name}.csv")) == len(
            getattr(report, name)()
        )


def test_half_saved_report_is_refused(tmp_path):
    folder = assess(runs()).save(tmp_path)
    (folder / "report.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no whole quality report, report\.json missing; save it again"
    ):
        Report.load(folder)


def test_tables_count_what_was_found():
    report = assess(
        [
            *runs(),
            run("p", prediction="Brian Herbert"),
            run("g", prediction="unknown"),
            run("n", success=None),
        ]
    )
    kinds = report.kinds().set_index("kind")
    assert (
        kinds.index.tolist() == [kind.name for kind in KINDS]
        and kinds.description.str.len().gt(10).all()
    )
    assert kinds.loc["wrong_answer", "failures"] == 8 and kinds.loc["gave_up", "primary"] == 1
    assert kinds.loc["wrong_answer", "share"] == pytest.approx(8 / 11)
    assert report.examples("gave_up").id.tolist() == ["g"]
    assert report.outcomes()["count"].sum() == len(report.table()) == 15
    assert report.funnel()["filter"].tolist() == [f.name for f in FILTERS]
    assert report.funnel().set_index("filter").loc["cap_question", "setting"] == "off"


def test_unknown_kind_or_filter_lists_the_known_ones():
    report = assess(runs())
    with pytest.raises(
        ValueError, match="no kind of failure 'typo'; use one of unlabelled, crashed"
    ):
        report.examples("typo")
    with pytest.raises(ValueError, match="no filter 'typo'; use one of no_model_turn"):
        report.removed_examples("typo")


def test_report_shows_itself_and_escapes_what_logs_say():
    evil = "<script>alert(1)</script>"
    html = assess([t.replace(source=Source(model=evil)) for t in runs()])._repr_html_()
    assert (
        "12 of 12 trajectories kept: 4 successes, 8 failures" in html and "near_duplicate" in html
    )
    assert evil not in html and "&lt;script&gt;" in html


# --- a kind of failure and a filter of one's own


@pytest.fixture
def restored():
    """Kinds and filters, as they were before."""
    kept = KINDS[:], FILTERS[:]
    yield
    KINDS[:], FILTERS[:] = kept


def test_a_kind_and_a_filter_are_one_function_each(restored):
    @failure_kind
    def hasty(run):
        """It acted only once."""
        return len(run.acting) == 1

    @quality_filter("seed")
    def even(cases, context):
        """Its place is even, and there is a seed."""
        return {i: "even" for i in range(0, len(cases), 2)}

    logs = [run("once", messages=react("Action: finish[Asimov]")), *runs()]
    report = assess(logs, replace(SETTINGS, seed=1))
    assert report.findings[0].kinds == ("wrong_answer", "hasty")
    assert report.kinds().iloc[-1].tolist() == ["hasty", 1, 1 / 9, 0, 0, "It acted only once."]
    assert len(removed_by(report, "even")) == 7 and len(report.kept) == 6
    assert report.stages[-1].setting == "seed=1"
    assert assess(runs()).stages[-1].setting == "off"


# --- real data


def test_strategyqa_leakage_is_found(tmp_path):
    """All 200 questions that are copied into the evaluation file are found, edited ones too; the
    others stay.
    """
    path = real_data("strategyqa/strategyqa_train_filtered.json")
    questions = list(dict.fromkeys(record["question"] for record in json.loads(path.read_text())))
    logs = [
        run(f"s{i}", success=bool(i % 2), question=q, question_id=str(i))
        for i, q in enumerate(questions[:1000])
    ]
    exact, near, fresh = questions[:100], questions[100:200], questions[1000:1200]
    lines = [
        *exact,
        *(f"{q.rstrip('?').lower()} ?" for q in near[:50]),
        *(f"{q} please" for q in near[50:]),
        *fresh,
    ]
    evaluation = tmp_path / "test.jsonl"
    evaluation.write_text("\n".join(json.dumps({"question": line}) for line in lines))
    found = set(
        removed_by(assess(logs, replace(SETTINGS, evaluation=(str(evaluation),))), "leakage")
    )
    assert {f"s{i}" for i in range(150)} <= found
    assert len(found & {f"s{i}" for i in range(150, 200)}) >= 45
    # The set holds paraphrases of its own questions, so a few of the other 800 are rightly found
    # too.
    assert len(found) < 240


def test_real_logs_go_through():
    from negfail_nb.logs import load_trajectories

    report = assess(load_trajectories(real_data("trajectories/fireact")))
    assert len(report.kept) + len(report.removed) == len(report.findings) == 1464
    assert all(bool(f.primary) == (f.outcome == "failure") for f in report.findings)
    successes = [f for f in report.findings if f.outcome == "success"]
    assert len(successes) == 503 and {f.score for f in successes} == {1.0}
