"""Generated pairs of a sentence and claims, by the hundred: facts of the generated world, each in
two wordings.

The wordings were written for passages and not for these checks, and no rule was made for them. What
they cannot show: comparisons, directions, and sentences with several numbers.
"""

from __future__ import annotations

import random
import re

from negfail_nb.pocket.wordings import words
from negfail_nb.pocket.world import Entity, World, make_world

_ENTITIES = 240  # each pair about one of them
_VERB = re.compile(r"\b(is|was|has been)\b")


def make_pairs(count: int = 80, seed: int = 0) -> list[dict[str, str]]:
    """Return generated pairs, as `negfail_nb.claims.load_pairs` returns the written ones.

    Faithful: the same fact in another wording. Numbers swapped: with the number of another entity.
    Negated: with a "not" behind the verb, or "It is not true that" before the sentence. Names
    exchanged: about another entity.

    Parameters
    ----------
    count
        How many sentences, at most one a fact.
    seed
        Of the world and of what is drawn from it.
    """
    rng, world = random.Random(seed), make_world(_ENTITIES, seed)
    facts = [
        (entity, relation)
        for entity in world.entities
        for relation in entity.values
        if _wordings(relation)
    ]
    return [_pair(world, *fact, rng) for fact in rng.sample(facts, min(count, len(facts)))]


def _wordings(relation: str) -> list[str]:
    """The wordings that name their subject, where there are at least two."""
    named = [wording for wording in words("sentences")[relation] if "{x}" in wording]
    return named if len(named) > 1 else []


def _pair(world: World, entity: Entity, relation: str, rng: random.Random) -> dict[str, str]:
    first, second = rng.sample(_wordings(relation), 2)
    other = world.entities[world.another(entity.index, rng)]
    faithful = _sentence(second, entity.title, _value(world, entity, relation))
    pair = {
        "sentence": _sentence(first, entity.title, _value(world, entity, relation)),
        "faithful": faithful,
    }
    if (
        entity.values[relation].replace(",", "").isdigit()
        and other.values[relation] != entity.values[relation]
    ):
        pair["numbers swapped"] = _sentence(second, entity.title, other.values[relation])
    pair["negated"] = _negated(faithful)
    if other.title != entity.title:
        pair["names exchanged"] = _sentence(second, other.title, _value(world, entity, relation))
    return pair


def _negated(text: str) -> str:
    changed = _VERB.sub(r"\1 not", text, count=1)
    return changed if changed != text else f"It is not true that {text}"


def _value(world: World, entity: Entity, relation: str) -> str:
    link = entity.links.get(relation)
    return entity.values[relation] if link is None else world.mention(link)


def _sentence(wording: str, subject: str, value: str) -> str:
    text = wording.format(x=subject, v=value)
    return text[0].upper() + text[1:]
