"""What a reader is tuned on: questions that the benchmark does not ask, with their passages, and
the answer in the form that it asks for.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from negfail_nb.benchmarking.prompts import open_prompt
from negfail_nb.benchmarking.questions import POCKET, Questions, draw, load_questions, multi_hop
from negfail_nb.benchmarking.records import Passage, Question
from negfail_nb.data_sets import local_files
from negfail_nb.duplicates import SimilarQuestions
from negfail_nb.prefix.templates import LabelClass, Template
from negfail_nb.settings import ReadingSettings
from negfail_nb.trajectory import Source, Trajectory

# The label template of these examples: the message stays as it is.
AS_ASKED = Template(
    name="as-asked", classes=(LabelClass(name="asked", text={"default": "{question}"}),)
)
# On the hub a part of large training splits is enough; their records are read each time.
PARTS = {"hotpotqa": "train[:10%]", "2wikimultihopqa": "train[:5%]"}

logger = logging.getLogger("negfail_nb")


def spare_questions(
    source: str | Path,
    asked: Sequence[Question],
    count: int,
    *,
    similarity: float = 0.8,
    seed: int = 0,
    data: str | Path = "",
) -> Questions:
    """Draw questions to learn from: none of those that are asked, and none that says the same.

    Parameters
    ----------
    source
        As `load_questions` takes it. Of a data set's name, or of pocket, questions come from the
        training split; of a file, from what is left of it.
    asked
        The benchmark's questions.
    count
        How many are drawn, 1 or more.
    similarity
        Above it two questions are the same, as in `QualitySettings.leak_similarity`.
    seed
        Of the draw; of pocket, of the world as well.
    data
        The folder of local files, as for `load_questions`.

    Returns
    -------
    Questions
        In the order of the source, with the passages of their own.

    Raises
    ------
    ValueError
        If there are not so many; the text says how many there are, and why others are left out.
    """
    found = _training_half(source, count + len(asked), seed, data)
    reasons = _left_out(found, asked, similarity)
    free = [number for number, reason in enumerate(reasons) if not reason]
    left = ", ".join(f"{n} {reason}" for reason, n in Counter(filter(None, reasons)).items())
    said = f"{source}: {len(free)} of {len(found)} questions can be learned from"
    said += f"; {left}" if left else ""
    logger.info(said)
    if len(free) < count:
        raise ValueError(
            f"{said}. {count} are wanted: lower benchmark.reader_examples or benchmark.questions"
        )
    return draw(found.select(free), count, seed)


def reading_examples(
    questions: Questions, settings: ReadingSettings = ReadingSettings(), seed: int = 0
) -> list[Trajectory]:
    """Return what a reader learns to answer from passages from, one example per question.

    The prompt is that of the arms that show passages once: gold and, up to ``settings.passages``,
    others of the question's record, shuffled. The reply has the form that the prompt asks for.
    Render them with ``AS_ASKED``.

    Parameters
    ----------
    questions
        With the passages of their records, gold among them, such as `spare_questions` draws.
    settings
        Which prompt, and how many passages.
    seed
        Of the choice and order of passages, of its own per question.

    Raises
    ------
    ValueError
        If the record of a question lacks a gold passage; the text names the question.
    """
    given = zip(questions, questions.contexts, strict=True)
    return [
        _example(question, [questions.passages[n] for n in own], settings, seed)
        for question, own in given
    ]


def _training_half(source: str | Path, count: int, seed: int, data: str | Path) -> Questions:
    if source == POCKET:
        return load_questions(source, split="train", limit=count, seed=seed)
    if (known := multi_hop().get(str(source))) is None:
        return load_questions(source)
    here, _ = local_files(known, "train", data)
    split = "train" if here else PARTS.get(known.name, "train")
    return load_questions(source, split=split, data=data)


def _left_out(found: Questions, asked: Iterable[Question], similarity: float) -> list[str]:
    """Return why each question is not learned from; empty if it may be."""
    asked = list(asked)
    names = {question.id for question in asked}
    same = SimilarQuestions(similarity, (question.question for question in asked))
    reasons = []
    for question in found:
        if question.id in names:
            reasons.append("are asked")
        elif same.similar(question.question):
            reasons.append("say nearly the same as one that is asked")
        else:
            reasons.append("" if _knows_gold(question) else "have no gold passage in their record")
    return reasons


def _knows_gold(question: Question) -> bool:
    return bool(question.evidence) and None not in question.evidence


def _example(
    question: Question, own: Sequence[Passage], settings: ReadingSettings, seed: int
) -> Trajectory:
    prompt = open_prompt(settings.prompt)
    shown = _choose(question, own, settings.passages, random.Random(f"{seed}/{question.id}"))
    asked = prompt.once(question, shown)
    reply = prompt.reply(question.answer, _sources(question, shown))
    roles = (("user", asked), ("assistant", reply))
    return Trajectory(
        id=f"reading/{question.id}",
        question_id=question.id,
        question=asked,  # the whole message, so that rendering changes nothing in it
        answer=question.answer,
        prediction=question.answer,
        messages=tuple({"role": role, "content": content} for role, content in roles),
        success=True,
        gold_titles=question.gold,
        source=Source(format="reading"),
    )


def _choose(
    question: Question, own: Sequence[Passage], most: int, rng: random.Random
) -> list[Passage]:
    """Return the gold passages and, up to ``most``, others of the record, in random order."""
    if not _knows_gold(question):
        raise ValueError(
            f"question {question.id!r}: its record does not hold all gold passages, so there is "
            "nothing to learn from; leave it out (see spare_questions)"
        )
    gold = list(dict.fromkeys(question.evidence))
    others = [passage for passage in dict.fromkeys(own) if passage not in gold]
    chosen = [*gold, *rng.sample(others, min(len(others), max(0, most - len(gold))))]
    rng.shuffle(chosen)
    return chosen


def _sources(question: Question, shown: Sequence[Passage]) -> Mapping[int, str]:
    """Return the title of each gold passage by its number, in the order of the facts."""
    numbers = {(passage.title, passage.text): n for n, passage in enumerate(shown, 1)}
    return {numbers[title, text]: title for title, text in question.needed()}
