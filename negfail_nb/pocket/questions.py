"""Questions about a world in HotpotQA's layout: single facts, bridges of two and three hops,
comparisons, yes/no.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from negfail_nb.grading import normalize_answer
from negfail_nb.pocket.passages import Passage, write_passage
from negfail_nb.pocket.wordings import of_split, words
from negfail_nb.pocket.world import FACTS, KINDS, World, check_split, stream

FORMS = ("single", "bridge-2", "bridge-3", "comparison", "yes_no")
# Taken in turn. Comparisons are left out: pocket-llama answers none, even with the gold passages.
DEFAULT_FORMS = ("bridge-2", "bridge-3", "bridge-2", "yes_no")
_HOPS = {"single": 1, "bridge-2": 2, "bridge-3": 3}
_MOST_TRIES = 3000  # in a row without a new question: then there are hardly any left
_STARTS = ("film", "book", "team", "firm", "person")


@dataclass(frozen=True, slots=True)
class Hop:
    """One fact to look up: entity, relation, value, and the entity that the value means, if any."""

    entity: int
    relation: str
    value: str
    target: int | None


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and how it is answered.

    Attributes
    ----------
    paths
        For each entity that the question names: the facts that lead from it to what is asked, in
        order.
    verdict
        How the ends of the paths make the answer: ``"value"`` (one path), ``"least"``, ``"most"``
        or ``"same"``.
    """

    id: str
    text: str
    answer: str
    level: str
    paths: tuple[tuple[Hop, ...], ...]
    verdict: str

    @property
    def task(self) -> str:
        """How the answer is graded: ``"qa"`` or ``"yes_no"``."""
        return "yes_no" if self.verdict == "same" else "qa"

    @property
    def hops(self) -> tuple[Hop, ...]:
        """All facts that are needed, in the order in which they are looked up."""
        return tuple(hop for path in self.paths for hop in path)


def make_questions(
    world: World, count: int, seed: int, forms: Sequence[str] = DEFAULT_FORMS, wordings: str = ""
) -> list[dict[str, Any]]:
    """Make questions as HotpotQA's own records.

    Parameters
    ----------
    world, count, seed
        What they are about, how many, and the seed of the choice.
    forms
        Of ``FORMS``, taken in turn; ``"single"`` asks for one fact of one entity.
    wordings
        ``"train"`` or ``"heldout"``: only wordings of questions that the other never uses. ``""``:
        all. Together with the split of the world, a held-out question shares neither names nor
        wordings with those trained on; passages are worded alike in both.

    Returns
    -------
    list of dict
        ``_id, question, answer, type, level, supporting_facts`` (title, sentence) and ``context``
        (title, sentences): the gold passages among distractors, ten in all (fewer in a world of
        fewer). As in HotpotQA, a question with one fact has the type ``"bridge"`` and the level
        ``"easy"``.

    Raises
    ------
    ValueError
        If the world is too small for so many different questions, or a form or a split is unknown.
    """
    planned = plan_questions(world, count, seed, forms, wordings)
    return [to_hotpot(world, question, seed) for question in planned]


def plan_questions(
    world: World, count: int, seed: int, forms: Sequence[str] = DEFAULT_FORMS, wordings: str = ""
) -> list[Question]:
    """Make ``count`` different questions together with the facts that answer them; see
    `make_questions`.
    """
    _check_forms(forms)
    check_split("wordings", wordings)
    groups = _alike(world) if "yes_no" in forms else {}
    rng = stream(seed, world.seed, 2)
    found = []
    seen = set()
    tries = 0
    while len(found) < count:
        if (tries := tries + 1) > _MOST_TRIES:
            raise ValueError(
                f"a world of {len(world.entities)} entities gave {len(found)} of {count} "
                f"questions; make more entities"
            )
        drawn = _draw(world, forms[len(found) % len(forms)], groups, rng, wordings)
        if drawn and (key := _key(drawn[1])) not in seen:
            seen.add(key)
            tries = 0
            text, paths, verdict = drawn
            answer = decide(world, paths, verdict)
            level = _level(paths)
            name = "-".join(filter(None, ("pocket", world.split, str(seed), f"{len(found):06d}")))
            found.append(Question(name, text, answer, level, paths, verdict))
    return found


def walk(world: World, start: int, relations: Sequence[str]) -> tuple[Hop, ...]:
    """Follow relations from an entity; each fact's target is where the next one is looked up."""
    hops = []
    at = start
    for relation in relations:
        entity = world.entities[at]
        hops.append(Hop(at, relation, entity.values[relation], entity.links.get(relation)))
        at = entity.links.get(relation, at)
    return tuple(hops)


def decide(world: World, paths: Sequence[Sequence[Hop]], verdict: str) -> str:
    """Return the answer that the ends of the paths make."""
    ends = [path[-1] for path in paths]
    if verdict == "value":
        return ends[0].value
    if verdict == "same":
        alike = len({end.value if end.target is None else end.target for end in ends}) == 1
        return "yes" if alike else "no"
    amounts = [int(end.value.replace(",", "")) for end in ends]
    best = amounts.index(min(amounts) if verdict == "least" else max(amounts))
    return world.entities[paths[best][0].entity].name


def to_hotpot(world: World, question: Question, seed: int) -> dict[str, Any]:
    """Return HotpotQA's record of a question; see `make_questions`."""
    passages = {hop.entity: write_passage(world, hop.entity) for hop in question.hops}
    needed = ((passages[hop.entity], hop.relation) for hop in question.hops)
    facts = [[passage.title, passage.where[relation]] for passage, relation in needed]
    rng = stream(seed, question.hops[0].entity, len(question.text), 3)
    context = _with_distractors(world, passages, rng)
    return {
        "_id": question.id,
        "question": question.text,
        "answer": question.answer,
        "type": "bridge" if question.verdict == "value" else "comparison",
        "level": question.level,
        "supporting_facts": facts,
        "context": [[passage.title, list(passage.sentences)] for passage in context],
    }


def _with_distractors(world: World, gold: dict[int, Passage], rng: random.Random) -> list[Passage]:
    chosen = dict.fromkeys(gold)  # in order; namesakes first, they distract most
    chosen.update(dict.fromkeys(n for i in gold if (n := world.entities[i].namesake) is not None))
    while len(chosen) < min(10, len(world.entities)):
        chosen[world.choose(rng.choice(list(KINDS)), rng)] = None
    context = [gold[i] if i in gold else write_passage(world, i) for i in chosen]
    rng.shuffle(context)
    return context


Drawn = tuple[str, tuple[tuple[Hop, ...], ...], str]
Groups = dict[tuple[str, str, str], list[int]]


def _check_forms(forms: Sequence[str]) -> None:
    unknown = [form for form in forms if form not in FORMS]
    if unknown or not forms or isinstance(forms, str):
        raise ValueError(f"forms is {forms!r}; give a list with some of {', '.join(FORMS)}")


def _alike(world: World) -> Groups:
    """Group the entities that a yes/no question could join with "yes"."""
    groups: Groups = defaultdict(list)
    for entity in world.entities:
        for relation in FACTS[entity.kind]:
            if (entity.kind, relation) in words("same"):
                key = entity.kind, relation, _identity(world, entity.index, relation)
                groups[key].append(entity.index)
    return groups


def _level(paths: Sequence[Sequence[Hop]]) -> str:
    if len(paths) == 2:
        return "easy"
    return ("easy", "medium", "hard")[len(paths[0]) - 1]


def _draw(world: World, form: str, groups: Groups, rng: random.Random, split: str) -> Drawn | None:
    """Draw the text, paths and verdict of one question; ``None`` if the draw makes no good one."""
    if form in _HOPS:
        return _draw_bridge(world, _HOPS[form], rng, split)
    wordings = words("compare" if form == "comparison" else "same")
    kind, relation = rng.choice(list(wordings))
    first = world.choose(kind, rng)
    second = world.another(first, rng)
    if form == "yes_no" and rng.random() < 0.5:  # by chance alone, "yes" would be rare
        second = rng.choice(groups[kind, relation, _identity(world, first, relation)])
    if first == second or world.entities[first].namesake == second:
        return None
    paths = (walk(world, first, [relation]), walk(world, second, [relation]))
    if form == "comparison" and paths[0][0].value == paths[1][0].value:
        return None
    verdict = "same" if form == "yes_no" else "most" if relation == "population" else "least"
    text = rng.choice(of_split(wordings[kind, relation], split))
    return text.format(a=world.mention(first), b=world.mention(second)), paths, verdict


def _draw_bridge(world: World, hops: int, rng: random.Random, split: str) -> Drawn | None:
    """Draw a question that follows ``hops`` facts in a row; a single one of any kind of entity."""
    start = at = world.choose(rng.choice(_STARTS if hops > 1 else list(KINDS)), rng)
    relations: list[str] = []
    for _ in range(hops - 1):
        relation = rng.choice([r for r in world.entities[at].links if r in words("the")])
        relations.append(relation)
        at = world.entities[at].links[relation]
    relations.append(rng.choice(list(FACTS[world.entities[at].kind])))
    path = walk(world, start, relations)
    text = world.mention(start)
    for relation in relations[:-1]:
        text = rng.choice(of_split(words("the")[relation], split)).format(x=text)
    text = rng.choice(of_split(words("ask")[relations[-1]], split)).format(x=text)
    return (text, (path,), "value") if _is_good(world, path, text) else None


def _is_good(world: World, path: tuple[Hop, ...], text: str) -> bool:
    places = [hop.entity for hop in path]
    places += [path[-1].target] if path[-1].target is not None else []
    if len({world.entities[i].name for i in places}) < len(places):
        return False  # it comes back to where it was
    if f" {normalize_answer(path[-1].value)} " in f" {normalize_answer(text)} ":
        return False  # it states its own answer
    # What tells namesakes apart is not asked for: "on which river is Dobal on the Kamin".
    named = world.entities[path[-1].entity].namesake is not None
    return not (named and path[-1].relation in ("river", "occupation"))


def _key(paths: Sequence[Sequence[Hop]]) -> tuple:
    """Return what two questions that ask the same have in common, however they are worded."""
    return tuple(sorted((path[0].entity, path[-1].relation, len(path)) for path in paths))


def _identity(world: World, index: int, relation: str) -> str:
    entity = world.entities[index]
    return str(entity.links.get(relation, entity.values[relation]))
