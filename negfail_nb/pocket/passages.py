"""What can be read about the world: a passage for each entity, and a small search over the passages."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from negfail_nb.pocket.world import FACTS, World, stream

# The first relation of each kind opens its passage and says what it is; {x} is the subject, {v} the value.
SENTENCES = {
    "capital": (
        "{x} is a country whose capital is {v}.",
        "{x} is a state; its government sits in the capital, {v}.",
        "With {v} as its capital, {x} is one of the older countries of its region.",
    ),
    "currency": ("Its people pay with the {v}.", "The currency is the {v}.", "The {v} has been its money for long."),
    "founded": ("{x} was founded in {v}.", "It dates back to the year {v}.", "The year {v} saw the founding of {x}."),
    "population": ("{v} people live there.", "{x} has {v} inhabitants.", "The last census counted {v} inhabitants."),
    "country": ("{x} is a city in {v}.", "{x} is one of the cities of {v}.", "The city of {x} belongs to {v}."),
    "river": ("{x} lies on the {v}.", "The river {v} runs through its centre.", "Its port stands on the {v}."),
    "occupation": (
        "{x} was known as a {v}.",
        "By profession, {x} was a {v}.",
        "{x} earned a living as a {v}.",
    ),
    "birthplace": ("{x} was born in {v}.", "A native of {v}, {x} left home early.", "{x} came into the world in {v}."),
    "employer": (
        "For many years {x} was employed by {v}.",
        "{x} worked for {v} until retirement.",
        "{v} was the employer of {x} for two decades.",
    ),
    "born": ("The year of birth is {v}.", "{x} was born in the year {v}.", "Parish records say: born in {v}."),
    "headquarters": (
        "{x} is a firm with its headquarters in {v}.",
        "{x} is a company that is run from {v}.",
        "The firm {x} has its head office in {v}.",
    ),
    "founder": ("{x} was started by {v}.", "Its founder was {v}.", "{v} founded {x} with borrowed money."),
    "employees": ("{x} has {v} employees.", "Reports speak of {v} employees.", "It employs {v} people."),
    "genre": ("{x} is a {v} novel.", "{x} is a book, a {v} novel.", "The novel {x} belongs to the {v} genre."),
    "author": ("It was written by {v}.", "{v} wrote {x} in one summer.", "The author of {x} is {v}."),
    "publisher": ("{v} published it.", "{x} appeared with {v}.", "The publisher of {x} was {v}."),
    "published": ("{x} first appeared in {v}.", "It was published in {v}.", "The first edition is of {v}."),
    "length": ("{x} is a film of {v} minutes.", "{x} is a {v}-minute film.", "The film {x} runs for {v} minutes."),
    "director": ("It was directed by {v}.", "{v} directed {x}.", "The director of {x} is {v}."),
    "studio": ("{x} was made by the studio {v}.", "{v} produced it.", "The studio behind {x} was {v}."),
    "released": ("{x} came to the cinemas in {v}.", "It was released in {v}.", "The premiere of {x} was in {v}."),
    "sport": ("{x} is a {v} team.", "{x} is a club that plays {v}.", "The team {x} competes in {v}."),
    "home": ("{x} plays its home games in {v}.", "Its home is {v}.", "{x} comes from {v}."),
    "coach": ("{x} is coached by {v}.", "Its coach is {v}.", "{v} has been the coach of {x} for years."),
}
# True of the world as far as anyone knows, and of no use: {y} is another entity of the kind, {n} a number, {t} a year.
_ASIDES = (
    "A survey of {t} ranks {x} in place {n}, just behind {y}.",
    "{x} is often confused with {y}, to which it has no connection.",
    "A local paper printed {n} letters about {x} in {t}.",
    "An exhibition in {t} showed {n} objects connected with {x} and {y}.",
    "Older sources spell the name of {x} in {n} different ways.",
)
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A text about one entity: title, sentences, and in which sentence each relation is stated."""

    entity: int
    title: str
    sentences: tuple[str, ...]
    where: Mapping[str, int]

    @property
    def text(self) -> str:
        """The sentences as one text. As in HotpotQA, each but the first begins with its space."""
        return "".join(self.sentences)


def write_passage(world: World, index: int) -> Passage:
    """Write the passage of one entity: each of its facts in one of several wordings, and two distracting sentences."""
    entity, rng = world.entities[index], stream(world.seed, index, 1)
    first, *rest = FACTS[entity.kind]
    rest += rng.sample(_ASIDES, 2)
    rng.shuffle(rest)
    sentences, where = [], {}
    for relation in (first, *rest):
        subject = entity.name if not sentences else rng.choice(_subjects(entity.kind, entity.name))
        if relation in entity.values:
            where[relation] = len(sentences)
            link = entity.links.get(relation)
            value = entity.values[relation] if link is None else world.mention(link)
            sentence = rng.choice(SENTENCES[relation]).format(x=subject, v=value)
        else:
            other = world.entities[world.another(index, rng)].name
            sentence = relation.format(x=subject, y=other, n=rng.randint(2, 60), t=rng.randint(1950, 2022))
        sentences.append(sentence[0].upper() + sentence[1:])
    return Passage(index, entity.title, (sentences[0], *(" " + s for s in sentences[1:])), where)


def _subjects(kind: str, name: str) -> tuple[str, str]:
    return (name, name.split()[-1]) if kind == "person" else (name, f"the {kind}")


class Search:
    """Look passages up by the words that they share with a query; rare words and words of the title count more.

    A query that is a title finds that passage first. Words that stand in very many passages are passed over.
    """

    def __init__(self, passages: Iterable[Passage]) -> None:
        self._passages = tuple(passages)
        self._found: dict[tuple[str, int], list[Passage]] = {}
        self._titles = {passage.title: number for number, passage in enumerate(self._passages)}
        self._common = max(20, min(len(self._passages) // 5, 500))
        self._index: dict[str, dict[int, int]] = {}
        for number, passage in enumerate(self._passages):
            title = set(words(passage.title))
            for word in {*title, *words(passage.text)}:
                self._index.setdefault(word, {})[number] = 2 if word in title else 1

    def __call__(self, query: str, k: int = 3) -> list[Passage]:
        """Return the ``k`` best passages, best first; fewer where fewer share a telling word with the query."""
        key = (query, k)
        if key not in self._found:
            scores = self._scores(query)
            best = heapq.nsmallest(k, scores, key=lambda number: (-scores[number], number))
            self._found[key] = [self._passages[number] for number in best]
        return self._found[key]

    def _scores(self, query: str) -> dict[int, int]:
        scores: dict[int, int] = {}
        if query in self._titles:
            scores[self._titles[query]] = 1_000_000
        for word in dict.fromkeys(words(query)):
            hits = self._index.get(word, {})
            if len(hits) <= self._common:
                # A whole number, so that no machine's logarithm can turn the order of two passages round.
                weight = round(100 * math.log(1 + len(self._passages) / (1 + len(hits))))
                for number, share in hits.items():
                    scores[number] = scores.get(number, 0) + weight * share
        return scores


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())
