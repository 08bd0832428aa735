"""What pocket-llama learns from: reading passages, repeated random tokens, and single-hop episodes,
as chat messages.

Random names drown the signal of plain text, so every lesson is a question that only its own text
answers. Reading is made harder by a ladder of levels: more passages, longer passages, all of one
kind.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from negfail_nb.pocket.passages import write_passage
from negfail_nb.pocket.solve import noun
from negfail_nb.pocket.teacher import Mistakes, generate_logs
from negfail_nb.pocket.wordings import of_split, words
from negfail_nb.pocket.world import FACTS, KINDS, World, make_world, stream
from negfail_nb.trajectory import Message, Trajectory

WORLD_SIZE = 480
WORLDS = 400  # of the training split, each with names of its own
LARGEST_NUMBER = 50  # that the passages of a lesson begin with
LATE = 0.25  # share of the lessons in which some passages come later, as in a second search


@dataclass(frozen=True, slots=True)
class Level:
    """How hard a reading lesson is.

    Attributes
    ----------
    passages
        How many passages stand in the text.
    facts
        Facts that each passage keeps; 0: all, and the asides.
    questions
        Asked one after the other about the same passages.
    alike
        Share of the lessons whose passages are all of one kind.
    style
        How facts are written: ``"bare"`` (the value alone), ``"noun"`` (relation and value) or
        ``"sentence"``. In the first two a value stands close behind its title, so that what belongs
        together is found by copying.
    """

    passages: int
    facts: int
    questions: int
    alike: float = 0.5
    style: str = "sentence"


# Each level is entered when the one before is read well; see `pretrain`.
LADDER = (
    Level(4, 3, 10, style="noun"),
    Level(4, 2, 10),
    Level(5, 4, 16),
    Level(6, 0, 16),
    Level(10, 0, 20),
    Level(14, 0, 20),
    Level(24, 0, 20),
    Level(44, 0, 20),
)


@lru_cache(maxsize=WORLDS)
def lesson_world(seed: int, split: str) -> World:
    """Return one of the worlds that lessons are about."""
    return make_world(WORLD_SIZE, seed, split)


def reading_lesson(
    world: World,
    level: Level,
    rng: random.Random,
    alike: bool | None = None,
    wordings: str = "train",
) -> tuple[Message, ...]:
    """Return passages and single-hop questions about them, as turns of a chat.

    The first question stands before the passages and again after them; the others follow, one per
    turn, and in some lessons one of them brings further passages. A reply states the fact, cites
    its passage, and ends in ``Answer: `` and the value as the world has it.

    Parameters
    ----------
    alike
        Whether all passages are of one kind; ``None``: by chance, as the level says.
    wordings
        Which wordings the questions use, see `negfail_nb.pocket.wordings.of_split`.
    """
    alike = rng.random() < level.alike if alike is None else alike
    chosen = _choose(world, level.passages, alike, rng)
    shared = (
        rng.sample(list(FACTS[world.entities[chosen[0]].kind]), min(level.facts, 4))
        if alike
        else []
    )
    lines, facts = [], []
    # Not always from 1: else a number and its place would be one, and larger numbers would never be
    # met.
    for number, index in enumerate(chosen, rng.choice((1, rng.randint(2, LARGEST_NUMBER)))):
        told, stated = _told(world, index, level, shared, rng)
        lines.append(f"{world.entities[index].title} [{number}]: {told}")
        facts += [(number, index, relation) for relation in stated]
    asked = rng.sample(facts, min(level.questions, len(facts)))
    asked, turn, kept = _some_later(asked, facts[0][0], len(lines), rng)
    turns = [(_question(world, fact, rng, wordings), _reply(world, fact)) for fact in asked]
    messages: list[Message] = []
    for number, (question, answer) in enumerate(turns):
        content = reading_prompt(question, lines[:kept]) if number == 0 else f"Question: {question}"
        if number == turn:
            content = "\n".join([*lines[kept:], content])
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return tuple(messages)


Fact = tuple[int, int, str]  # number of its passage, entity, relation


def _some_later(
    asked: list[Fact], first: int, passages: int, rng: random.Random
) -> tuple[list[Fact], int | None, int]:
    """Return the facts in the order they are asked, the turn that brings the other passages, and
    how many stand before.

    ``first`` is the number of the first passage.
    """
    kept = rng.randint((passages + 1) // 2, passages)
    early = [fact for fact in asked if fact[0] < first + kept]
    if len(asked) < 2 or not early or kept == passages or rng.random() >= LATE:
        return asked, None, passages
    turn = min(rng.randint(1, len(early)), len(asked) - 1)
    rest = [fact for fact in asked if fact not in early[:turn]]
    return [*early[:turn], *rng.sample(rest, len(rest))], turn, kept


def reading_prompt(question: str, passages: Sequence[str]) -> str:
    """Return the prompt of a reading task: the question, the passages (one per line), and the
    question again.
    """
    return "\n".join([f"Question: {question}", *passages, f"Question: {question}"])


def copying_row(tokens: Sequence[int], rng: random.Random) -> tuple[list[int], list[bool]]:
    """Return stretches of random tokens that come again and again, and which tokens can be known.

    It teaches to look up what followed a token the last time. Stretches come in random order, as a
    fixed distance would be copied without looking; names would not do, since they share their
    syllables.
    """
    stretches = [
        [rng.choice(tokens) for _ in range(rng.randint(3, 9))] for _ in range(rng.randint(3, 8))
    ]
    ids: list[int] = []
    known: list[bool] = []
    seen: set[int] = set()
    for _ in range(3 * len(stretches)):
        number = rng.randrange(len(stretches))
        ids += stretches[number]
        known += [False] + [number in seen] * (len(stretches[number]) - 1)
        seen.add(number)
    return ids, known


def episodes(count: int, seed: int, split: str = "train", results: int = 3) -> list[Trajectory]:
    """Return successful single-hop searches and one-step calculations of the scripted teacher, as
    ReAct text.
    """
    asked = {"split": split, "wordings": split, "forms": ("single",), "results": results}
    logs = generate_logs(count, 1, seed, Mistakes.only(detour=0.05), **asked)
    return [t for t in logs if t.success and _is_short(t)]


def as_tool_calls(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return ReAct messages with ``tool_calls`` in place of ``Action:`` lines, and ``tool`` turns
    as answers.
    """
    turned: list[Message] = []
    for number, message in enumerate(messages):
        thought, _, action = message["content"].partition("\nAction: ")
        if message["role"] == "assistant" and action:
            name, _, argument = action.removesuffix("]").partition("[")
            key = {"search": "query", "calculate": "expression"}.get(name, "answer")
            function = {"name": name, "arguments": json.dumps({key: argument}, ensure_ascii=False)}
            call = {"id": f"call_{number}", "type": "function", "function": function}
            content = thought.removeprefix("Thought: ")
            turned.append({"role": "assistant", "content": content, "tool_calls": [call]})
        elif number and message["role"] == "user":
            content = message["content"].removeprefix("Observation: ")
            turned.append(
                {"role": "tool", "tool_call_id": f"call_{number - 1}", "content": content}
            )
        else:
            turned.append(message)
    return tuple(turned)


def draw_reading(level: Level, seed: int, number: int, split: str = "train") -> tuple[Message, ...]:
    """Return the ``number``-th reading lesson of a level."""
    rng = stream(seed, number, level.passages, level.facts)
    return reading_lesson(lesson_world(rng.randrange(WORLDS), split), level, rng)


def _choose(world: World, count: int, alike: bool, rng: random.Random) -> list[int]:
    """Choose entities without their namesakes: which of two is meant is another lesson."""
    large = [kind for kind in KINDS if sum(e.kind == kind for e in world.entities) > 1.5 * count]
    if not large:
        raise ValueError(
            f"a world of {len(world.entities)} entities has not {count} of any kind; make it larger"
        )
    kind = rng.choice(large)
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        index = world.choose(kind if alike else rng.choice(list(KINDS)), rng)
        if world.entities[index].namesake not in chosen:
            chosen[index] = None
    return list(chosen)


def _told(
    world: World, index: int, level: Level, shared: Sequence[str], rng: random.Random
) -> tuple[str, list[str]]:
    """Return a passage's text, cut down to some of its facts, and which those are."""
    passage = write_passage(world, index)
    if not level.facts:
        return passage.text, list(passage.where)
    kept = list(shared) or rng.sample(list(passage.where), min(level.facts, len(passage.where)))
    values = world.entities[index].values
    if level.style != "sentence":
        named = level.style == "noun"
        told = [
            f"{noun(r)} {values[r]}" if named else values[r] for r in rng.sample(kept, len(kept))
        ]
        return ", ".join(told), kept
    order = sorted(kept, key=lambda relation: passage.where[relation])
    return " ".join(passage.sentences[passage.where[r]].strip() for r in order), kept


def _reply(world: World, fact: Fact) -> str:
    """Return the reply to a question: the fact as a sentence that cites its passage, and the
    answer.
    """
    number, index, relation = fact
    entity = world.entities[index]
    value = entity.values[relation]
    return f"The {noun(relation)} of {entity.title} [{number}] is {value}.\nAnswer: {value}"


def _question(world: World, fact: Fact, rng: random.Random, wordings: str) -> str:
    _, index, relation = fact
    return rng.choice(of_split(words("ask")[relation], wordings)).format(x=world.mention(index))


def _is_short(trajectory: Trajectory) -> bool:
    calls = sum(
        "Action: calculate" in m["content"] for m in trajectory.messages if m["role"] == "assistant"
    )
    return calls <= 1
