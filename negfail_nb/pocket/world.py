"""A fictional world: entities with invented names, and facts that link them.

Every entity is a function of the seed, its index and the size of the world only, so that a world of any size can be
made one entity at a time. Nothing in it is true of the real world, so that nothing can be known by heart.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

# Entities come in blocks of 24; so many of each kind stand in a block, in this order.
KINDS = {"country": 2, "city": 4, "person": 8, "firm": 3, "book": 3, "film": 2, "team": 2}
BLOCK = sum(KINDS.values())

# What is known of each kind: a relation, and the kind that it links to or the sort of value that it has.
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
    "occupation": "painter poet composer journalist surgeon mason teacher photographer botanist lawyer".split(),
    "genre": ["crime", "pirate", "historical", "science fiction", "romance", "gothic", "satirical", "war"],
    "sport": ["football", "handball", "hockey", "rowing", "volleyball", "basketball"],
}
# People are born before they write, direct or found anything.
_YEARS = {"country": (1100, 1890), "city": (1100, 1890), "person": (1900, 1949)}
_MADE = (1970, 2020)
_COUNTS = {"country": (5_000, 90_000, 1000), "city": (8, 4_000, 1000), "firm": (12, 60_000, 1), "film": (71, 190, 1)}
_FIRMS = ("Press", "Pictures", "Works")  # publishers, studios, and the rest, in turn
_TEAMS = ("Hawks", "Lynxes", "Rovers", "Herons", "Stags", "Wolves")
_ADJECTIVES = (
    "Silent Crooked Golden Hidden Burning Last Pale Broken Winter Distant Hollow Scarlet Sleeping Wandering Northern"
    " Lost Quiet Bitter Glass Iron Borrowed Drowned Second Empty"
).split()
_NOUNS = (
    "Harbour Orchard Lantern River Garden Letter Bridge Tower Mirror Forest Island Clock Voyage Window Meadow Kingdom"
    " Station Winter Door Song Field Candle Road Shore Crown"
).split()

# Some are left out because they make rude words.
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou" if c + v not in "di fa fu ku ni pe pi pu"]
# Every ending begins with a consonant that no vowel follows, so that names of different lengths never coincide.
_ENDINGS = "n r l s m x th nd rk lm st sk rn ld nna lla rra sko ndo rva ska nta lde mbo".split()
_ROLES = (*KINDS, "first", "river", "currency")
_SPREAD = 15_485_863  # a prime that divides no number of names, so that n * _SPREAD runs through all of them
_FIRST_NAMES = 61


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
        Relation -> what passages say: a year, a number, a word; for a link, the other entity's name.
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
    """All entities, by index, and the seed that they were made from."""

    entities: tuple[Entity, ...]
    seed: int

    def mention(self, index: int) -> str:
        """Return words that mean this entity and no other: its name, with a description where it has a namesake."""
        entity = self.entities[index]
        if entity.kind in ("book", "film"):
            return f"the {entity.kind} {entity.name}"
        if entity.namesake is None:
            return entity.name
        if entity.kind == "city":
            return f"{entity.name} on the {entity.values['river']}"
        return f"the {entity.values['occupation']} {entity.name}"

    def choose(self, kind: str, rng: random.Random) -> int:
        """Return the index of some entity of a kind."""
        return _index(kind, rng.randrange(_count(kind, len(self.entities))))

    def another(self, index: int, rng: random.Random) -> int:
        """Return the index of some other entity of the same kind."""
        kind, number = _place(index)
        count = _count(kind, len(self.entities))
        return _index(kind, (number + 1 + rng.randrange(count - 1)) % count)


def make_world(entities: int, seed: int) -> World:
    """Make a world.

    Parameters
    ----------
    entities
        How many, at least 24 (one block, with every kind in it).
    seed
        Equal seeds and sizes give equal worlds, on every machine.

    Raises
    ------
    ValueError
        Where there are too few entities.
    """
    if entities < BLOCK:
        raise ValueError(f"a world has at least {BLOCK} entities so that every kind is in it; entities is {entities}")
    return World(tuple(make_entity(index, entities, seed) for index in range(entities)), seed)


def make_entity(index: int, entities: int, seed: int) -> Entity:
    """Make one entity of the world of that size and seed; no other entity need exist for that."""
    kind, number = _place(index)
    partner = _namesake(kind, number, entities)
    rng = stream(seed, index)
    links, values = {}, {}
    for relation, target in FACTS[kind].items():
        if target in KINDS:
            links[relation] = _link(rng, kind, number, relation, target, entities)
            values[relation] = _name(*_place(links[relation]), seed)
        else:
            values[relation] = _value(rng, kind, number, relation, target, seed)
    name = _name(kind, number, seed)
    title = name if partner is None else f"{name} ({_qualifier(kind, values)})"
    return Entity(index, kind, number, name, title, links, values, partner)


def stream(*numbers: int) -> random.Random:
    """Return a random stream of its own for these numbers, the same on every machine and Python."""
    seed = 0
    for number in numbers:
        seed = seed * 1_000_000_007 + number + 1
    return random.Random(seed)


def _place(index: int) -> tuple[str, int]:
    block, slot = divmod(index, BLOCK)
    for kind, count in KINDS.items():
        if slot < count:
            return kind, block * count + slot
        slot -= count
    raise AssertionError("a slot lies in its block")


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
    """Every fourth pair of people or cities shares a name; every fourth film is named like a book."""
    if kind in ("person", "city") and number % 8 in (6, 7):
        number ^= 1
    elif kind in ("book", "film") and number % 4 == 3:
        kind = "film" if kind == "book" else "book"
    else:
        return None
    return _index(kind, number) if number < _count(kind, entities) else None


def _name(kind: str, number: int, seed: int) -> str:
    if kind in ("person", "city") and number % 8 == 7:
        number -= 1
    if kind == "person":  # families of three, whose first names differ
        return f"{_word('first', (number * 17 + seed) % _FIRST_NAMES, seed)} {_word(kind, number // 3, seed)}"
    if kind in ("book", "film"):
        return _work(number if kind == "book" or number % 4 == 3 else -number - 1, seed)
    word = _word(kind, number, seed)
    if kind == "country":
        return word if word[-1] in "aeo" else word + "ia"
    if kind == "city":
        return f"{('Port', 'New', 'Upper')[number // 3 % 3]} {word}" if number % 3 == 2 else word
    return f"{word} {(_FIRMS if kind == 'firm' else _TEAMS)[number % (3 if kind == 'firm' else 6)]}"


def _work(number: int, seed: int) -> str:
    """Name a book (even codes) or a film (odd codes): two words, and a third when the pairs are used up."""
    code = 2 * number if number >= 0 else -2 * number - 1
    pairs = len(_ADJECTIVES) * len(_NOUNS)
    again, code = divmod(code, pairs)
    adjective, noun = divmod((code * _SPREAD + seed * 7919) % pairs, len(_NOUNS))
    name = f"The {_ADJECTIVES[adjective]} {_NOUNS[noun]}"
    return f"{name} of {_word('book', again, seed)}" if again else name


def _word(role: str, number: int, seed: int) -> str:
    code, syllables = number * len(_ROLES) + _ROLES.index(role), 2
    space = len(_SYLLABLES) ** 2 * len(_ENDINGS)
    while code >= space:
        code, space, syllables = code - space, space * len(_SYLLABLES), syllables + 1
    code = (code * _SPREAD + seed * 104_729) % space
    code, ending = divmod(code, len(_ENDINGS))
    word = _ENDINGS[ending]
    for _ in range(syllables):
        code, syllable = divmod(code, len(_SYLLABLES))
        word = _SYLLABLES[syllable] + word
    return word.capitalize()


def _link(rng: random.Random, kind: str, number: int, relation: str, target: str, entities: int) -> int:
    count = _count(target, entities)
    if relation == "capital":
        return _index("city", number)
    if relation == "country":  # the n-th country's capital is its n-th city, and lies in it
        return _index("country", number % count)
    if relation in ("publisher", "studio"):
        first = ("publisher", "studio").index(relation)
        return _index("firm", first + 3 * rng.randrange((count - first + 2) // 3))
    return _index(target, rng.randrange(count))


def _value(rng: random.Random, kind: str, number: int, relation: str, sort: str, seed: int) -> str:
    if sort == "year":
        return str(rng.randint(*_YEARS.get(kind, _MADE)))
    if sort == "count":
        low, high, unit = _COUNTS[kind]
        return f"{rng.randint(low, high) * unit:,}"
    if sort == "name":
        return _word(relation, number, seed)
    # Drawn by pairs, one apart within a pair: namesakes differ in it.
    words = _LISTS[relation]
    return words[(stream(seed, number // 2, 7).randrange(len(words)) + number % 2) % len(words)]


def _qualifier(kind: str, values: Mapping[str, str]) -> str:
    return {"city": values.get("river"), "person": values.get("occupation")}.get(kind, kind)
