"""What pocket-llama can do, measured on entities and names that it has never seen: the numbers of
its model card.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.pocket.tasks import make_tasks
from negfail_nb.pocket.world import FACTS, stream
from negfail_nb.settings import LiveSettings
from recipes.pocket_llama.card import write_card
from recipes.pocket_llama.curriculum import encode, pad
from recipes.pocket_llama.lessons import Level, lesson_world, reading_lesson
from recipes.pocket_llama.pretrain import share_right

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

LENGTHS = (512, 1024, 2048, 4096)
WORLDS = 20
EXAM_SEED = 7
BATCH_TOKENS = 16_384


@dataclass(frozen=True, slots=True)
class Mark:
    """How many of some questions were answered right.

    Attributes
    ----------
    name
        What was asked.
    right, questions
        Answers that match exactly, of how many.
    guess
        Share that guessing among the values of the right sort in the text would get; NaN if there
        is no such thing.
    """

    name: str
    right: int
    questions: int
    guess: float = float("nan")

    def row(self) -> dict[str, Any]:
        """Return name, questions, EM in percent with its exact 95 % interval (Clopper-Pearson), and
        guess rate.
        """
        from scipy.stats import binomtest

        interval = binomtest(self.right, self.questions).proportion_ci(0.95)
        em = {
            "em": 100 * self.right / self.questions,
            "low": 100 * interval.low,
            "high": 100 * interval.high,
        }
        return {"task": self.name, "questions": self.questions, **em, "guess": 100 * self.guess}


def reading_marks(
    model: Any,
    tokenizer: Any,
    questions: int = 200,
    wordings: str = "train",
    lengths: Sequence[int] = LENGTHS,
) -> list[Mark]:
    """Measure single-hop reading on the held-out split: ten passages of mixed kinds and of one, and
    by length.

    Every prompt has one question, before and behind whole passages. Right means that greedy
    decoding gives the whole reply exactly, the sentence before ``Answer:`` included; it is measured
    in one pass, since each token is checked after the right ones.

    Parameters
    ----------
    wordings
        ``"heldout"``: questions in wordings that were never trained on.
    lengths
        Of prompts, in tokens.
    """
    marks = []
    for name, alike in (("10 passages, mixed kinds", False), ("10 passages, one kind", True)):
        prompts = (_prompt(n, 10, alike, wordings) for n in range(questions))
        marks.append(_mark(name, model, tokenizer, prompts))
    for length in lengths:
        fitted = (_fitted(n, length, tokenizer, wordings) for n in range(questions))
        marks.append(_mark(f"{length} tokens, mixed kinds", model, tokenizer, fitted))
    return marks


def episode_marks(model: Any, tokenizer: Any, questions: int, file: str | Path) -> list[Mark]:
    """Measure live episodes on the held-out split, greedy: single-hop searches, calculations, and
    valid actions.

    Parameters
    ----------
    questions
        About three in four are searches, the rest word problems of one step.
    file
        The episodes are written to it.
    """
    from negfail_nb.agents import CalculatorTool, LocalModel, SearchTool, collect
    from negfail_nb.evaluation import agent_scores

    tasks, passages = make_tasks(
        questions, EXAM_SEED, split="heldout", wordings="train", forms=("single",)
    )
    tasks = [
        replace(t, prompt=f"Question: {t.question}")
        for t in tasks
        if t.task != "math" or _is_one_step(t)
    ]
    protocol = LiveSettings(attempts=1, temperatures=(0.0,), instruction=False, max_tokens=96)
    agent = LocalModel(model, tokenizer, "pocket-llama")
    episodes = collect(
        agent, tasks, [SearchTool(passages), CalculatorTool()], protocol, file=file
    ).trajectories
    marks = []
    for name, math in (
        ("single-hop search episode", False),
        ("one-step calculation episode", True),
    ):
        chosen = [t for t in episodes if (t.task == "math") == math]
        marks.append(Mark(name, sum(bool(t.success) for t in chosen), len(chosen)))
    turns = agent_scores(episodes).table[["turns", "action_errors"]].sum()
    return [
        *marks,
        Mark("valid actions", int(turns["turns"] - turns["action_errors"]), int(turns["turns"])),
    ]


def table(marks: Iterable[Mark]) -> pd.DataFrame:
    """Return one row per mark; see `Mark.row`."""
    import pandas as pd

    return pd.DataFrame([mark.row() for mark in marks])


def _is_one_step(task: Any) -> bool:
    """Whether a word problem has one sentence between its beginning and its question."""
    return task.question.count(". ") == 2


Prompt = tuple[Sequence[dict[str, Any]], float]


def _prompt(number: int, passages: int, alike: bool, wordings: str) -> Prompt:
    """Return the messages of the ``number``-th exam question, and its guess rate."""
    rng = stream(number, passages, alike, 17)
    world = lesson_world(rng.randrange(WORLDS), "heldout")
    messages = reading_lesson(world, Level(passages, 0, 1), rng, alike, wordings)
    return messages, _guess_rate(
        world, messages[-1]["content"].rpartition("Answer: ")[2], messages[0]["content"]
    )


def _fitted(number: int, length: int, tokenizer: Any, wordings: str) -> Prompt:
    """Return an exam question with as many passages as a number of tokens holds."""
    passages = max(2, length // 100)
    while True:
        prompt = _prompt(number, passages, False, wordings)
        tokens = len(encode(tokenizer, prompt[0])[0])
        if tokens <= length or passages == 2:
            return prompt
        passages = min(passages - 1, int(passages * length / tokens))


def _guess_rate(world: Any, answer: str, text: str) -> float:
    """Return 1 / (values in the text of the sort that is asked for)."""
    relations = {r for e in world.entities for r in FACTS[e.kind] if e.values[r] == answer}
    candidates = {
        e.values[r]
        for e in world.entities
        for r in relations & set(FACTS[e.kind])
        if e.title in text
    }
    return 1 / max(1, sum(value in text for value in candidates))


def _mark(name: str, model: Any, tokenizer: Any, prompts: Iterable[Prompt]) -> Mark:
    rows, guesses = [], []
    for messages, guess in prompts:
        rows.append(encode(tokenizer, messages))
        guesses.append(guess)
    right = sum(
        _right(model, batch) for batch in _batches(sorted(rows, key=lambda row: len(row[0])))
    )
    return Mark(name, right, len(rows), sum(guesses) / len(guesses))


def _batches(rows: Sequence[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row[0]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _right(model: Any, rows: list[Any]) -> int:
    import torch

    batch = {
        name: value.to(model.device)
        for name, value in pad(rows, max(len(ids) for ids, _ in rows)).items()
    }
    answers = batch["answers"][:, 1:].bool()
    with torch.inference_mode():
        hidden = model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[
            :, :-1
        ][answers]
        logits = model.lm_head(hidden).float()
    return round(
        share_right(logits, batch["input_ids"][:, 1:][answers], answers, answers) * len(rows)
    )


def main(folder: str | Path, questions: int) -> None:
    """Write ``exam.json`` and the model card beside a model: its marks on seen and on held-out
    wordings.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from negfail_nb.content import write_json

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    seen, unseen = (
        reading_marks(model, tokenizer, questions, wordings) for wordings in ("train", "heldout")
    )
    with tempfile.TemporaryDirectory() as place:
        seen += episode_marks(model, tokenizer, questions, Path(place) / "episodes.jsonl")
    marks = {"wordings as trained": seen, "held-out wordings": unseen}
    rows = {name: [mark.row() for mark in part] for name, part in marks.items()}
    write_json(Path(folder) / "exam.json", rows)
    write_card(folder, rows, json.loads((Path(folder) / "made.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200)
