"""Runs to be assessed, for the tests of 02 quality."""

import random

from negfail_nb.quality import Report, examine, read
from negfail_nb.settings import QualitySettings
from negfail_nb.trajectory import Source, Trajectory

SETTINGS = QualitySettings()
ALL_FILTERS_OFF = {"heldout": 0.0, "near_duplicate": 0.0}


def react(*turns: str, observation: str = "Nothing was found.") -> tuple[dict, ...]:
    """Messages of a ReAct agent that takes these turns."""
    messages = [{"role": "user", "content": "Question"}]
    for turn in turns:
        messages += [
            {"role": "assistant", "content": turn},
            {"role": "user", "content": f"Observation: {observation}"},
        ]
    return tuple(messages)


def run(id: str = "a", success: bool | None = False, **fields) -> Trajectory:
    fields.setdefault("question", "Who wrote the novel Dune?")
    fields.setdefault("question_id", fields["question"].lower())
    fields.setdefault("answer", "Frank Herbert")
    fields.setdefault("prediction", "Isaac Asimov")
    fields.setdefault(
        "messages",
        react("Thought: look\nAction: search[Dune]", f"Action: finish[{fields['prediction']}]"),
    )
    return Trajectory(id=id, success=success, **fields)


def finding(trajectory: Trajectory):
    return examine(read(trajectory))


def text_of(draw: random.Random, words: int = 60) -> str:
    return " ".join(str(draw.randrange(10_000)) for _ in range(words))


def runs(number: int = 12, questions: int = 4, seed: int = 0) -> list[Trajectory]:
    """Distinct runs: every third succeeded."""
    draw = random.Random(seed)
    topics = [
        "harbours of Norway",
        "alpine railways",
        "medieval bread ovens",
        "silent film scores",
        "desert foxes",
        "glass blowing schools",
        "river ferries",
        "moon landing photographs",
    ]
    return [
        run(
            id=f"r{i:03}",
            success=i % 3 == 0,
            question_id=f"q{i % questions}",
            question=f"Which book describes {topics[i % questions % 8]} number {i % questions}?",
            messages=react(
                f"Thought: {text_of(draw)}\nAction: search[{i}]", "Action: finish[Asimov]"
            ),
            source=Source(model=f"m{i % 2}"),
        )
        for i in range(number)
    ]


def removed_by(report: Report, name: str) -> list[str]:
    return sorted(r.id for r in report.removed if r.filter == name)


def edited(trajectory: Trajectory, id: str, words: int) -> Trajectory:
    """The same run with its last words replaced."""
    first = trajectory.messages[1]
    body = first["content"].split("\n")[0].split(" ")
    content = (
        " ".join(body[: len(body) - words] + ["changed"] * words)
        + f"\nAction: search[{trajectory.id}]"
    )
    messages = (trajectory.messages[0], {**first, "content": content}, *trajectory.messages[2:])
    return trajectory.replace(id=id, messages=messages)
