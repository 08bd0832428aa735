"""Questions about a world in HotpotQA's layout: bridges of two and three hops, comparisons, and yes/no."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from negfail_nb.grading import normalize_answer
from negfail_nb.pocket.passages import Passage, write_passage
from negfail_nb.pocket.world import FACTS, KINDS, World, stream

# How a question asks for the value of a relation, and how it speaks of that value on the way to another one.
ASK = {
    "capital": ("What is the capital of {x}?", "Which city is the capital of {x}?"),
    "currency": ("Which currency is used in {x}?", "What is the currency of {x}?"),
    "founded": ("In which year was {x} founded?", "When was {x} founded?"),
    "population": ("How many people live in {x}?", "What is the population of {x}?"),
    "country": ("In which country is {x}?", "To which country does {x} belong?"),
    "river": ("Which river runs through {x}?", "What is the name of the river in {x}?"),
    "occupation": ("What was the profession of {x}?", "What did {x} do for a living?"),
    "birthplace": ("In which city was {x} born?", "Where was {x} born?"),
    "employer": ("Which firm employed {x}?", "For which firm did {x} work?"),
    "born": ("In which year was {x} born?", "When was {x} born?"),
    "headquarters": ("In which city are the headquarters of {x}?", "Which city has the head office of {x}?"),
    "founder": ("Who founded {x}?", "Who was the founder of {x}?"),
    "employees": ("How many employees does {x} have?", "How many people does {x} employ?"),
    "genre": ("To which genre does {x} belong?",),
    "author": ("Who wrote {x}?", "Who is the author of {x}?"),
    "publisher": ("Who published {x}?", "Which firm was the publisher of {x}?"),
    "published": ("In which year was {x} published?", "When did {x} first appear?"),
    "length": ("How many minutes long is {x}?",),
    "director": ("Who directed {x}?", "Who was the director of {x}?"),
    "studio": ("Which studio made {x}?",),
    "released": ("In which year was {x} released?", "When did {x} come to the cinemas?"),
    "sport": ("Which sport does {x} play?",),
    "home": ("In which city does {x} play its home games?", "Which city is the home of {x}?"),
    "coach": ("Who coaches {x}?", "Who is the coach of {x}?"),
}
_THE = {
    "capital": ("the capital of {x}",),
    "country": ("the country of {x}", "the country that has {x} among its cities"),
    "birthplace": ("the city where {x} was born", "the birthplace of {x}"),
    "employer": ("the firm that employed {x}", "the employer of {x}"),
    "headquarters": ("the city with the head office of {x}", "the city with the headquarters of {x}"),
    "founder": ("the founder of {x}", "the person who started {x}"),
    "author": ("the author of {x}", "the person who wrote {x}"),
    "publisher": ("the publisher of {x}", "the firm that published {x}"),
    "director": ("the director of {x}", "the person who directed {x}"),
    "studio": ("the studio that made {x}", "the studio behind {x}"),
    "home": ("the home city of {x}", "the city where {x} plays its home games"),
    "coach": ("the coach of {x}", "the person who coaches {x}"),
}
_COMPARE = {
    ("person", "born"): ("Who was born earlier, {a} or {b}?", "Who is older, {a} or {b}?"),
    ("book", "published"): ("Which was published earlier, {a} or {b}?", "Which is the older one, {a} or {b}?"),
    ("film", "released"): ("Which was released earlier, {a} or {b}?", "Which came out first, {a} or {b}?"),
    ("firm", "founded"): ("Which firm was founded earlier, {a} or {b}?", "Which firm is older, {a} or {b}?"),
    ("city", "population"): ("Which city has more inhabitants, {a} or {b}?", "Which city is larger, {a} or {b}?"),
    ("country", "population"): ("Which country has more people, {a} or {b}?", "Where do more people live, {a} or {b}?"),
}
_SAME = {
    ("person", "birthplace"): ("Were {a} and {b} born in the same city?", "Do {a} and {b} share a birthplace?"),
    ("book", "genre"): ("Do {a} and {b} belong to the same genre?", "Are {a} and {b} of the same genre?"),
    ("film", "studio"): ("Were {a} and {b} made by the same studio?", "Did one studio make both {a} and {b}?"),
    ("firm", "headquarters"): ("Are {a} and {b} run from the same city?", "Do {a} and {b} have the same seat?"),
    ("city", "country"): ("Are {a} and {b} in the same country?", "Do {a} and {b} belong to one country?"),
    ("team", "sport"): ("Do {a} and {b} play the same sport?", "Is the sport of {a} and {b} the same?"),
}
_FORMS = ("bridge-2", "comparison", "bridge-3", "bridge-2", "yes_no")
_MOST_TRIES = 3000  # in a row without a new question: then there are hardly any left
_STARTS = ("film", "book", "team", "firm", "person")


@dataclass(frozen=True, slots=True)
class Hop:
    """One fact to be looked up: of which entity, which relation, and its value; ``target`` where that is an entity."""

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
        For each entity that the question names: the facts that lead from it to what is asked, in order.
    verdict
        How the ends of the paths make the answer: ``"value"`` (one path), ``"least"``, ``"most"`` or ``"same"``.
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


def make_questions(world: World, count: int, seed: int) -> list[dict[str, Any]]:
    """Make questions as HotpotQA's own records.

    Returns
    -------
    list of dict
        ``_id, question, answer, type, level, supporting_facts`` (title, sentence) and ``context`` (title, sentences):
        the gold passages among distractors, ten in all (fewer in a world of fewer).

    Raises
    ------
    ValueError
        Where the world is too small for so many different questions.
    """
    return [to_hotpot(world, question, seed) for question in plan_questions(world, count, seed)]


def plan_questions(world: World, count: int, seed: int) -> list[Question]:
    """Make ``count`` different questions together with the facts that answer them; see `make_questions`."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for entity in world.entities:
        for relation in FACTS[entity.kind]:
            if (entity.kind, relation) in _SAME:
                groups[entity.kind, relation, _identity(world, entity.index, relation)].append(entity.index)
    rng, found, seen, tries = stream(seed, world.seed, 2), [], set(), 0
    while len(found) < count:
        if (tries := tries + 1) > _MOST_TRIES:
            raise ValueError(
                f"a world of {len(world.entities)} entities gave {len(found)} of {count} questions; make more entities"
            )
        drawn = _draw(world, _FORMS[len(found) % len(_FORMS)], groups, rng)
        if drawn and (key := _key(drawn[1])) not in seen:
            seen.add(key)
            tries = 0
            text, paths, verdict = drawn
            answer = decide(world, paths, verdict)
            level = "hard" if len(paths[0]) == 3 else "medium" if len(paths) == 1 else "easy"
            found.append(Question(f"pocket-{seed}-{len(found):06d}", text, answer, level, paths, verdict))
    return found


def walk(world: World, start: int, relations: Sequence[str]) -> tuple[Hop, ...]:
    """Follow relations from an entity; each fact's target is where the next one is looked up."""
    hops, at = [], start
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
        return "yes" if len({end.value if end.target is None else end.target for end in ends}) == 1 else "no"
    amounts = [int(end.value.replace(",", "")) for end in ends]
    best = amounts.index(min(amounts) if verdict == "least" else max(amounts))
    return world.entities[paths[best][0].entity].name


def to_hotpot(world: World, question: Question, seed: int) -> dict[str, Any]:
    """Return HotpotQA's record of a question; see `make_questions`."""
    passages = {hop.entity: write_passage(world, hop.entity) for hop in question.hops}
    facts = [[passages[hop.entity].title, passages[hop.entity].where[hop.relation]] for hop in question.hops]
    context = _with_distractors(world, passages, stream(seed, question.hops[0].entity, len(question.text), 3))
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


def _draw(world: World, form: str, groups: dict, rng: random.Random) -> Drawn | None:
    """Draw the text, paths and verdict of one question; ``None`` where the draw makes no good one."""
    if form.startswith("bridge"):
        return _draw_bridge(world, int(form[-1]), rng)
    wordings = _COMPARE if form == "comparison" else _SAME
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
    text = rng.choice(wordings[kind, relation]).format(a=world.mention(first), b=world.mention(second))
    return text, paths, verdict


def _draw_bridge(world: World, hops: int, rng: random.Random) -> Drawn | None:
    start = at = world.choose(rng.choice(_STARTS), rng)
    relations: list[str] = []
    for _ in range(hops - 1):
        relation = rng.choice([r for r in world.entities[at].links if r in _THE])
        relations.append(relation)
        at = world.entities[at].links[relation]
    relations.append(rng.choice(list(FACTS[world.entities[at].kind])))
    path, text = walk(world, start, relations), world.mention(start)
    for relation in relations[:-1]:
        text = rng.choice(_THE[relation]).format(x=text)
    text = rng.choice(ASK[relations[-1]]).format(x=text)
    return (text, (path,), "value") if _is_good(world, path, text) else None


def _is_good(world: World, path: tuple[Hop, ...], text: str) -> bool:
    places = [hop.entity for hop in path] + ([path[-1].target] if path[-1].target is not None else [])
    if len({world.entities[i].name for i in places}) < len(places):
        return False  # it comes back to where it was
    if f" {normalize_answer(path[-1].value)} " in f" {normalize_answer(text)} ":
        return False  # it states its own answer
    # The words that tell namesakes apart are not a question: "on which river is Dobal on the Kamin".
    return not (path[-1].relation in ("river", "occupation") and world.entities[path[-1].entity].namesake is not None)


def _key(paths: Sequence[Sequence[Hop]]) -> tuple:
    """Return what two questions that ask the same have in common, however they are worded."""
    return tuple(sorted((path[0].entity, path[-1].relation, len(path)) for path in paths))


def _identity(world: World, index: int, relation: str) -> str:
    entity = world.entities[index]
    return str(entity.links.get(relation, entity.values[relation]))
