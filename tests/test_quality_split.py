"""02 quality: the split by question."""

from dataclasses import replace

import pandas as pd
from hypothesis import example, given
from hypothesis import strategies as st
from quality_runs import SETTINGS, run, runs

from negfail_nb.duplicates import (
    SimilarQuestions,
    connected,
    heldout_questions,
    question_groups,
    question_key,
    question_words,
    same_things,
    similar_groups,
)
from negfail_nb.quality import assess


def test_questions_that_differ_in_a_number_or_a_name_are_different():
    def similar(a: str, b: str) -> bool:
        return bool(SimilarQuestions(0.8, [a]).similar(b))

    assert similar(
        "Is the paleo diet beneficial for people with diabetes?",
        "Is a paleo diet beneficial for people with diabetes",
    )
    assert similar("Tom has 1,000 old red apples.", "tom has 1000 old, red apples!")
    assert not similar(
        "Tom has 3 apples and gives 2 apples to Ana in school",
        "Tom has 4 apples and gives 2 apples to Ana in school",
    )
    assert not similar(
        "Does Marco Rubio have a close relationship with Brahma?",
        "Does Marco Rubio have a close relationship with Vishnu?",
    )
    assert not same_things(["Is", "Ana", "old"], ["Is", "Bob", "old"])
    assert question_key("How many? Solution output format: an integer.") == "how many"


def test_near_duplicate_questions_stay_on_one_side():
    names = [
        "rust",
        "copper",
        "basalt",
        "amber",
        "willow",
        "quartz",
        "cedar",
        "cobalt",
        "ivory",
        "saffron",
    ]
    questions = {
        n: f"What would happen to a very old {n} tool in a very deep dry well at night"
        for n in names
    }
    pairs = {f"{k} twin": q + " please" for k, q in questions.items()}
    groups = question_groups({**questions, **pairs}, 0.9)
    assert all(len(group) == 2 and group[1] == group[0] + " twin" for group in groups)
    for seed in range(5):
        heldout = heldout_questions(groups, 0.3, seed)
        assert len(heldout) == 6
        assert {k.removesuffix(" twin") for k in heldout} == {
            k for k in heldout if not k.endswith("twin")
        }


WORDING = st.lists(st.sampled_from("Oslo Bergen old red 3 5 is the of in fjord boat".split()))


@given(st.lists(WORDING.map(" ".join), max_size=12), st.sampled_from([0.1, 0.5, 0.8, 1.0]))
def test_groups_of_questions_are_those_of_comparing_each_with_each(questions, similarity):
    words = [question_words(question) for question in questions]
    sets = [{word.lower() for word in found} for found in words]
    pairs = [
        (i, j)
        for j in range(len(sets))
        for i in range(j)
        if sets[i]
        and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= similarity
        and same_things(words[j], words[i])
    ]
    groups = connected(len(questions), pairs)
    found = similar_groups(questions, similarity)
    assert [found.index(group) for group in found] == [groups.index(group) for group in groups]
    for number, question in enumerate(questions[:3]):
        index = SimilarQuestions(similarity, questions)
        same = {i for i, j in pairs if j == number} | {j for i, j in pairs if i == number}
        same |= {number} if sets[number] else set()
        assert {hit[0] for hit in index.similar(question)} == same


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
    again = [
        t.replace(
            id=f"again-{t.id}",
            question_id=f"other-{t.question_id}",
            question=t.question.upper(),
            success=not t.success,
        )
        for t in logs
    ]
    report = assess(logs + again)
    sides = (
        pd.DataFrame([(question_key(t.question), t.split) for t in report.kept])
        .groupby(0)[1]
        .agg(set)
    )
    assert all(len(side) == 1 for side in sides)
    assert sorted(map(min, sides)).count("heldout") == 2


def test_runs_without_question_text_are_split_by_their_id():
    logs = [run(f"r{i}", question="", question_id=f"q{i}", success=bool(i % 2)) for i in range(10)]
    assert (
        sum(t.split == "heldout" for t in assess(logs, replace(SETTINGS, near_duplicate=0.0)).kept)
        == 2
    )


def test_runs_of_one_id_are_one_question_however_their_users_open():
    logs = [
        run(
            f"r{i}-{n}",
            question_id=f"task {i}",
            question=f"{said} I am number {i}.",
            success=bool(n),
        )
        for i in range(10)
        for n, said in enumerate(
            ("Hello, who wrote Dune?", "Good evening! I would like to cancel an order.")
        )
    ]
    kept = assess(logs, replace(SETTINGS, near_duplicate=0.0)).kept
    sides = pd.DataFrame([(t.question_id, t.split) for t in kept]).groupby(0)[1].agg(set)
    assert len(kept) == 20 and len(sides) == 10 and all(len(side) == 1 for side in sides)
    assert sum("heldout" in side for side in sides) == 2


def test_one_text_under_two_ids_is_on_one_side_and_so_is_what_its_ids_share():
    texts = {
        "a": "Who wrote the novel Dune?",
        "b": "Tell me the author, please.",
        "c": "Which river crosses Rome?",
    }
    linked = [
        run("1", question_id="x:1", question=texts["a"]),
        run("2", question_id="y:7", question=texts["a"].upper()),
        run("3", question_id="y:7", question=texts["b"]),
        run("4", question_id="z:3", question=texts["b"]),
        run("5", question_id="x:2", question=texts["c"]),
    ]
    for seed in range(4):
        report = assess(linked, replace(SETTINGS, near_duplicate=0.0, seed=seed))
        sides = {t.id: t.split for t in report.kept}
        assert len({sides[name] for name in "1234"}) == 1 and sides["5"] != sides["1"]


def test_a_worded_copy_of_an_evaluation_question_takes_all_runs_of_its_id(tmp_path):
    (tmp_path / "eval.jsonl").write_text(
        '{"question": "Who wrote the novel Dune?"}\n', encoding="utf-8"
    )
    logs = [
        run("plain", question_id="t7"),
        run("other", question_id="t7", question="Dear assistant, whose book is Dune?"),
        run("free", question_id="t8", question="Which river crosses Rome?"),
    ]
    report = assess(
        logs, replace(SETTINGS, near_duplicate=0.0, evaluation=(str(tmp_path / "eval.jsonl"),))
    )
    assert sorted(r.id for r in report.removed) == ["other", "plain"]


def test_the_order_of_the_runs_does_not_change_the_questions():
    logs = runs(30, questions=6)
    logs += [t.replace(id=f"z{t.id}", question=f"Please: {t.question}") for t in logs[:10]]
    forward, backward = (
        {t.id: t.split for t in assess(given, replace(SETTINGS, near_duplicate=0.0)).kept}
        for given in (logs, logs[::-1])
    )
    assert forward == backward
