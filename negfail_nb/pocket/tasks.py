"""Questions and word problems of a generated world as tasks for a live agent, and the passages that
it searches.
"""

from __future__ import annotations

from collections.abc import Sequence

from negfail_nb.agents.protocol import Task
from negfail_nb.pocket.passages import write_passage
from negfail_nb.pocket.problems import Problem, plan_problems
from negfail_nb.pocket.questions import DEFAULT_FORMS, Question, plan_questions
from negfail_nb.pocket.world import BLOCK, World, make_world

MATH_SHARE = 4  # one task in so many is a word problem


def make_tasks(
    count: int,
    seed: int,
    *,
    split: str = "",
    wordings: str = "",
    forms: Sequence[str] = DEFAULT_FORMS,
) -> tuple[list[Task], list[tuple[str, str]]]:
    """Make tasks, one in four a word problem, and the world that they are about.

    Parameters
    ----------
    count
        How many.
    seed
        Equal arguments give equal tasks, on every machine. They are the questions of
        `generate_logs` for the same count, seed and split.
    split, wordings, forms
        Whose names, which wordings and which forms of question; see `make_world` and
        `plan_questions`.

    Returns
    -------
    tuple
        The tasks, and the (title, text) of every passage.

    Raises
    ------
    ValueError
        If ``count`` is below 1, or a split or a form is unknown.
    """
    if count < 1:
        raise ValueError(f"count is {count}; make at least 1 task")
    asked, world = plan_tasks(count, seed, split, wordings, forms)
    passages = [write_passage(world, entity.index) for entity in world.entities]
    return [_task(each, world) for each in asked], [
        (passage.title, passage.text) for passage in passages
    ]


def plan_tasks(
    count: int, seed: int, split: str, wordings: str, forms: Sequence[str]
) -> tuple[list[Question | Problem], World]:
    """Make questions and word problems together with what answers them, and their world."""
    problems = plan_problems(count // MATH_SHARE, seed, split, wordings)
    world = make_world(max(2 * count, 10 * BLOCK), seed, split)
    asked: list[Question | Problem] = [
        *plan_questions(world, count - len(problems), seed, forms, wordings)
    ]
    for number, problem in enumerate(problems):
        asked.insert(MATH_SHARE * number + 3, problem)
    return asked, world


def gold_titles(asked: Question | Problem, world: World) -> tuple[str, ...]:
    """Return the titles of the passages that answer a question; a word problem has none."""
    if isinstance(asked, Problem):
        return ()
    return tuple(dict.fromkeys(world.entities[hop.entity].title for hop in asked.hops))


def _task(asked: Question | Problem, world: World) -> Task:
    gold = gold_titles(asked, world)
    return Task(
        id=asked.id, question=asked.text, answer=asked.answer, task=asked.task, gold_titles=gold
    )
