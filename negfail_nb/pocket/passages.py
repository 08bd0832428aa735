"""What can be read about the world: a passage for each entity."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from negfail_nb.pocket.world import FACTS, World, pick, stream

# The first relation of each kind opens its passage and says what it is; {x} is the subject, {v} the
# value.
SENTENCES = {
    "capital": (
        "{x} is a country whose capital is {v}.",
        "{x} is a state; its government sits in the capital, {v}.",
        "With {v} as its capital, {x} is one of the older countries of its region.",
    ),
    "currency": (
        "Its people pay with the {v}.",
        "The currency is the {v}.",
        "The {v} has long been its money.",
    ),
    "founded": (
        "{x} was founded in {v}.",
        "It dates back to the year {v}.",
        "The year {v} saw the founding of {x}.",
    ),
    "population": (
        "{v} people live there.",
        "{x} has {v} inhabitants.",
        "The last census counted {v} inhabitants.",
    ),
    "country": (
        "{x} is a city in {v}.",
        "{x} is one of the cities of {v}.",
        "The city of {x} belongs to {v}.",
    ),
    "river": (
        "{x} lies on the {v}.",
        "The river {v} runs through its centre.",
        "Its port stands on the {v}.",
    ),
    "occupation": (
        "{x} was known as a {v}.",
        "By profession, {x} was a {v}.",
        "{x} earned a living as a {v}.",
    ),
    "birthplace": (
        "{x} was born in {v}.",
        "A native of {v}, {x} left home early.",
        "{x} came into the world in {v}.",
    ),
    "employer": (
        "For many years {x} was employed by {v}.",
        "{x} worked for {v} until retirement.",
        "{v} was the employer of {x} for two decades.",
    ),
    "born": (
        "The year of birth was {v}.",
        "{x} was born in the year {v}.",
        "Parish records say: born in {v}.",
    ),
    "headquarters": (
        "{x} is a firm with its headquarters in {v}.",
        "{x} is a company that is run from {v}.",
        "The firm {x} has its head office in {v}.",
    ),
    "founder": (
        "{x} was started by {v}.",
        "Its founder was {v}.",
        "{v} founded {x} with borrowed money.",
    ),
    "employees": (
        "{x} has {v} employees.",
        "Reports speak of {v} employees.",
        "It employs {v} people.",
    ),
    "genre": (
        "{x} is a {v} novel.",
        "{x} is a book, a {v} novel.",
        "The novel {x} belongs to the {v} genre.",
    ),
    "author": (
        "It was written by {v}.",
        "{v} wrote {x} in one summer.",
        "The author of {x} is {v}.",
    ),
    "publisher": ("{v} published it.", "{x} appeared with {v}.", "The publisher of {x} was {v}."),
    "published": (
        "{x} first appeared in {v}.",
        "It was published in {v}.",
        "The first edition dates from {v}.",
    ),
    "length": (
        "{x} is a film of {v} minutes.",
        "{x} is a film that is {v} minutes long.",
        "The film {x} runs for {v} minutes.",
    ),
    "director": ("It was directed by {v}.", "{v} directed {x}.", "The director of {x} is {v}."),
    "studio": (
        "{x} was made by the studio {v}.",
        "{v} produced it.",
        "The studio behind {x} was {v}.",
    ),
    "released": (
        "{x} came to the cinemas in {v}.",
        "It was released in {v}.",
        "The premiere of {x} was in {v}.",
    ),
    "sport": (
        "{x} is a {v} team.",
        "{x} is a club that plays {v}.",
        "The team {x} competes in {v}.",
    ),
    "home": ("{x} plays its home games in {v}.", "Its home is {v}.", "{x} comes from {v}."),
    "coach": (
        "{x} is coached by {v}.",
        "Its coach is {v}.",
        "{v} has been the coach of {x} for years.",
    ),
}
# True of the world as far as anyone knows, and of no use: {y} is another entity of the kind, {n} a
# number, {t} a year (drawn freely, so that no rule such as "the earliest" tells the year of a fact
# from it).
_ASIDES = (
    "A survey of {t} ranks {x} at number {n}, just behind {y}.",
    "{x} is often confused with {y}, but there is no connection between the two.",
    "A local paper printed {n} letters about {x} in {t}.",
    "An exhibition in {t} showed {n} objects connected with {x} and {y}.",
    "Older sources spell the name of {x} in {n} different ways.",
)
_NUMBERS, _TIMES = range(2, 61), range(1950, 2023)


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
    """Write the passage of one entity: each of its facts in one of several wordings, and two
    distracting sentences.
    """
    entity, rng = world.entities[index], stream(world.seed, index, 1)
    first, *rest = FACTS[entity.kind]
    sentences, where = [], {}
    for relation in (first, *_shuffled((*rest, *_shuffled(_ASIDES, rng)[:2]), rng)):
        subject = entity.name if not sentences else pick(_subjects(entity.kind, entity.name), rng)
        if relation in entity.values:
            where[relation] = len(sentences)
            link = entity.links.get(relation)
            value = entity.values[relation] if link is None else world.mention(link)
            sentence = pick(SENTENCES[relation], rng).format(x=subject, v=value)
        else:
            other = world.mention(world.another(index, rng)).removeprefix(f"the {entity.kind} ")
            sentence = relation.format(
                x=subject, y=other, n=pick(_NUMBERS, rng), t=pick(_TIMES, rng)
            )
        sentences.append(sentence[0].upper() + sentence[1:])
    return Passage(index, entity.title, (sentences[0], *(" " + s for s in sentences[1:])), where)


def _shuffled(items: Sequence[str], rng: random.Random) -> list[str]:
    return sorted(items, key=lambda _: rng.random())


def _subjects(kind: str, name: str) -> tuple[str, str]:
    return (name, name.split()[-1]) if kind == "person" else (name, f"the {kind}")
