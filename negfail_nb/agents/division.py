"""Questions for several uses, such as a warm start, play and evaluation: disjoint parts, with
near-duplicates in one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from negfail_nb.agents.protocol import Task
from negfail_nb.data_sets import SIMILAR
from negfail_nb.duplicates import SimilarQuestions, question_groups, question_key, rank


@dataclass(frozen=True, slots=True)
class Overlap:
    """A question of one part that is, or nearly is, one of another part."""

    part: str
    question: str
    other_part: str
    other: str
    similarity: float

    def __str__(self) -> str:
        return (
            f"{self.part}: {self.question!r} has the similarity {self.similarity:.2f} to "
            f"{self.other_part}: {self.other!r}"
        )


def divide(
    tasks: Sequence[Task],
    sizes: Mapping[str, int],
    seed: int,
    *,
    only: Mapping[str, Collection[str]] | None = None,
    apart_from: Sequence[Task] = (),
    similarity: float = SIMILAR,
) -> dict[str, list[Task]]:
    """Draw disjoint parts of tasks, near-duplicates in one part.

    Parameters
    ----------
    tasks
        What is divided; questions that are left over are in no part.
    sizes
        How many each part gets: ``{"warm start": 240, "played": 280}``. Parts are filled in this
        order.
    seed
        Of the draw. Equal seeds draw the same questions on every machine, and a part does not
        depend on the sizes of those after it.
    only
        Ids that a part may have; a part that is not named may have any. So a warm start gets only
        questions that have a demonstration.
    apart_from
        Tasks kept for something else: none that is nearly the same is drawn.
    similarity
        From which on two questions are the same, as ``quality.leak_similarity``.

    Returns
    -------
    dict
        The tasks of each part, in the order they had.

    Raises
    ------
    ValueError
        If a part cannot be filled; the text says how many there are.
    """
    kept = {question_key(task.question) for task in apart_from}
    groups = _groups([*tasks, *apart_from], similarity)
    by_key: dict[str, list[Task]] = {}
    for task in tasks:
        by_key.setdefault(question_key(task.question), []).append(task)
    free = [
        sorted((task for key in group for task in by_key[key]), key=lambda task: task.id)
        for group in sorted(groups, key=lambda group: rank(seed, group[0]))
        if not kept.intersection(group)
    ]
    place = {task.id: number for number, task in enumerate(tasks)}
    parts = {}
    for name, size in sizes.items():
        allowed = None if only is None else only.get(name)
        drawn, free = _draw(free, size, allowed)
        if len(drawn) < size:
            raise ValueError(_too_few(name, sizes, len(drawn), tasks, apart_from))
        parts[name] = sorted(drawn, key=lambda task: place[task.id])
    return parts


def _groups(tasks: Sequence[Task], similarity: float) -> list[list[str]]:
    return question_groups({question_key(t.question): t.question for t in tasks}, similarity)


def _draw(
    groups: Sequence[list[Task]], size: int, allowed: Collection[str] | None
) -> tuple[list[Task], list[list[Task]]]:
    """Take whole groups until there are enough tasks; return them and the groups left.

    A group of which only some members may be had, or are needed, gives these; the others are in no
    part.
    """
    drawn: list[Task] = []
    left = []
    for group in groups:
        usable = [task for task in group if allowed is None or task.id in allowed]
        if usable and len(drawn) < size:
            drawn += usable[: size - len(drawn)]
        else:
            left.append(group)
    return drawn, left


def _too_few(
    name: str, sizes: Mapping[str, int], count: int, tasks: Sequence[Task], kept: Sequence[Task]
) -> str:
    asked = ", ".join(f"{size} for {part}" for part, size in sizes.items())
    apart = f", and none may be nearly one of {len(kept)} kept apart" if kept else ""
    return (
        f"{name}: {sizes[name]} questions were asked for, and {count} are left for it. There are "
        f"{len(tasks)} in all, of which near-duplicates stay together{apart}; asked for were "
        f"{asked}. Ask for fewer, or give more questions"
    )


def overlaps(
    parts: Mapping[str, Sequence[Task]], similarity: float = SIMILAR
) -> tuple[Overlap, ...]:
    """Return the questions of each part that are, or nearly are, in a part before it.

    The rule is that of the filter ``leakage`` of `negfail_nb.quality`: none means that the parts
    are disjoint.
    """
    index = SimilarQuestions(similarity)
    added: list[tuple[str, str]] = []
    found = []
    for part, tasks in parts.items():
        for task in tasks:
            hits = [(score, *added[number]) for number, score in index.similar(task.question)]
            if hits:
                score, other, question = max(hits)
                found.append(Overlap(part, task.question, other, question, score))
        for task in tasks:
            index.add(task.question)
            added.append((part, task.question))
    return tuple(found)
