"""A fictional world: entities with invented names, and facts that link them.

Every entity is a function of the seed, its index, the size of the world and the split only, so that
a world of any size can be made one entity at a time. Nothing in it is true of the real world, so
that nothing can be known by heart.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import TypeVar

from negfail_nb.pocket.names import SPLITS, make_name, make_word

T = TypeVar("T")

# Entities come in blocks of 24; so many of each kind stand in a block, in this order.
KINDS = {"country": 2, "city": 4, "person": 8, "firm": 3, "book": 3, "film": 2, "team": 2}
_SLOTS = [(kind, slot) for kind, count in KINDS.items() for slot in range(count)]
BLOCK = len(_SLOTS)

# What is known of each kind: a relation, and the kind that it links to or its sort of value.
FACTS = {
    "country": {"capital": "city", "currency": "name", "founded": "year", "population": "count"},
    "city": {"country": "country", "river": "name", "founded": "year", "population": "count"},
    "person": {"occupation": "list", "birthplace": "city", "employer": "firm", "born": "year"},
    "firm": {"headquarters": "city", "founder": "person", "founded": "year", "employees": "count"},
    "book": {"genre": "list", "author": "person", "publisher": "firm", "published": "year"},
    "film": {"length": "count", "director": "person", "studio": "firm", "released": "year"},
    "team": {"sport": "list", "home": "city", "coach": "person", "founded": "year"},
}
_LISTS = {
    "occupation": "painter poet composer journalist surgeon mason teacher photographer botanist "
    "lawyer".split(),
    "genre": "crime,pirate,historical,science fiction,romance,gothic,satirical,war".split(","),
    "sport": "football handball hockey rugby volleyball basketball".split(),
}
# People are born before they write, direct or found anything.
_YEARS = {"country": (1100, 1890), "city": (1100, 1890), "person": (1900, 1949)}
_MADE = (1970, 2020)
_COUNTS = {
    "country": (5_000, 90_000, 1000),
    "city": (8, 4_000, 1000),
    "firm": (12, 60_000, 1),
    "film": (71, 190, 1),
}


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing of the world.

    Attributes
    ----------
    index, kind, number
        Position in the world, one of ``KINDS``, and position among its kind.
    name, title
        What it is called (namesakes share it), and the title of its passage (unique).
    links
        Relation -> index of another entity.
    values
        Relation -> what passages say: a year, a number, a word; for a link, the other entity's
        name.
    namesake
        Index of the entity that shares its name, or ``None``.
    """

    index: int
    kind: str
    number: int
    name: str
    title: str
    links: Mapping[str, int]
    values: Mapping[str, str]
    namesake: int | None


@dataclass(frozen=True, slots=True)
class World:
    """All entities, by index, and the seed and the split that they were made from."""

    entities: Sequence[Entity]
    seed: int
    split: str = ""

    def mention(self, index: int) -> str:
        """Return words that mean this entity and no other: its name, with a description if it has
        a namesake. The entity itself need not be made.
        """
        kind, number = _place(index)
        seed = _seed_of(self.seed, self.split)
        name = make_name(kind, number, seed, self.split)
        if kind in ("book", "film"):
            return f"the {kind} {name}"
        if _namesake(kind, number, len(self.entities)) is None:
            return name
        if kind == "city":
            return f"{name} on the {make_word('river', number, seed, self.split)}"
        return f"the {_listed('occupation', number, seed)} {name}"

    def choose(self, kind: str, rng: random.Random) -> int:
        """Return the index of some entity of a kind."""
        return _index(kind, rng.randrange(_count(kind, len(self.entities))))

    def another(self, index: int, rng: random.Random) -> int:
        """Return the index of some other entity of the same kind."""
        kind, number = _place(index)
        count = _count(kind, len(self.entities))
        return _index(kind, (number + 1 + pick(range(count - 1), rng)) % count)


def make_world(entities: int, seed: int, split: str = "") -> World:
    """Make a world.

    Parameters
    ----------
    entities
        How many, at least 24 (one block, with every kind in it).
    seed
        Equal arguments give equal worlds, on every machine.
    split
        ``"train"`` or ``"heldout"``: no name of the one is ever a name of the other, first names of
        people included; both are built from the same syllables, endings and words. ``""``: names
        from all there are.

    Raises
    ------
    ValueError
        If there are too few entities, or the split is unknown.
    """
    return World(LazyEntities(entities, seed, split)[:], seed, split)


def lazy_world(entities: int, seed: int, split: str = "") -> World:
    """Return the world that `make_world` makes, but make its entities only when they are asked for;
    the errors are the same.

    Questions need a walk over all entities only if their forms include ``"yes_no"``.
    """
    return World(LazyEntities(entities, seed, split), seed, split)


class LazyEntities(Sequence[Entity]):
    """The entities of a world, each made when it is asked for; the last ``keep`` are kept."""

    def __init__(self, entities: int, seed: int, split: str = "", keep: int = 4096) -> None:
        if entities < BLOCK:
            raise ValueError(
                f"a world has at least {BLOCK} entities so that every kind is in it; "
                f"entities is {entities}"
            )
        check_split("split", split)
        self._indexes = range(entities)
        self._make = lru_cache(keep)(
            partial(make_entity, entities=entities, seed=seed, split=split)
        )

    def __len__(self) -> int:
        return len(self._indexes)

    def __getitem__(self, index):
        at = self._indexes[index]
        return tuple(map(self._make, at)) if isinstance(at, range) else self._make(at)


def check_split(name: str, split: str) -> None:
    """Raise ``ValueError`` if the parameter of that name is none of ``SPLITS``."""
    if split not in SPLITS:
        raise ValueError(f"{name} is {split!r}; use one of {', '.join(map(repr, SPLITS))}")


def make_entity(index: int, entities: int, seed: int, split: str = "") -> Entity:
    """Make one entity of the world of that size, seed and split; no other entity need exist for
    that.
    """
    kind, number = _place(index)
    partner = _namesake(kind, number, entities)
    seed = _seed_of(seed, split)
    rng = stream(seed, index)
    links = {}
    values = {}
    for relation, target in FACTS[kind].items():
        if target in KINDS:
            links[relation] = _link(rng, kind, number, relation, target, entities)
            values[relation] = make_name(*_place(links[relation]), seed, split)
        else:
            values[relation] = _value(rng, kind, number, relation, target, seed, split)
    name = make_name(kind, number, seed, split)
    title = name if partner is None else f"{name} ({_qualifier(kind, values)})"
    return Entity(index, kind, number, name, title, links, values, partner)


def stream(*numbers: int) -> random.Random:
    """Return a random stream of its own for these numbers, the same on every machine and Python."""
    seed = 0
    for number in numbers:
        seed = seed * 1_000_000_007 + number + 1
    return random.Random(seed)


def pick(options: Sequence[T], rng: random.Random) -> T:
    """Choose one of a few options: `random.Random.choice` takes several times as long."""
    return options[int(rng.random() * len(options))]


def _seed_of(seed: int, split: str) -> int:
    """Return another seed for each split: equal seeds should not give worlds that differ in their
    names only.
    """
    return seed + 10_000_019 * SPLITS.index(split)


def _place(index: int) -> tuple[str, int]:
    block, slot = divmod(index, BLOCK)
    kind, first = _SLOTS[slot]
    return kind, block * KINDS[kind] + first


def _index(kind: str, number: int) -> int:
    block, slot = divmod(number, KINDS[kind])
    return block * BLOCK + _offset(kind) + slot


@cache
def _offset(kind: str) -> int:
    kinds = list(KINDS)
    return sum(KINDS[before] for before in kinds[: kinds.index(kind)])


@cache
def _count(kind: str, entities: int) -> int:
    blocks, rest = divmod(entities, BLOCK)
    return blocks * KINDS[kind] + min(max(rest - _offset(kind), 0), KINDS[kind])


def _namesake(kind: str, number: int, entities: int) -> int | None:
    """Every fourth pair of people or cities shares a name; so do every fourth film and book."""
    if kind in ("person", "city") and number % 8 in (6, 7):
        number ^= 1
    elif kind in ("book", "film") and number % 4 == 3:
        kind = "film" if kind == "book" else "book"
    else:
        return None
    return _index(kind, number) if number < _count(kind, entities) else None


def _link(
    rng: random.Random, kind: str, number: int, relation: str, target: str, entities: int
) -> int:
    count = _count(target, entities)
    if relation == "capital":
        return _index("city", number)
    if relation == "country":  # the n-th country's capital is its n-th city, and lies in it
        return _index("country", number % count)
    if relation in ("publisher", "studio"):
        first = ("publisher", "studio").index(relation)
        return _index("firm", first + 3 * rng.randrange((count - first + 2) // 3))
    return _index(target, rng.randrange(count))


def _value(
    rng: random.Random, kind: str, number: int, relation: str, sort: str, seed: int, split: str
) -> str:
    if sort == "year":
        return str(rng.randint(*_YEARS.get(kind, _MADE)))
    if sort == "count":
        low, high, unit = _COUNTS[kind]
        return f"{rng.randint(low, high) * unit:,}"
    if sort == "name":
        return make_word(relation, number, seed, split)
    return _listed(relation, number, seed)


def _listed(relation: str, number: int, seed: int) -> str:
    """Draw from a list by pairs, one apart within a pair: namesakes differ in it."""
    words = _LISTS[relation]
    return words[(stream(seed, number // 2, 7).randrange(len(words)) + number % 2) % len(words)]


def _qualifier(kind: str, values: Mapping[str, str]) -> str:
    return {"city": values.get("river"), "person": values.get("occupation")}.get(kind, kind)
