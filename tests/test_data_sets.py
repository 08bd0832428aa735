"""Public data sets by name: local files in their native layouts, the hub's copies, and disjoint
parts.
"""

import json
import random

import pytest
from conftest import real_data
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.agents import divide, load_corpus, load_tasks, overlaps
from negfail_nb.agents.protocol import Task
from negfail_nb.benchmarking.questions import load_questions
from negfail_nb.data_sets import data_sets, named_part, read_asked, read_data_set
from negfail_nb.project import open_project
from negfail_nb.quality import assess
from negfail_nb.quality.filters import read_questions
from negfail_nb.settings import DATA, QualitySettings
from negfail_nb.sources import open_tasks
from negfail_nb.trajectory import TASKS, Trajectory

NAMES = "Ada Ben Cleo Dora Emil Finn Gwen Hugo Ines Jack Kim Leo Mona Nils Olga Paul".split()
THINGS = "apples books coins drums eggs flags goats hats inks jars kites lamps".split()


def story(number):
    """A word problem unlike the others."""
    name = NAMES[number % len(NAMES)]
    thing = THINGS[number // len(NAMES) % len(THINGS)]
    return f"{name} had {number + 7} {thing}. {name} lost 5 {thing}", f"How many {thing} are left?"


def svamp(number):
    body, question = story(number)
    equation = f"( {number + 7}.0 - 5.0 )"
    values = {"Equation": equation, "Answer": number + 2.0, "Type": "Subtraction"}
    return {"ID": f"chal-{number}", "Body": body, "Question": question, **values}


def mawps(number):
    return {"input": " ".join(story(number)), "target": number + 2.0}


def hotpot(number):
    title = f"{NAMES[number % 16]} {number}"
    return {
        "_id": f"h{number}",
        "question": f"In which town was {title} born?",
        "answer": "Dobal",
        "supporting_facts": [[title, 0]],
        "context": [[title, [f"{title} was born in Dobal."]], ["Bel", ["Bel is a river."]]],
    }


def written(path, *records, lines=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    path.write_text(text + "\n", encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory without data, and no network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv(DATA, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- the table


def test_the_table_says_of_each_set_where_it_is_and_under_which_licence():
    sets = data_sets()
    wanted = {"gsm8k", "svamp", "multiarith", "addsub", "hotpotqa", "strategyqa"}
    assert wanted < set(sets)
    for one in sets.values():
        assert one.task in TASKS and one.licence and one.hub.count("/") == 1
        assert set(one.splits) == set(one.files) == {"train", "test"}
        # Both parts are the same records, or each has its own.
        alike = len(set(one.files.values())) == 1
        assert alike == (len(set(one.splits.values())) == 1) and (one.share > 0 or not alike)


def test_a_name_may_say_its_part_and_a_file_goes_before_a_name(here):
    assert named_part("svamp")[1] == "test" and named_part("svamp/train")[1] == "train"
    assert named_part("svamp/train", "test")[1] == "test" and named_part("swamp") is None
    with pytest.raises(ValueError, match="no such file, and svamp has no part 'dev', only 'train'"):
        named_part("svamp/dev")
    with pytest.raises(ValueError, match="no data set of the name 'swamp'; known are gsm8k, svamp"):
        read_data_set("swamp")
    with pytest.raises(FileNotFoundError, match="swamp: there is no such file .* known are gsm8k"):
        load_tasks("swamp")
    written(here / "svamp", {"question": "Is this mine?", "answer": "yes"})
    assert [task.question for task in load_tasks("svamp")] == ["Is this mine?"]


# --- local files


def test_local_files_are_read_in_their_native_layouts(here):
    written(here / "data/svamp/SVAMP.json", *map(svamp, range(20)), lines=False)
    gsm8k = {"question": "How many?", "answer": "It is 2*3=<<2*3=6>>6.\n#### 1,006"}
    written(here / "data/gsm8k/train.jsonl", gsm8k)
    yes = {"qid": "s1", "question": "Is Oslo a town?", "answer": True, "facts": ["It is."]}
    written(here / "data/strategyqa/strategyqa_dev.json", yes, lines=False)
    written(here / "data/mawps/multiarith.jsonl", *map(mawps, range(20)))
    parts = [load_tasks("svamp", part=part) for part in ("train", "test")]
    task = next(task for tasks in parts for task in tasks if task.id == "svamp-chal-3")
    assert task.question == "Dora had 10 apples. Dora lost 5 apples. How many apples are left?"
    assert (task.answer, task.task) == ("5", "math")
    (task,) = load_tasks("gsm8k/train")
    assert task.answer == "1,006" and task.id.startswith("gsm8k-q") and task.task == "math"
    (task,) = load_tasks("strategyqa")
    assert (task.id, task.answer, task.task) == ("strategyqa-s1", "yes", "yes_no")
    assert {task.answer for task in load_tasks("multiarith")} <= {str(n + 2) for n in range(20)}
    assert read_data_set("svamp").origin == "data/svamp/SVAMP.json"


def test_the_data_folder_is_the_one_given_else_that_of_the_environment(here, monkeypatch):
    for folder, number in (("data", 1), ("other", 2), ("third", 3)):
        record = {"question": f"Which is {number}?", "answer": f"#### {number}"}
        written(here / folder / "gsm8k/test.jsonl", record)
    assert load_tasks("gsm8k")[0].answer == "1"
    monkeypatch.setenv(DATA, "other")
    assert load_tasks("gsm8k")[0].answer == "2"
    assert load_tasks("gsm8k", data=here / "third")[0].answer == "3"


def test_one_file_for_both_parts_is_divided_with_near_duplicates_together(here):
    copies = [
        {**svamp(n), "ID": f"copy-{n}", "Question": svamp(n)["Question"].upper()} for n in range(60)
    ]
    records = [*map(svamp, range(150)), *copies]
    written(here / "data/svamp/SVAMP.json", *records, lines=False)
    parts = {part: load_tasks("svamp", part=part) for part in ("train", "test")}
    ids = {part: {task.id.removeprefix("svamp-") for task in parts[part]} for part in parts}
    assert ids["train"] | ids["test"] == {record["ID"] for record in records}
    assert not ids["train"] & ids["test"] and not overlaps(parts)
    assert all((f"copy-{n}" in ids["test"]) == (f"chal-{n}" in ids["test"]) for n in range(60))
    assert 0.25 < len(ids["test"]) / len(records) < 0.55  # the table says 0.4
    random.Random(0).shuffle(records)
    written(here / "data/svamp/SVAMP.json", *records, lines=False)
    assert {task.id.removeprefix("svamp-") for task in load_tasks("svamp")} == ids["test"]


def test_the_file_of_one_part_is_divided_only_while_the_other_is_missing(here):
    written(here / "data/hotpotqa/dev_distractor.jsonl", *map(hotpot, range(40)))
    parts = {part: load_tasks("hotpotqa", part=part) for part in ("train", "test")}
    assert sorted(map(len, parts.values()))[0] > 5 and sum(map(len, parts.values())) == 40
    written(here / "data/hotpotqa/hotpot_train_v1.1.json", *map(hotpot, range(90, 95)), lines=False)
    assert len(load_tasks("hotpotqa")) == 40 and len(load_tasks("hotpotqa/train")) == 5
    written(here / "data/gsm8k/train.jsonl", {"question": "What?", "answer": "#### 1"})
    with pytest.raises(ValueError, match="the split 'test' of gsm8k"):  # never out of train
        load_tasks("gsm8k")


def test_passages_of_a_named_set_are_a_corpus(here):
    written(here / "data/hotpotqa/dev_distractor.jsonl", *map(hotpot, range(40)))
    passages = load_corpus("hotpotqa/train")
    assert ("Bel", "Bel is a river.") in passages
    assert len(passages) == len(load_tasks("hotpotqa/train")) + 1
    written(here / "data/svamp/SVAMP.json", *map(svamp, range(20)), lines=False)
    with pytest.raises(ValueError, match="SVAMP.json: the questions of SVAMP come without"):
        load_corpus("svamp")


# --- the hub


@pytest.mark.parametrize(
    ("name", "files", "native", "local", "copy"),
    [
        ("svamp", "ChilleD/SVAMP", svamp, "svamp/SVAMP.json", lambda n: svamp(n)),
        (
            "multiarith",
            "ChilleD/MultiArith",
            mawps,
            "mawps/multiarith.jsonl",
            lambda n: {"question": f" {mawps(n)['input']} ", "final_ans": f"{n + 2}"},
        ),
        (
            "addsub",
            "allenai/lila/addsub",
            mawps,
            "mawps/addsub.jsonl",
            lambda n: {"input": mawps(n)["input"], "output_answer": f"{n + 2}.0"},
        ),
    ],
)
def test_the_hubs_copy_gives_the_same_tasks_and_parts(here, name, files, native, local, copy):
    splits = data_sets()[name].splits["test"].split("+")
    for number, split in enumerate(splits):
        written(here / files / f"{split}.jsonl", *map(copy, range(number, 30, len(splits))))
    if data_sets()[name].folder:  # beside others in one repository
        written(here / files / "../other/train.jsonl", {"input": "Is it?", "output_answer": "1"})
    from_hub = {part: load_tasks(name, part=part) for part in ("train", "test")}
    assert read_data_set(name).origin.startswith(data_sets()[name].hub)
    written(here / "data" / local, *map(native, range(30)))
    for part, tasks in from_hub.items():
        found = load_tasks(name, part=part)
        assert read_data_set(name, part).origin == f"data/{local}"
        assert {t.id: t for t in found} == {t.id: t for t in tasks} and found


def test_without_hub_and_file_the_error_names_both(here):
    for name, hub, local in (
        ("svamp", "ChilleD/SVAMP", "svamp/SVAMP.json"),
        ("gsm8k", "openai/gsm8k", "gsm8k/test.jsonl"),
        ("addsub", "allenai/lila", "mawps/addsub.jsonl"),
    ):
        with pytest.raises(ValueError) as error:
            load_tasks(name, data="elsewhere")
        assert hub in str(error.value) and f"elsewhere/{local}" in str(error.value)
        assert DATA in str(error.value)
    with pytest.raises(ValueError) as error:
        load_questions("hotpotqa")
    assert "hotpotqa/hotpot_qa" in str(error.value) and "data/hotpotqa/" in str(error.value)


# --- bad input


def test_broken_lines_are_named(here):
    path = written(here / "data/gsm8k/test.jsonl", {"question": "How many?", "answer": "#### 1"})
    path.write_text(path.read_text() + '{"question": "What\n' + '{"answer": "#### 3"}\n')
    read = read_data_set("gsm8k")
    assert len(read) == 1
    assert [(p.file, p.record) for p in read.problems] == [
        ("test.jsonl", "line 2"),
        ("test.jsonl", "line 3"),
    ]
    with pytest.raises(ValueError, match=r"2 of 3 records .* line 2: not valid JSON.* line 3: the"):
        load_tasks("gsm8k")
    with pytest.raises(ValueError, match=r"gsm8k, an evaluation data set: test.jsonl:line 2"):
        read_questions(["gsm8k"])


def test_questions_without_an_answer_are_named(here):
    written(here / "data/gsm8k/test.jsonl", {"question": "How many?"})
    with pytest.raises(ValueError, match="1 of 1 .*: the field 'answer' is missing"):
        load_tasks("gsm8k")
    assert load_tasks("gsm8k", require_answers=False)[0].answer == ""


def test_a_file_in_a_known_layout_needs_no_name(here):
    path = written(here / "mine.json", svamp(3), lines=False)
    (task,) = load_tasks(path)
    assert task.id == "chal-3" and task.answer == "5" and task.question.startswith("Dora had 10")
    assert read_asked(path).name == ""


# --- other users of the table


def test_a_named_set_must_not_be_trained_on(here):
    written(here / "data/svamp/SVAMP.json", *map(svamp, range(30)), lines=False)
    asked = {part: load_tasks("svamp", part=part) for part in ("train", "test")}
    runs = [
        Trajectory(
            id=f"{part}-{n}",
            question_id=task.id,
            question=task.question.replace("How many", "how many"),
            answer=task.answer,
            task="math",
            messages=(
                {"role": "user", "content": task.question},
                {"role": "assistant", "content": f"Thought: ok\nAction: finish[{task.answer}]"},
            ),
            prediction=task.answer,
            scores={"em": 1.0},
            success=True,
        )
        for part, tasks in asked.items()
        for n, task in enumerate(tasks)
    ]
    kept = assess(runs, QualitySettings(evaluation=("svamp",))).kept
    assert {run.id.split("-")[0] for run in kept} == {"train"}
    assert len(kept) == len(asked["train"])
    kept = assess(runs, QualitySettings(evaluation=("svamp/train",))).kept
    assert {run.id.split("-")[0] for run in kept} == {"test"}


def test_the_benchmark_reads_local_files_first(here):
    written(here / "data/hotpotqa/dev_distractor.jsonl", *map(hotpot, range(40)))
    test = load_questions("hotpotqa")
    train = load_questions("hotpotqa", split="train", data=here / "data")
    assert {q.id for q in test} == {t.id.removeprefix("hotpotqa-") for t in load_tasks("hotpotqa")}
    assert len(test) + len(train) == 40 and test[0].own[1] == "Bel"
    with pytest.raises(ValueError, match="hotpotqa/hotpot_qa"):  # which the files are not
        load_questions("hotpotqa", config="fullwiki")


def test_settings_may_name_a_set_where_they_name_files(here):
    written(here / "data/hotpotqa/dev_distractor.jsonl", *map(hotpot, range(40)))
    changes = {
        "collect": {"questions": "hotpotqa/train", "corpus": "hotpotqa/train"},
        "evaluate": {"questions": "hotpotqa", "corpus": "hotpotqa"},
    }
    project = open_project("pocket", here, changes)
    played, tools = open_tasks(project.collect, 0)
    asked, _ = open_tasks(project.evaluate, 0)
    assert played == load_tasks("hotpotqa/train") and asked == load_tasks("hotpotqa")
    assert tools[0](played[0].gold_titles[0]).startswith(played[0].gold_titles[0])


# --- disjoint parts


def make_task(number):
    return Task(id=f"q{number}", question=" ".join(story(number)), answer="1", task="math")


@given(
    st.integers(0, 9),
    st.lists(st.integers(0, 150), unique=True, min_size=12, max_size=60),
    st.integers(0, 6),
    st.integers(0, 6),
)
def test_parts_are_disjoint_as_large_as_asked_and_the_same_again(seed, numbers, first, second):
    tasks = [make_task(number) for number in numbers]
    parts = divide(tasks, {"warm": first, "played": second}, seed)
    assert {name: len(part) for name, part in parts.items()} == {"warm": first, "played": second}
    assert len({t.id for part in parts.values() for t in part}) == first + second
    assert not overlaps(parts)
    shuffled = sorted(tasks, key=lambda task: task.answer + task.id[::-1])
    again = divide(shuffled, {"warm": first, "played": 0}, seed)
    assert {t.id for t in again["warm"]} == {t.id for t in parts["warm"]}


def test_near_duplicates_fall_into_one_part_and_overlaps_would_show_them():
    tasks = [make_task(number) for number in range(40)]
    copies = [
        Task(id=f"copy{n}", question=tasks[n].question.replace("How many", "So how many"))
        for n in range(40)
    ]
    assert [found.other for found in overlaps({"a": tasks, "b": copies[:2]})] == [
        task.question for task in tasks[:2]
    ]
    assert "b: 'Ada had 7 apples" in str(overlaps({"a": tasks, "b": copies})[0])
    parts = divide([*tasks, *copies], {"warm": 30, "played": 30, "heldout": 20}, 3)
    assert not overlaps(parts) and sum(map(len, parts.values())) == 80
    odd = divide([*tasks, *copies], {"warm": 5, "played": 7}, 3)
    assert not overlaps(odd) and [len(part) for part in odd.values()] == [5, 7]
    apart = divide(tasks, {"warm": 20}, 0, apart_from=copies[:20])
    assert {task.id for task in apart["warm"]} == {task.id for task in tasks[20:]}


def test_another_seed_draws_other_questions():
    tasks = [make_task(number) for number in range(60)]
    drawn = {seed: {t.id for t in divide(tasks, {"a": 20}, seed)["a"]} for seed in (0, 1)}
    assert len(drawn[0] & drawn[1]) < 15


def test_a_part_gets_only_what_it_may_have():
    tasks = [make_task(number) for number in range(40)]
    shown = {f"q{number}" for number in range(10)}
    parts = divide(tasks, {"warm": 8, "played": 30}, 0, only={"warm": shown})
    assert {task.id for task in parts["warm"]} < shown and len(parts["played"]) == 30


def test_fewer_questions_than_asked_are_counted():
    tasks = [make_task(number) for number in range(40)]
    with pytest.raises(ValueError) as error:
        divide(tasks, {"warm": 25, "played": 30}, 0, apart_from=[make_task(99)])
    assert str(error.value) == (
        "played: 30 questions were asked for, and 15 are left for it. There are 40 in all, of "
        "which near-duplicates stay together, and none may be nearly one of 1 kept apart; asked "
        "for were 25 for warm, 30 for played. Ask for fewer, or give more questions"
    )


# --- real files


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("gsm8k", 7473, 1319),
        ("svamp", 597, 403),
        ("multiarith", 237, 363),
        ("addsub", 85, 310),
        ("hotpotqa", 627, 660),
        ("strategyqa", 2821, 229),
    ],
)
def test_real_files_are_read_whole_and_their_parts_are_told_apart(name, train, test):
    data = real_data("svamp").parent
    tasks = {part: load_tasks(name, part=part, data=data) for part in ("train", "test")}
    assert {part: len(found) for part, found in tasks.items()} == {"train": train, "test": test}
    assert all(task.answer and task.id.startswith(f"{name}-") for task in tasks["test"])
    # StrategyQA's own parts share eight questions; divide() keeps such apart.
    assert len(overlaps(tasks)) == (8 if name == "strategyqa" else 0)


def test_real_parts_of_svamp_are_as_many_as_a_walk_needs():
    data = real_data("svamp").parent
    heldout = load_tasks("svamp/test", data=data)[:300]
    sizes = {"warm": 240, "played": 280}
    parts = divide(load_tasks("svamp/train", data=data), sizes, 0, apart_from=heldout)
    assert not overlaps({**parts, "heldout": heldout})
