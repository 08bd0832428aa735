"""02 quality: kinds of failure, scores, filters, duplicates, split, report."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from negfail_nb.profiles import QualitySettings
from negfail_nb.quality import KINDS, Report, assess, examine, read
from negfail_nb.quality.duplicates import (
    SimilarQuestions,
    SimilarSets,
    closest_overlap,
    jaccard,
    question_key,
    same_things,
    shingles,
)
from negfail_nb.quality.filters import FILTERS
from negfail_nb.quality.questions import read_questions
from negfail_nb.quality.split import heldout_questions, question_groups
from negfail_nb.trajectory import TERMINATIONS, Source, Trajectory

DATA = Path(__file__).parents[1].parent / "shared" / "data"
SETTINGS = QualitySettings()
ALL_FILTERS_OFF = {"heldout": 0.0, "near_duplicate": 0.0}


def react(*turns: str, observation: str = "Nothing was found.") -> tuple[dict, ...]:
    """Messages of a ReAct agent that takes these turns."""
    messages = [{"role": "user", "content": "Question"}]
    for turn in turns:
        messages += [{"role": "assistant", "content": turn}, {"role": "user", "content": f"Observation: {observation}"}]
    return tuple(messages)


def run(id: str = "a", success: bool | None = False, **fields) -> Trajectory:
    fields.setdefault("question_id", "q")
    fields.setdefault("question", "Who wrote the novel Dune?")
    fields.setdefault("answer", "Frank Herbert")
    fields.setdefault("prediction", "Isaac Asimov")
    fields.setdefault(
        "messages", react("Thought: look\nAction: search[Dune]", f"Action: finish[{fields['prediction']}]")
    )
    return Trajectory(id=id, success=success, **fields)


def finding(trajectory: Trajectory):
    return examine(read(trajectory))


# --- kinds of failure


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("unlabelled", {"success": None}),
        ("crashed", {"termination": "crashed", "prediction": None, "error": "TimeoutError"}),
        ("empty", {"messages": (), "prediction": None}),
        ("empty", {"prediction": "  "}),
        ("refusal", {"termination": "refused", "prediction": None}),
        ("refusal", {"messages": react("I\u2019m sorry, but I can't help with that."), "prediction": None}),
        ("refusal", {"prediction": "As an AI language model I have no opinion."}),
        ("wrong_form", {"prediction": "frank herbert."}),
        ("wrong_form", {"prediction": "It was Frank Herbert"}),
        ("wrong_form", {"answer": "Beyonc\u00e9", "prediction": "Beyonce"}),
        ("wrong_form", {"answer": "1981\u20132001", "prediction": "1981-2001"}),
        ("wrong_form", {"answer": "yes", "prediction": "Yes, both are"}),
        ("wrong_form", {"answer": "3,677", "prediction": "3,677 seated"}),
        ("wrong_form", {"answer": "3,677 seated", "prediction": "3,677"}),
        ("wrong_form", {"answer": "18", "prediction": "$18.00", "task": "math"}),
        ("gave_up", {"prediction": "unknown"}),
        ("gave_up", {"prediction": "I don\u2019t know."}),
        ("gave_up", {"prediction": "The author cannot be determined from the results."}),
        ("gave_up", {"prediction": "There is not enough information"}),
        ("gave_up", {"prediction": "Inconclusive", "task": "yes_no", "answer": "yes"}),
        ("out_of_steps", {"termination": "max_steps", "prediction": None}),
        ("partly_right", {"prediction": "Brian Herbert"}),
        ("wrong_answer", {"prediction": "Isaac Asimov"}),
        ("no_answer", {"prediction": None, "messages": react("Action: search[Dune]")}),
        ("parse_error", {"termination": "parse_error", "prediction": None}),
        ("tool_error", {"termination": "tool_error", "prediction": None}),
    ],
)
def test_primary_kind(kind, fields):
    found = finding(run(**fields))
    assert found.primary == kind
    assert kind == "wrong_answer" or "wrong_answer" not in found.kinds


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        ("parse_error", react("Action: search[Dune]", "Thought: I forgot to act", "Action: finish[Asimov]")),
        ("tool_error", react("Action: calculate[1/0]", "Action: finish[2]", observation="Error: division by zero")),
        ("repeated_action", react("Action: search[Dune]", "Action: search[ Dune ]", "Action: finish[Asimov]")),
        ("invented_observation", react("Action: search[Dune]\nObservation: by Asimov\nAction: finish[Asimov]")),
    ],
)
@pytest.mark.parametrize("success", [True, False])
def test_incidents_are_seen_in_failures_and_successes(kind, messages, success):
    found = finding(run(success=success, messages=messages))
    assert kind in found.kinds
    assert found.primary == ("" if success else "wrong_answer")


@pytest.mark.parametrize(
    "messages",
    [
        react("Action: Lookup[novel]", "Action: Lookup[novel]", "Action: Finish[Asimov]"),
        react("Action: search[Dune]", "Action: lookup[Dune]", "Action: finish[Asimov]"),
    ],
)
def test_lookups_and_other_tools_are_no_loop(messages):
    assert "repeated_action" not in finding(run(messages=messages)).kinds


@pytest.mark.parametrize(
    ("answer", "prediction"),
    [
        ("3 Idiots", "3"),
        ("May 1987", "1987"),
        ("Delhi", "Delhi or Mumbai"),
        ("director", "film director and producer"),
        ("yes", "no"),
        ("150 million", "150"),
        ("Herbert", "a very long sentence that happens to end in the name of somebody called Herbert"),
        ("American", "not American"),
    ],
)
def test_other_answers_are_not_the_right_one_in_the_wrong_form(answer, prediction):
    assert "wrong_form" not in finding(run(answer=answer, prediction=prediction)).kinds


@pytest.mark.parametrize("prediction", ["The Unknown Soldier", "Nonesuch", "Maybe Tomorrow", "The Notebook"])
def test_titles_that_sound_like_giving_up_are_answers(prediction):
    assert finding(run(prediction=prediction)).primary == "wrong_answer"


def test_apology_before_another_attempt_is_no_refusal():
    messages = react("I'm sorry, I can't help it, let me retry.\nAction: search[Dune]", "Action: finish[Asimov]")
    assert "refusal" not in finding(run(messages=messages, prediction="Asimov")).kinds


@given(
    success=st.sampled_from([True, False, None]),
    termination=st.sampled_from(TERMINATIONS),
    prediction=st.none() | st.text(max_size=30),
    answer=st.text(max_size=20),
    task=st.sampled_from(["qa", "math", "yes_no"]),
    turns=st.lists(st.text(max_size=40) | st.just("Action: search[x]"), max_size=3),
)
def test_every_failure_has_a_kind_and_every_score_is_a_share(success, termination, prediction, answer, task, turns):
    found = finding(run(success=success, termination=termination, prediction=prediction, answer=answer, task=task,
                        messages=react(*turns)))  # fmt: skip
    assert bool(found.primary) == (success is not True)
    assert set(found.kinds) <= {kind.name for kind in KINDS}
    assert found.score is None if success is None else 0 <= found.score <= 1
    assert found.action_errors is None or 0 <= found.action_errors <= 1


def test_action_errors_and_calls_are_counted():
    found = finding(
        run(messages=react("Action: search[a]", "no action here", "Action: lookup[b]", "Action: finish[c]"))
    )
    assert (found.actions, found.errors, found.action_errors, found.calls, found.turns) == (4, 1, 0.25, 2, 4)


# --- quality score


def test_score_grows_with_how_far_a_run_got():
    loop = run(messages=react("Action: search[x]"), prediction=None, termination="max_steps")
    saw = loop.replace(messages=react("Action: search[x]", observation="Dune is a novel by Frank Herbert."))
    near = saw.replace(prediction="Brian Herbert", termination="finished")
    scores = [finding(t).score for t in (loop, saw, near, near.replace(success=True))]
    assert scores == sorted(scores) and len(set(scores)) == 4 and scores[-1] == 1.0


def test_score_is_the_documented_weighted_mean():
    half_seen = run(gold_titles=("Dune (novel)", "Arrakis"), prediction="Brian Herbert",
                    messages=react("Action: search[x]", "?", observation="Page: Dune (novel)"))  # fmt: skip
    assert finding(half_seen).score == pytest.approx(0.4 * 0.5 + 0.3 * 0.5 + 0.2 * 0.5 + 0.1)


def test_plain_turns_of_a_chat_are_no_actions():
    messages = ({"role": "assistant", "content": "Let me think."}, {"role": "assistant", "content": "It is Asimov."})
    found = finding(run(messages=messages))
    assert (found.actions, found.action_errors, found.turns) == (0, None, 2)


@pytest.mark.parametrize("task", ["yes_no", "qa"])
def test_yes_no_evidence_is_left_out_not_counted_as_zero(task):
    seen = run(answer="yes", prediction="no", task=task, messages=react("Action: finish[no]", observation="yes"))
    assert finding(seen).score == pytest.approx((0.2 + 0.1) / 0.7)


def test_number_as_evidence_is_compared_by_value():
    messages = react("Action: calculate[9*2000]", observation="18,000.0")
    found = finding(run(answer="18000", task="math", prediction=None, termination="max_steps", messages=messages))
    assert found.score == pytest.approx(0.3 + 0.2)


# --- filters


def text_of(draw: random.Random, words: int = 60) -> str:
    return " ".join(str(draw.randrange(10_000)) for _ in range(words))


def runs(number: int = 12, questions: int = 4, seed: int = 0) -> list[Trajectory]:
    """Distinct runs: every third succeeded."""
    draw = random.Random(seed)
    topics = ["harbours of Norway", "alpine railways", "medieval bread ovens", "silent film scores", "desert foxes",
              "glass blowing schools", "river ferries", "moon landing photographs"]  # fmt: skip
    return [
        run(
            id=f"r{i:03}",
            success=i % 3 == 0,
            question_id=f"q{i % questions}",
            question=f"Which book describes {topics[i % questions % 8]} number {i % questions}?",
            messages=react(f"Thought: {text_of(draw)}\nAction: search[{i}]", "Action: finish[Asimov]"),
            source=Source(model=f"m{i % 2}"),
        )
        for i in range(number)
    ]


def removed_by(report: Report, name: str) -> list[str]:
    return sorted(r.id for r in report.removed if r.filter == name)


def test_each_always_active_filter_removes_its_case_and_says_why():
    bad = [
        run("no-turn", messages=({"role": "user", "content": "Question"},), prediction=None),
        run("no-label", success=None),
        run("no-action", messages=react("Thought: hm", "Action: search[never closed"), prediction=None),
        run("long", messages=react("Action: search[" + "long " * 400 + "]")),
    ]
    report = assess(runs() + bad, replace(SETTINGS, window_tokens=400, chars_per_token=4.0))
    assert {r.id: r.filter for r in report.removed} == {
        "no-turn": "no_model_turn", "no-label": "unlabelled", "no-action": "unparseable", "long": "too_long",
    }  # fmt: skip
    assert "about 5" in report.removed_examples("too_long").reason[0]
    assert any("1 trajectories have no label" in note for note in report.notes)


def test_success_without_actions_is_kept():
    plain = run("plain", success=True, messages=({"role": "assistant", "content": "It is Frank Herbert."},))
    assert "plain" in {t.id for t in assess([plain, *runs()]).kept}


def edited(trajectory: Trajectory, id: str, words: int) -> Trajectory:
    """The same run with its last words replaced."""
    first = trajectory.messages[1]
    body = first["content"].split("\n")[0].split(" ")
    content = " ".join(body[: len(body) - words] + ["changed"] * words) + f"\nAction: search[{trajectory.id}]"
    messages = (trajectory.messages[0], {**first, "content": content}, *trajectory.messages[2:])
    return trajectory.replace(id=id, messages=messages)


def test_duplicates_are_removed_within_question_and_outcome_only():
    first, *others = runs()
    first = edited(first, first.id, 0)
    copies = [
        first.replace(id="s-exact", source=Source(model="other")),
        edited(first, "s-near", 1),
        edited(first, "s-far", 30),
        first.replace(id="s-other-outcome", success=False),
        first.replace(id="s-other-question", question="Which museum keeps the oldest astrolabe?"),
    ]
    report = assess([*copies, first, *others])
    assert removed_by(report, "exact_duplicate") == ["s-exact"]
    assert removed_by(report, "near_duplicate") == ["s-near"]
    assert "'r000'" in report.removed_examples("near_duplicate").reason[0]
    kept = assess([*copies, first, *others], replace(SETTINGS, near_duplicate=0.0)).kept
    assert len(kept) == 17


def test_observations_do_not_make_a_run_different():
    first = runs()[0]
    messages = tuple({**m, "content": m["content"] + " retry"} if m["role"] == "user" else m for m in first.messages)
    assert removed_by(assess([first, first.replace(id="z", messages=messages)]), "exact_duplicate") == ["z"]


def test_tool_calls_count_as_words_of_the_agent():
    def called(id: str, query: str) -> Trajectory:
        call = {"id": "1", "function": {"name": "search", "arguments": json.dumps({"query": query})}}
        return run(id, messages=({"role": "assistant", "content": None, "tool_calls": [call]},), prediction="x")

    report = assess([called("a", "dune author"), called("b", "herbert born"), called("c", "dune author")])
    assert [r.id for r in report.removed] == ["c"]


def test_threshold_is_exact():
    """Pairs just below and just above the threshold: MinHash alone could not tell them apart."""
    base = [f"w{i}" for i in range(100)]
    index = SimilarSets(0.9)
    index.add(shingles(base, size=1))
    near = [shingles(base[:100] + [f"x{i}" for i in range(n)], size=1) for n in (10, 11, 12, 13)]
    assert [bool(index.similar(values)) for values in near] == [True, True, False, False]


@given(st.lists(st.sampled_from("abcdef"), max_size=12), st.lists(st.sampled_from("abcdef"), max_size=12))
def test_jaccard_of_shingles_is_jaccard_of_word_triples(ours, theirs):
    def triples(words: list[str]) -> set:
        size = min(3, len(words))
        return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if words else set()

    a, b = triples(ours), triples(theirs)
    expected = len(a & b) / len(a | b) if a | b else 1.0
    assert jaccard(shingles(ours), shingles(theirs)) == pytest.approx(expected)


def test_runs_whose_turns_are_blank_are_not_all_one():
    logs = [run(str(i), question=q, messages=react(" ")) for i, q in enumerate(["Who wrote Dune?", "Where is Goa?"])]
    assert len(assess(logs).kept) == 2


def test_salted_sets_share_nothing():
    words = text_of(random.Random(1)).split()
    assert jaccard(shingles(words, salt=1), shingles(words, salt=2)) == 0


def test_leaked_questions_are_found_exact_and_near(tmp_path):
    evaluation = tmp_path / "evaluation.jsonl"
    lines = [
        {"question": "who wrote the novel   DUNE"},
        {"question": "Which book describes the alpine railways number 1?"},
    ]
    evaluation.write_text("\n".join(map(json.dumps, lines)))
    report = assess([run("leak"), *runs()], replace(SETTINGS, evaluation=(str(evaluation),)))
    assert removed_by(report, "leakage") == ["leak", "r001", "r005", "r009"]
    assert "similarity 1.00 to evaluation.jsonl:1" in report.removed_examples("leakage", 1).reason[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"question": "a"}, {"text": "b"}]', r"eval\.json: record 2 has no text under 'question'"),
        ('{"question": "a"}\n{"quest', r"eval\.json: not JSON: .*one JSON record a line"),
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
    with pytest.raises(ValueError, match=r"nowhere\.jsonl: cannot read the evaluation questions.*correct `evaluation`"):
        assess(runs(), replace(SETTINGS, evaluation=("nowhere.jsonl",)))


def test_solved_overlap_keeps_failures_near_solved_questions():
    solved = run("s", success=True, question="Which river flows through Paris?")
    own = run("own", question="which river flows through Paris")
    close = run("close", question="Which river flows through Vienna?")
    far = run("far", question="Who painted Guernica?")
    for threshold, removed in ((1.0, ["close", "far"]), (0.5, ["far"]), (0.0, [])):
        report = assess([solved, own, close, far], replace(SETTINGS, solved_overlap=threshold))
        assert removed_by(report, "solved_overlap") == removed
    assert "overlap 0.00" in assess([solved, far], replace(SETTINGS, solved_overlap=0.5)).removed[0].reason


@given(st.lists(st.text("ab ", max_size=8), max_size=6), st.lists(st.text("ab ", max_size=8), max_size=6))
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


def test_caps_hold_and_do_not_depend_on_order():
    logs = runs(60)
    settings = replace(SETTINGS, cap_question=3, cap_source=10, seed=3)
    report = assess(logs, settings)
    table = report.table().query("removed_by == ''").merge(report.table()[["id"]])
    assert table.groupby("model").size().max() == 10
    counts = pd.DataFrame([(t.question, t.outcome) for t in report.kept]).value_counts()
    assert counts.max() <= 3
    assert {t.id for t in assess(logs[::-1], settings).kept} == {t.id for t in report.kept}
    assert {t.id for t in assess(logs, replace(settings, seed=4)).kept} != {t.id for t in report.kept}


@given(
    order=st.randoms(use_true_random=False),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "near_duplicate": st.sampled_from([0.0, 0.5, 0.9]),
            "cap_question": st.integers(0, 3),
            "cap_source": st.integers(0, 6),
            "min_score": st.sampled_from([0.0, 0.2, 0.31]),
            "solved_overlap": st.sampled_from([0.0, 0.6, 1.0]),
            "window_tokens": st.sampled_from([100, 4096]),
            "heldout": st.sampled_from([0.0, 0.2, 0.9]),
            "seed": st.integers(0, 5),
        },
    ),
)
def test_nothing_is_lost_and_order_does_not_matter(order, changes):
    logs = runs(14) + [edited(t, t.id + "-copy", 1) for t in runs(6)] + [run("unlabelled", success=None)]
    settings = replace(SETTINGS, **changes)
    shuffled = order.sample(logs, len(logs))
    try:
        ours, theirs = assess(logs, settings), assess(shuffled, settings)
    except ValueError as error:
        assert "trajectories were removed" in str(error)
        return
    assert sorted([t.id for t in ours.kept] + [r.id for r in ours.removed]) == sorted(t.id for t in logs)
    assert {t.id: t.split for t in ours.kept} == {t.id: t.split for t in theirs.kept}
    assert {r.id: r.filter for r in ours.removed} == {r.id: r.filter for r in theirs.removed}
    funnel = ours.funnel()
    assert (funnel.before - funnel.removed == funnel.after).all()
    assert funnel.before.tolist() == [len(logs), *funnel.after[:-1]]
    assert (funnel["successes after"] + funnel["failures after"] <= funnel.after).all()
    assert funnel.removed.sum() == len(ours.removed)


# --- split


def test_questions_that_differ_in_a_number_or_a_name_are_different():
    def similar(a: str, b: str) -> bool:
        return bool(SimilarQuestions(0.8, [a]).similar(b))

    assert similar(
        "Is the paleo diet beneficial for people with diabetes?", "Is a paleo diet beneficial for people with diabetes"
    )
    assert similar("Tom has 1,000 old red apples.", "tom has 1000 old, red apples!")
    assert not similar(
        "Tom has 3 apples and gives 2 apples to Ana in school", "Tom has 4 apples and gives 2 apples to Ana in school"
    )
    assert not similar("Does Marco Rubio have a close relationship with Brahma?",
                       "Does Marco Rubio have a close relationship with Vishnu?")  # fmt: skip
    assert not same_things(["Is", "Ana", "old"], ["Is", "Bob", "old"])
    assert question_key("How many? Solution output format: an integer.") == "how many"


def test_near_duplicate_questions_stay_on_one_side():
    names = ["rust", "copper", "basalt", "amber", "willow", "quartz", "cedar", "cobalt", "ivory", "saffron"]
    questions = {n: f"What would happen to a very old {n} tool in a very deep dry well at night" for n in names}
    pairs = {f"{k} twin": q + " please" for k, q in questions.items()}
    groups = question_groups({**questions, **pairs}, 0.9)
    assert all(len(group) == 2 and group[1] == group[0] + " twin" for group in groups)
    for seed in range(5):
        heldout = heldout_questions(groups, 0.3, seed)
        assert len(heldout) == 6
        assert {k.removesuffix(" twin") for k in heldout} == {k for k in heldout if not k.endswith("twin")}


@example([1, 1], 0.9, 0)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.floats(0, 0.9), st.integers(0, 9))
def test_heldout_share(sizes, share, seed):
    groups = [[f"g{i}-{j}" for j in range(size)] for i, size in enumerate(sizes)]
    heldout, total = heldout_questions(groups, share, seed), sum(sizes)
    assert heldout == heldout_questions(groups[::-1], share, seed)
    assert (not heldout) == (share <= 0 or len(groups) == 1)
    assert len(heldout) < total
    assert all(len(heldout & set(group)) in (0, len(group)) for group in groups)
    if heldout and max(sizes) == 1:
        assert len(heldout) == min(max(1, round(share * total)), total - 1)


def test_split_goes_by_question_text_across_logs():
    logs = runs(40, questions=8)
    again = [t.replace(id=f"again-{t.id}", question_id=f"other-{t.question_id}", question=t.question.upper(),
                       success=not t.success) for t in logs]  # fmt: skip
    report = assess(logs + again)
    sides = pd.DataFrame([(question_key(t.question), t.split) for t in report.kept]).groupby(0)[1].agg(set)
    assert all(len(side) == 1 for side in sides)
    assert sorted(map(min, sides)).count("heldout") == 2


def test_runs_without_question_text_are_split_by_their_id():
    logs = [run(f"r{i}", question="", question_id=f"q{i}", success=bool(i % 2)) for i in range(10)]
    assert sum(t.split == "heldout" for t in assess(logs, replace(SETTINGS, near_duplicate=0.0)).kept) == 2


# --- bad input and notes


def test_nothing_to_assess():
    with pytest.raises(
        ValueError, match="there are no trajectories to assess; look at what load_trajectories could not"
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
    logs = [*runs(), run("u", success=None)]
    message = (
        r"all 13 trajectories were removed, most of them \(12\) by the filter 'too_long' \(window_tokens=64, chars"
    )
    with pytest.raises(ValueError, match=message):
        assess(logs, replace(SETTINGS, window_tokens=64, chars_per_token=0.5))


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
        "No failure is left after the filters" in n for n in assess(runs(), replace(SETTINGS, min_score=1.0)).notes
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
        "t", question='Whö said "a,b"\n<b>?', messages=({"role": "assistant", "content": "", "tool_calls": [call]},)
    )
    report = assess([tricky, run("u", success=None), *runs(20)], replace(SETTINGS, cap_source=8, evaluation=()))
    loaded = Report.load(report.save(tmp_path / "quality"))
    assert loaded == report
    for name in ("funnel", "outcomes", "kinds", "table"):
        pd.testing.assert_frame_equal(getattr(loaded, name)(), getattr(report, name)())
        assert len(pd.read_csv(tmp_path / "quality" / f"{name}.csv")) == len(getattr(report, name)())


def test_half_saved_report_is_refused(tmp_path):
    folder = assess(runs()).save(tmp_path)
    (folder / "report.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no whole quality report, report\.json missing; save it again"):
        Report.load(folder)


def test_tables_count_what_was_found():
    report = assess(
        [*runs(), run("p", prediction="Brian Herbert"), run("g", prediction="unknown"), run("n", success=None)]
    )
    kinds = report.kinds().set_index("kind")
    assert kinds.index.tolist() == [kind.name for kind in KINDS] and kinds.description.str.len().gt(10).all()
    assert kinds.loc["wrong_answer", "failures"] == 8 and kinds.loc["gave_up", "primary"] == 1
    assert kinds.loc["wrong_answer", "share"] == pytest.approx(8 / 11)
    assert report.examples("gave_up").id.tolist() == ["g"]
    assert report.outcomes()["count"].sum() == len(report.table()) == 15
    assert report.funnel()["filter"].tolist() == [f.name for f in FILTERS]
    assert report.funnel().set_index("filter").loc["cap_question", "setting"] == "off"


def test_unknown_kind_or_filter_lists_the_known_ones():
    report = assess(runs())
    with pytest.raises(ValueError, match="no kind of failure 'typo'; use one of unlabelled, crashed"):
        report.examples("typo")
    with pytest.raises(ValueError, match="no filter 'typo'; use one of no_model_turn"):
        report.removed_examples("typo")


def test_report_shows_itself_and_escapes_what_logs_say():
    evil = "<script>alert(1)</script>"
    html = assess([t.replace(source=Source(model=evil)) for t in runs()])._repr_html_()
    assert "12 of 12 trajectories kept: 4 successes, 8 failures" in html and "near_duplicate" in html
    assert evil not in html and "&lt;script&gt;" in html


# --- real data


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data in ../shared/data is not here")
def test_strategyqa_leakage_is_found(tmp_path):
    """All 200 questions that are copied into the evaluation file are found, edited ones too; the others stay."""
    path = DATA / "strategyqa" / "strategyqa_train_filtered.json"
    questions = list(dict.fromkeys(record["question"] for record in json.loads(path.read_text())))
    logs = [run(f"s{i}", success=bool(i % 2), question=q, question_id=str(i)) for i, q in enumerate(questions[:1000])]
    exact, near, fresh = questions[:100], questions[100:200], questions[1000:1200]
    lines = [*exact, *(f"{q.rstrip('?').lower()} ?" for q in near[:50]), *(f"{q} please" for q in near[50:]), *fresh]
    evaluation = tmp_path / "test.jsonl"
    evaluation.write_text("\n".join(json.dumps({"question": line}) for line in lines))
    found = set(removed_by(assess(logs, replace(SETTINGS, evaluation=(str(evaluation),))), "leakage"))
    assert {f"s{i}" for i in range(150)} <= found
    assert len(found & {f"s{i}" for i in range(150, 200)}) >= 45
    # The set holds paraphrases of its own questions, so a few of the other 800 are rightly found too.
    assert len(found) < 240


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data in ../shared/data is not here")
def test_real_logs_go_through():
    from negfail_nb.collect import load_trajectories

    report = assess(load_trajectories(DATA / "trajectories" / "fireact"))
    assert len(report.kept) + len(report.removed) == len(report.findings) == 1464
    assert all(bool(f.primary) == (f.outcome == "failure") for f in report.findings)
    successes = [f for f in report.findings if f.outcome == "success"]
    assert len(successes) == 503 and {f.score for f in successes} == {1.0}


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
