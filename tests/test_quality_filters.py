"""02 quality: filters, duplicates, leaked questions, caps."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quality_runs import ALL_FILTERS_OFF, SETTINGS, edited, react, removed_by, run, runs

from negfail_nb.conditions import CLEAN
from negfail_nb.duplicates import SimilarSets, closest_overlap, jaccard, shingles
from negfail_nb.quality import assess
from negfail_nb.quality.filters import read_questions
from negfail_nb.trajectory import Source, Trajectory


def test_each_always_active_filter_removes_its_case_and_says_why():
    bad = [
        run("no-turn", messages=({"role": "user", "content": "Question"},), prediction=None),
        run("no-label", success=None),
        run(
            "no-action",
            messages=react("Thought: hm", "Action: search[never closed"),
            prediction=None,
        ),
        run("long", messages=react("Action: search[" + "long " * 400 + "]")),
    ]
    report = assess(runs() + bad, replace(SETTINGS, window_tokens=400))
    assert {r.id: r.filter for r in report.removed} == {
        "no-turn": "no_model_turn",
        "no-label": "unlabelled",
        "no-action": "unparseable",
        "long": "too_long",
    }
    assert "about 5" in report.removed_examples("too_long").reason[0]
    assert any("1 trajectories have no label" in note for note in report.notes)


def test_a_conversation_without_actions_is_no_broken_one():
    talk = (
        {"role": "user", "content": "Cancel it."},
        {"role": "assistant", "content": "Cancelled."},
    )
    ended = run("ended", messages=talk, prediction=None, termination="finished", success=True)
    broken = run("broken", messages=talk, prediction=None, termination="parse_error")
    report = assess([ended, broken, *runs()])
    assert removed_by(report, "unparseable") == ["broken"]


def test_an_unlabelled_run_goes_through_as_unlabelled_and_is_counted():
    report = assess([*runs(), run("who knows", success=None)])
    finding = next(f for f in report.findings if f.id == "who knows")
    assert (finding.outcome, finding.primary, finding.score) == ("unlabelled", "unlabelled", None)
    assert removed_by(report, "unlabelled") == ["who knows"]
    assert any(
        "1 trajectories have no label, and no answer that could be judged" in note
        for note in report.notes
    )


def test_success_without_actions_is_kept():
    plain = run(
        "plain", success=True, messages=({"role": "assistant", "content": "It is Frank Herbert."},)
    )
    assert "plain" in {t.id for t in assess([plain, *runs()]).kept}


def test_duplicates_are_removed_within_question_and_outcome_only():
    first, *others = runs()
    first = edited(first, first.id, 0)
    copies = [
        first.replace(id="s-exact", source=Source(model="other")),
        edited(first, "s-near", 1),
        edited(first, "s-far", 30),
        first.replace(id="s-other-outcome", success=False),
        first.replace(
            id="s-other-question",
            question_id="q9",
            question="Which museum keeps the oldest astrolabe?",
        ),
    ]
    report = assess([*copies, first, *others])
    assert removed_by(report, "exact_duplicate") == ["s-exact"]
    assert removed_by(report, "near_duplicate") == ["s-near"]
    assert "'r000'" in report.removed_examples("near_duplicate").reason[0]
    kept = assess([*copies, first, *others], replace(SETTINGS, near_duplicate=0.0)).kept
    assert len(kept) == 17


def test_observations_do_not_make_a_run_different():
    first = runs()[0]
    messages = tuple(
        {**m, "content": m["content"] + " retry"} if m["role"] == "user" else m
        for m in first.messages
    )
    assert removed_by(
        assess([first, first.replace(id="z", messages=messages)]), "exact_duplicate"
    ) == ["z"]


def test_tool_calls_count_as_words_of_the_agent():
    def called(id: str, query: str) -> Trajectory:
        call = {
            "id": "1",
            "function": {"name": "search", "arguments": json.dumps({"query": query})},
        }
        return run(
            id,
            messages=({"role": "assistant", "content": None, "tool_calls": [call]},),
            prediction="x",
        )

    report = assess(
        [called("a", "dune author"), called("b", "herbert born"), called("c", "dune author")]
    )
    assert [r.id for r in report.removed] == ["c"]


def test_threshold_is_exact():
    """Pairs just below and just above the threshold: MinHash alone could not tell them apart."""
    base = [f"w{i}" for i in range(100)]
    index = SimilarSets(0.9)
    index.add(shingles(base, size=1))
    near = [shingles(base[:100] + [f"x{i}" for i in range(n)], size=1) for n in (10, 11, 12, 13)]
    assert [bool(index.similar(values)) for values in near] == [True, True, False, False]


@given(
    st.lists(st.sampled_from("abcdef"), max_size=12),
    st.lists(st.sampled_from("abcdef"), max_size=12),
)
def test_jaccard_of_shingles_is_jaccard_of_word_triples(ours, theirs):
    def triples(words: list[str]) -> set:
        size = min(3, len(words))
        return (
            {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if words else set()
        )

    a, b = triples(ours), triples(theirs)
    expected = len(a & b) / len(a | b) if a | b else 1.0
    assert jaccard(shingles(ours), shingles(theirs)) == pytest.approx(expected)


def test_runs_whose_turns_are_blank_are_not_all_one():
    logs = [
        run(str(i), question=q, messages=react(" "))
        for i, q in enumerate(["Who wrote Dune?", "Where is Goa?"])
    ]
    assert len(assess(logs).kept) == 2


def test_what_the_agent_wrote_to_another_question_is_no_duplicate():
    logs = [run(q, question=f"Who wrote {q}?") for q in ("Dune", "Emma", "Ulysses")]
    assert not assess([*logs, run("x", question="Who wrote Ivanhoe?", success=True)]).removed


@pytest.mark.parametrize("count", [5, 40])
def test_few_and_many_runs_of_a_question_lose_the_same_duplicates(count):
    originals = runs(count, questions=1)
    logs = [t for o in originals for t in (o, edited(o, f"{o.id}x", words=1))]
    report = assess(logs, replace(SETTINGS, near_duplicate=0.8))
    assert removed_by(report, "near_duplicate") == [f"{o.id}x" for o in originals]


def test_leaked_questions_are_found_exact_and_near(tmp_path):
    evaluation = tmp_path / "evaluation.jsonl"
    lines = [
        {"question": "who wrote the novel   DUNE"},
        {"question": "Which book describes the alpine railways number 1?"},
    ]
    evaluation.write_text("\n".join(map(json.dumps, lines)))
    report = assess([run("leak"), *runs()], replace(SETTINGS, evaluation=(str(evaluation),)))
    assert removed_by(report, "leakage") == ["leak", "r001", "r005", "r009"]
    assert (
        "similarity 1.00 to evaluation.jsonl:1" in report.removed_examples("leakage", 1).reason[0]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '[{"question": "a"}, {"text": "b"}]',
            r"eval\.json: record 2 has no text under 'question'",
        ),
        ('{"question": "a"}\n{"quest', r"eval\.json: not JSON: .*a JSON record per line"),
        ("[1]", "record 1 has no text"),
        ('{"question": " "}', "record 1 has no text"),
    ],
)
def test_bad_evaluation_files_are_named(tmp_path, content, message):
    path = tmp_path / "eval.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_questions([str(path)])


def test_missing_evaluation_file_is_named():
    with pytest.raises(
        ValueError,
        match=r"nowhere\.jsonl: cannot read the evaluation questions.*correct `evaluation`",
    ):
        assess(runs(), replace(SETTINGS, evaluation=("nowhere.jsonl",)))


def test_solved_overlap_keeps_failures_near_solved_questions():
    solved = run("s", success=True, question="Which river flows through Paris?")
    own = run("own", question="which river flows through Paris")
    close = run("close", question="Which river flows through Vienna?")
    far = run("far", question="Who painted Guernica?")
    for threshold, removed in ((1.0, ["close", "far"]), (0.5, ["far"]), (0.0, [])):
        report = assess([solved, own, close, far], replace(SETTINGS, solved_overlap=threshold))
        assert removed_by(report, "solved_overlap") == removed
    assert (
        "overlap 0.00"
        in assess([solved, far], replace(SETTINGS, solved_overlap=0.5)).removed[0].reason
    )


@given(
    st.lists(st.text("ab ", max_size=8), max_size=6),
    st.lists(st.text("ab ", max_size=8), max_size=6),
)
def test_closest_overlap_is_the_largest_jaccard(questions, others):
    def similarity(a: str, b: str) -> float:
        a, b = set(a.split()), set(b.split())
        return len(a & b) / max(len(a | b), 1)

    expected = [max((similarity(q, o) for o in others), default=0.0) for q in questions]
    assert closest_overlap(questions, others).tolist() == pytest.approx(expected)


def test_min_score_drops_failures_only():
    report = assess(runs(), replace(SETTINGS, min_score=0.99))
    assert {t.outcome for t in report.kept} == {"success"}
    assert len(removed_by(report, "min_score")) == 8


def test_failures_of_some_temperatures_stay_and_all_successes():
    at = {f"{kind}-{t}": t for kind in ("solved", "failed") for t in (0.5, 1.0, None)}
    logs = [
        run(name, name.startswith("solved"), source=Source(temperature=t)) for name, t in at.items()
    ]
    off = replace(SETTINGS, **ALL_FILTERS_OFF)
    hot = assess(logs, replace(off, failure_temperatures=(0.9, 1.0)))
    reasons = {r.id: r.reason for r in hot.removed if r.filter == "failure_temperatures"}
    assert reasons == {
        "failed-0.5": "sampled at temperature 0.5",
        "failed-None": "sampled at temperature unknown",
    }
    assert not assess(logs, off).removed
    for bad in ((1.0,), (1.0, 0.5)):
        with pytest.raises(ValueError, match=r"failure_temperatures is .* give \[lowest, highest"):
            replace(off, failure_temperatures=bad)


def test_a_failed_sum_whose_actions_were_valid_is_a_clean_failure():
    """The least score that the study `quality` keeps."""
    said = {"task": "math", "answer": "40", "prediction": "12", "termination": "finished"}
    clean = run(
        "clean", False, messages=react("Action: calculate[3 * 4]", "Action: finish[12]"), **said
    )
    slip = react("Action: calculate[3 *", "Action: calculate[3 * 4]", "Action: finish[12]")
    report = assess(
        [clean, run("slip", False, messages=slip, **said), *runs()],
        replace(SETTINGS, **ALL_FILTERS_OFF, min_score=CLEAN),
    )
    assert "slip" in removed_by(report, "min_score")
    assert "clean" not in removed_by(report, "min_score")


def test_caps_hold_and_do_not_depend_on_order():
    logs = runs(60)
    settings = replace(SETTINGS, cap_question=3, cap_source=10, seed=3)
    report = assess(logs, settings)
    table = report.table().query("removed_by == ''").merge(report.table()[["id"]])
    assert table.groupby("model").size().max() == 10
    counts = pd.DataFrame([(t.question, t.outcome) for t in report.kept]).value_counts()
    assert counts.max() <= 3
    assert {t.id for t in assess(logs[::-1], settings).kept} == {t.id for t in report.kept}
    assert {t.id for t in assess(logs, replace(settings, seed=4)).kept} != {
        t.id for t in report.kept
    }


@given(
    order=st.randoms(use_true_random=False),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "near_duplicate": st.sampled_from([0.0, 0.5, 0.9]),
            "cap_question": st.integers(0, 3),
            "cap_source": st.integers(0, 6),
            "min_score": st.sampled_from([0.0, 0.2, 0.31]),
            "failure_temperatures": st.sampled_from([(), (0.0, 0.5), (0.6, 1.0)]),
            "solved_overlap": st.sampled_from([0.0, 0.6, 1.0]),
            "window_tokens": st.sampled_from([100, 4096]),
            "heldout": st.sampled_from([0.0, 0.2, 0.9]),
            "seed": st.integers(0, 5),
        },
    ),
)
def test_nothing_is_lost_and_order_does_not_matter(order, changes):
    logs = (
        runs(14)
        + [edited(t, t.id + "-copy", 1) for t in runs(6)]
        + [run("unlabelled", success=None)]
    )
    settings = replace(SETTINGS, **changes)
    shuffled = order.sample(logs, len(logs))
    try:
        ours, theirs = assess(logs, settings), assess(shuffled, settings)
    except ValueError as error:
        assert "trajectories were removed" in str(error)
        return
    assert sorted([t.id for t in ours.kept] + [r.id for r in ours.removed]) == sorted(
        t.id for t in logs
    )
    assert {t.id: t.split for t in ours.kept} == {t.id: t.split for t in theirs.kept}
    assert {r.id: r.filter for r in ours.removed} == {r.id: r.filter for r in theirs.removed}
    funnel = ours.funnel()
    assert (funnel.before - funnel.removed == funnel.after).all()
    assert funnel.before.tolist() == [len(logs), *funnel.after[:-1]]
    assert (funnel["successes after"] + funnel["failures after"] <= funnel.after).all()
    assert funnel.removed.sum() == len(ours.removed)


def test_a_label_that_contradicts_its_answer_is_dropped_and_says_so():
    math = {"task": "math", "answer": "40", "question": "How many pages?"}
    runs = [
        run("right-but-failed", False, prediction="the Frank Herbert", scores={"em": 1.0}),
        run("wrong-but-solved", True, prediction="38", scores={"em": 0.0}, **math),
        run("right-and-solved", True, prediction="40", scores={"em": 1.0}, **math),
        run("other-form-solved", True, prediction="Frank Herbert, of course", scores={"em": 0.0}),
        run("wrong-and-failed", False, prediction="12", scores={"em": 0.0}, **math),
    ]
    report = assess(runs, replace(SETTINGS, **ALL_FILTERS_OFF))
    reasons = {r.id: r.reason for r in report.removed if r.filter == "mislabelled"}
    assert reasons == {
        "right-but-failed": "labelled a failure, yet the answer is the reference",
        "wrong-but-solved": "labelled a success, yet 38 is not 40",
    }
    assert len(assess(runs, replace(SETTINGS, check_labels=False, **ALL_FILTERS_OFF)).kept) == 5
