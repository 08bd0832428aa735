"""How weak the checks are: pairs of a source sentence and a claim that is faithful, or was made
false on purpose.

``pairs.toml`` holds sentences, each with a faithful paraphrase, and with its numbers swapped, its
statement negated and its names exchanged. They were written by the author of the rules, about
findings such as this project's: so all of it flatters the rules. Those marked ``held_out`` were
written after the rules and have changed none of them. `make_pairs` generates more, from facts of
the generated world, in wordings that no rule was made for; comparisons, directions and sentences
with several numbers are not among them.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from negfail_nb.claims.judging import Judge
from negfail_nb.claims.records import Source
from negfail_nb.claims.verification import Match, verify
from negfail_nb.pocket.wordings import words
from negfail_nb.pocket.world import Entity, World, make_world
from negfail_nb.settings import CHECKS, RULES, ClaimSettings

if TYPE_CHECKING:
    import pandas as pd

CHOSEN_ON = "chosen on"
HELD_OUT = "held out"
GENERATED = "generated"
FAITHFUL = "faithful"
FALSE = ("numbers swapped", "negated", "names exchanged", "causes reversed")
_GENERATED = 40  # pairs: what sentence vectors have seconds for
_ENTITIES = 240  # of the generated world; each pair is about one of them
_VERB = re.compile(r"\b(is|was|has been)\b")


def measure_weakness(
    settings: ClaimSettings = ClaimSettings(),
    encoder: Any = None,
    judges: Mapping[str, Judge] | None = None,
) -> pd.DataFrame:
    """Return `check_weakness` on the pairs that the rules were chosen on, on those held out, and on
    generated ones; the column ``pairs`` says which.
    """
    import pandas as pd

    sets = {CHOSEN_ON: load_pairs(), HELD_OUT: load_pairs(True), GENERATED: make_pairs(_GENERATED)}
    given = settings, encoder, judges
    measured = [check_weakness(pairs, *given).assign(pairs=name) for name, pairs in sets.items()]
    return pd.concat(measured, ignore_index=True)


def check_weakness(
    pairs: Iterable[Mapping[str, str]] | None = None,
    settings: ClaimSettings = ClaimSettings(),
    encoder: Any = None,
    judges: Mapping[str, Judge] | None = None,
) -> pd.DataFrame:
    """Measure what each check accepts, all sentences of the pairs being the source.

    Parameters
    ----------
    pairs
        As `load_pairs` (the default) and `make_pairs` return them.
    encoder
        For the dense check; ``None``: the one in the settings, or none.
    judges
        Of `negfail_nb.claims.open_judges`; each is measured alone, and with the rules.

    Returns
    -------
    pandas.DataFrame
        One row per check or combination: ``check``; ``precision`` (share of faithful claims among
        those accepted) with its Wilson interval at 95 %, ``precision_low`` and ``precision_high``;
        ``recall`` (share of faithful claims that are accepted), ``f_half`` (F0.5:
        precision counts twice, as a false claim that passes is worse than a true one that a person
        must look at); the share of each kind of false claim that is accepted; ``faithful`` and
        ``false``: how many there were.
    """
    import pandas as pd

    pairs = list(load_pairs() if pairs is None else pairs)
    sources = [Source(id=f"pair-{n}", text=pair["sentence"]) for n, pair in enumerate(pairs, 1)]
    kinds = [(kind, pair[kind]) for pair in pairs for kind in (FAITHFUL, *FALSE) if kind in pair]
    matches = verify([text for _, text in kinds], sources, settings, encoder, judges)
    made = [name for name in CHECKS if name in matches[0].checks]
    rules = tuple(name for name in made if name in RULES and name != "dense")
    tried: dict[str, tuple[str, ...]] = {name: (name,) for name in made}
    tried["tfidf + numbers"] = ("tfidf", "numbers")
    tried["tfidf + numbers + direction + negation"] = ("tfidf", "numbers", "direction", "negation")
    tried["all rules"] = rules
    if "dense" in made:
        tried["all rules + dense"] = (*rules, "dense")
    for name in judges or ():
        tried[f"all rules + {name}"] = (*rules, name)
    return pd.DataFrame([_row(name, checks, kinds, matches) for name, checks in tried.items()])


def _row(
    name: str, chosen: Sequence[str], kinds: Sequence[tuple[str, str]], matches: Sequence[Match]
) -> dict[str, Any]:
    passed: dict[str, list[bool]] = {kind: [] for kind in (FAITHFUL, *FALSE)}
    for (kind, _), match in zip(kinds, matches, strict=True):
        passed[kind].append(match.passed(chosen))
    share = {kind: sum(p) / len(p) if p else float("nan") for kind, p in passed.items()}
    right = sum(passed[FAITHFUL])
    wrong = sum(sum(passed[kind]) for kind in FALSE)
    precision = right / (right + wrong) if right + wrong else float("nan")
    recall = share[FAITHFUL]
    total = 0.25 * precision + recall
    low, high = wilson(right, right + wrong)
    return {
        "check": name,
        "precision": precision,
        "precision_low": low,
        "precision_high": high,
        "recall": recall,
        "f_half": 1.25 * precision * recall / total if right else 0.0,
        **{kind: share[kind] for kind in FALSE},
        "faithful": len(passed[FAITHFUL]),
        "false": sum(len(passed[kind]) for kind in FALSE),
    }


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the interval of a share (Wilson 1927), also of few, and of all or none."""
    if not count:
        return float("nan"), float("nan")
    share, scale = right / count, 1 + z * z / count
    middle = share + z * z / (2 * count)
    half = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return (middle - half) / scale, (middle + half) / scale


def load_pairs(held_out: bool = False) -> list[dict[str, str]]:
    """Return the packaged pairs: ``sentence``, ``faithful`` and the three that are false.

    Parameters
    ----------
    held_out
        Those written after the rules; else those that the rules and the default were chosen on.
    """
    text = files("negfail_nb.claims").joinpath("pairs.toml").read_text(encoding="utf-8")
    pairs = tomllib.loads(text)["pairs"]
    return [pair for pair in pairs if pair.pop("held_out", False) == held_out]


def make_pairs(count: int = 80, seed: int = 0) -> list[dict[str, str]]:
    """Return generated pairs, in the form of `load_pairs`.

    Faithful: the same fact in another wording. Numbers swapped: with the number of another entity.
    Negated: with a "not" after the verb, or "It is not true that" before the sentence. Names
    exchanged: about another entity.

    Parameters
    ----------
    count
        How many sentences, at most one per fact.
    seed
        Of the world and of what is drawn from it.
    """
    rng = random.Random(seed)
    world = make_world(_ENTITIES, seed)
    facts = [(e, name) for e in world.entities for name in e.values if len(_wordings(name)) > 1]
    return [_pair(world, *fact, rng) for fact in rng.sample(facts, min(count, len(facts)))]


def _wordings(relation: str) -> list[str]:
    """The wordings that name their subject."""
    return [wording for wording in words("sentences")[relation] if "{x}" in wording]


def _pair(world: World, entity: Entity, relation: str, rng: random.Random) -> dict[str, str]:
    first, second = rng.sample(_wordings(relation), 2)
    other = world.entities[world.another(entity.index, rng)]
    link = entity.links.get(relation)
    wrong = other.values[relation]
    value = entity.values[relation] if link is None else world.mention(link)
    faithful = _sentence(second, entity.title, value)
    pair = {"sentence": _sentence(first, entity.title, value), "faithful": faithful}
    if entity.values[relation].replace(",", "").isdigit() and wrong != entity.values[relation]:
        pair["numbers swapped"] = _sentence(second, entity.title, wrong)
    negated = _VERB.sub(r"\1 not", faithful, count=1)
    pair["negated"] = negated if negated != faithful else f"It is not true that {faithful}"
    if other.title != entity.title:
        pair["names exchanged"] = _sentence(second, other.title, value)
    return pair


def _sentence(wording: str, subject: str, value: str) -> str:
    text = wording.format(x=subject, v=value)
    return text[0].upper() + text[1:]
