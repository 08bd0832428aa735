"""How weak the checks are: pairs of a source sentence and a claim that is faithful, or was made
false on purpose.

``pairs.toml`` holds sentences, each with a faithful paraphrase, and with its numbers swapped, its
statement negated and its names exchanged. They were written by the author of the rules, about
findings such as this project's: so all of it flatters the rules. Those marked ``held_out`` were
written after the rules and have changed none of them. `negfail_nb.claims.pairs` generates more, in
wordings that no rule was made for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from negfail_nb.claims.records import Source
from negfail_nb.claims.verification import Match, verify
from negfail_nb.settings import CHECKS, ClaimSettings

if TYPE_CHECKING:
    import pandas as pd

FAITHFUL, FALSE = "faithful", ("numbers swapped", "negated", "names exchanged")
COMBINED = (
    "tfidf + numbers",
    "tfidf + numbers + direction + negation",
    "all rules",
    "all rules + dense",
)


def load_pairs(held_out: bool = False) -> list[dict[str, str]]:
    """Return the packaged pairs: ``sentence``, ``faithful`` and the three that are false.

    Parameters
    ----------
    held_out
        Those written after the rules; else those that the rules and the default were chosen on.
    """
    text = files("negfail_nb.claims").joinpath("pairs.toml").read_text(encoding="utf-8")
    return [
        pair for pair in tomllib.loads(text)["pairs"] if pair.pop("held_out", False) == held_out
    ]


def check_weakness(
    pairs: Iterable[Mapping[str, str]] | None = None,
    settings: ClaimSettings = ClaimSettings(),
    encoder: Any = None,
) -> pd.DataFrame:
    """Measure what each check accepts, all sentences of the pairs being the source.

    Parameters
    ----------
    pairs
        As `load_pairs` returns them, which is the default.
    encoder
        For the dense check; ``None``: the one in the settings, or none.

    Returns
    -------
    pandas.DataFrame
        One row a check or combination: ``check``; ``precision`` (share of faithful claims among
        those accepted), ``recall`` (share of faithful claims that are accepted), ``f_half`` (F0.5:
        precision counts twice, as a false claim that passes is worse than a true one that a person
        must look at); the share of each kind of false claim that is accepted; ``faithful`` and
        ``false``: how many there were.
    """
    import pandas as pd

    pairs = list(load_pairs() if pairs is None else pairs)
    sources = [
        Source(id=f"pair-{number}", text=pair["sentence"]) for number, pair in enumerate(pairs, 1)
    ]
    kinds = [(kind, pair[kind]) for pair in pairs for kind in (FAITHFUL, *FALSE) if kind in pair]
    matches = verify([text for _, text in kinds], sources, settings, encoder)
    made = [name for name in CHECKS if name in matches[0].checks]
    return pd.DataFrame(
        [_row(name, chosen, kinds, matches) for name, chosen in _combinations(made).items()]
    )


def _combinations(made: Sequence[str]) -> dict[str, tuple[str, ...]]:
    rules = tuple(name for name in made if name != "dense")
    names = (
        ("tfidf", "numbers"),
        ("tfidf", "numbers", "direction", "negation"),
        rules,
        (*rules, "dense"),
    )
    joined = zip(COMBINED, names, strict=True)
    return {name: (name,) for name in made} | {name: c for name, c in joined if set(c) <= set(made)}


def _row(
    name: str, chosen: Sequence[str], kinds: Sequence[tuple[str, str]], matches: Sequence[Match]
) -> dict[str, Any]:
    passed: dict[str, list[bool]] = {kind: [] for kind in (FAITHFUL, *FALSE)}
    for (kind, _), match in zip(kinds, matches, strict=True):
        passed[kind].append(match.passed(chosen))
    right, wrong = sum(passed[FAITHFUL]), sum(sum(passed[kind]) for kind in FALSE)
    precision = right / (right + wrong) if right + wrong else float("nan")
    recall = right / len(passed[FAITHFUL]) if passed[FAITHFUL] else float("nan")
    total = 0.25 * precision + recall
    return {
        "check": name,
        "precision": precision,
        "recall": recall,
        "f_half": 1.25 * precision * recall / total if total else 0.0,
        **{
            kind: sum(passed[kind]) / len(passed[kind]) if passed[kind] else float("nan")
            for kind in FALSE
        },
        "faithful": len(passed[FAITHFUL]),
        "false": sum(len(passed[kind]) for kind in FALSE),
    }
