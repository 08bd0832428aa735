"""What a sentence says that can be checked: numbers with units, direction, negation, names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from negfail_nb.claims.records import Source

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
_FINDING = re.compile(
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
        piece, gap = text[start : match.start()], match[0]
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
        word, first = match[0], not text[: match.start()].strip()
        if re.search(r"[A-Z]|\d", word[1:]) or (not first and word[0].isupper()):
            found.append(word.casefold())
    return found


def order(text: str, known: Iterable[str] = ()) -> list[str | float]:
    """Return the ``known`` names and the numbers of a text in their order."""
    known = set(known)
    words = ((match.start(), match[0].casefold()) for match in WORD.finditer(text))
    listed = [(place, word) for place, word in words if word in known]
    listed += [(quantity.place, quantity.value) for quantity in quantities(text)]
    return [mark for _, mark in sorted(listed, key=lambda pair: pair[0])]


def topic(text: str) -> str:
    """Return what a sentence puts first and may as well put last, such as ``At 128K``, if any."""
    match = _TOPIC.match(text)
    return match[0] if match else ""


def tells_finding(text: str) -> bool:
    """Return whether a sentence compares, or reports what was found."""
    return _FINDING.search(text) is not None
