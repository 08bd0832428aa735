"""01 logs on real logs: counts, labels, and what docs/log_labels.md says."""

import json
from collections import Counter
from pathlib import Path

import pytest
from conftest import real_data

from negfail_nb.logs import label_agreement, load_trajectories
from negfail_nb.steps import read_steps

DOCS = Path(__file__).parents[1] / "docs" / "log_labels.md"


@pytest.fixture(scope="module")
def logs():
    return load_trajectories(real_data("trajectories"))


def row(logs, file):
    table = logs.table().set_index("file")
    return tuple(table.loc[file, ["format", "records", "successes", "problems"]])


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("mint/mint_nofb_gsm8k.jsonl", ("mint", 2640, 1019, 0)),
        ("mint/mint_nofb_hotpotqa.jsonl", ("mint", 2236, 496, 0)),
        ("fireact/hotpotqa_dev_0_500_gpt-3.5-turbo-0613.json", ("fireact", 465, 200, 0)),
        ("fireact/hotpotqa_dev_0_500_llama-2-13b-lora.json", ("fireact", 499, 172, 0)),
        ("fireact/hotpotqa_dev_0_500_llama-2-7b-lora.json", ("fireact", 500, 131, 0)),
        ("reflexion/react_base_100_questions_5_trials.txt", ("reflexion", 512, 170, 0)),
        ("reflexion/react_reflexion_100_questions_7_trials.txt", ("reflexion", 695, 329, 0)),
    ],
)
def test_counts_of_every_file(logs, file, expected):
    assert row(logs, file) == expected


def test_nothing_else_is_in_the_folder_but_licences(logs):
    assert [p.file for p in logs.problems] == [
        "fireact/LICENSE",
        "mint/LICENSE",
        "reflexion/LICENSE",
    ]


def test_mint_models_and_questions(logs):
    mint = [t for t in logs if t.source.format == "mint"]
    assert len({t.source.model for t in mint if t.task == "math"}) == 55
    assert len({t.question_id for t in mint if t.task == "math"}) == 48
    assert len({t.question_id for t in mint if t.task == "qa"}) == 43
    crashed = [t for t in mint if t.termination == "crashed"]
    assert len(crashed) == 151 and all(t.error for t in crashed)


def test_reflexion_trials_agree_with_their_summaries_but_for_the_known_cases(logs):
    base = [t for t in logs if "react_base" in t.source.file]
    reflected = [t for t in logs if "react_reflexion" in t.source.file]
    assert Counter(t.source.attempt for t in base) == {1: 103, 2: 103, 3: 102, 4: 102, 5: 102}
    assert Counter(t.source.attempt for t in reflected) == {
        1: 100,
        2: 99,
        3: 100,
        4: 100,
        5: 99,
        6: 98,
        7: 99,
    }
    # 12 attempts of the base log that finish at their last step stand in two sections, word for
    # word
    copies = Counter((t.source.attempt, json.dumps(t.messages)) for t in base)
    assert sum(copies.values()) - len(copies) == 12
    # what was solved before trial 6 is listed without turns
    assert Counter(t.source.attempt for t in reflected if t.termination == "empty") == {
        6: 51,
        7: 51,
    }
    assert len({t.question_id for t in base} | {t.question_id for t in reflected}) == 100
    assert not any(
        "You have attempted" in t.question or "Reflections" in t.question for t in reflected
    )


def test_every_reflexion_action_is_found(logs):
    path = real_data("trajectories/reflexion/react_base_100_questions_5_trials.txt")
    text = path.read_text(encoding="utf-8")
    found = [step for t in logs if "react_base" in t.source.file for step in read_steps(t)]
    assert len(found) == sum(line.startswith("Action ") for line in text.splitlines()) == 1867


def test_one_question_has_one_id_in_all_logs(logs):
    by_format = {
        f: {t.question_id for t in logs if t.source.format == f}
        for f in ("mint", "fireact", "reflexion")
    }
    assert len(by_format["fireact"]) == 500
    assert (
        len(by_format["fireact"] & by_format["reflexion"]) == 7
        and len(by_format["fireact"] & by_format["mint"]) == 4
    )
    assert len({t.id for t in logs}) == len(logs) == 7547


def test_fireacts_own_scores_are_ours_to_the_last_digits(logs):
    scores = {
        (t.source.file, t.source.record): t.scores for t in logs if t.source.format == "fireact"
    }
    for path in real_data("trajectories/fireact").glob("*.json"):
        for key, record in json.loads(path.read_text(encoding="utf-8")).items():
            ours = scores[f"fireact/{path.name}", key]
            assert (ours["em"], ours["f1"]) == (
                record["em"],
                pytest.approx(record["f1"], abs=1e-12),
            )


def test_the_disagreements_are_those_of_the_docs(logs):
    table = label_agreement(logs)
    counts = table.groupby(["format", "task", "label", "kind"]).size()
    described = DOCS.read_text(encoding="utf-8")
    assert f"**{len(table)} of {table.attrs['compared']:,}**" in described
    for (format, task, label, kind), count in counts.items():
        assert (
            f"| {format} | {task} | {'success' if label else 'failure'} | {kind} | {count} |"
            in described
        )
    assert set(table["format"]) == {"mint", "reflexion"}  # FireAct's 1,464 labels agree
    assert set(table[table["format"] == "reflexion"]["kind"]) == {"no turns"}
