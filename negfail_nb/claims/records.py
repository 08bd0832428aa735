"""The records of claims: a source, a claim with what measures it, and the verdict on it."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from negfail_nb.content import plain, write_json

SCHEMA = 1
DIRECTIONS = ("above", "below", "within")
MEASURED = ("supported", "contradicted", "undecided", "not measured")
WRITTEN = ("backed", "doubtful", "not found", "no source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One text of the literature. It is data: compared and quoted, never run or rendered.

    Attributes
    ----------
    id
        Unique in a collection; the key of its BibTeX entry.
    text
        Full text or abstract; pages are divided by form feeds, as PDF readers give them.
    kind
        BibTeX entry type, such as ``"article"``.
    file, query, retrieved
        Where it was read from, which query found it, and when (ISO date); else empty.
    """

    id: str
    title: str = ""
    authors: tuple[str, ...] = ()
    year: str = ""
    doi: str = ""
    url: str = ""
    venue: str = ""
    text: str = ""
    kind: str = "misc"
    file: str = ""
    query: str = ""
    retrieved: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One cell of a figure's table: the row whose columns match ``row`` (``*`` matches anything),
    times ``weight``.

    ``take`` says which of several matching rows is meant: ``"only"``, ``"first"``, ``"last"``, or
    ``"every"``. First and last go by the number in the column ``order`` if one is named, else by
    the table.
    """

    row: Mapping[str, str]
    weight: float = 1.0
    take: str = "only"
    order: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What a claim says about the table beside a figure.

    Attributes
    ----------
    csv, column, terms
        The table, its column, and the cells; with several terms their weighted sum is judged.
    direction, threshold
        ``"above"`` or ``"below"`` the threshold, or ``"within"`` it on both sides of 0.
    was
        The value when the claim was written, if any; the verdict says if it is another now.
    """

    csv: str
    column: str
    terms: tuple[Term, ...]
    direction: str = "above"
    threshold: float = 0.0
    was: float | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*\.csv", self.csv):
            raise ValueError(
                f"measure: csv is {self.csv!r}; give the name of a table without a folder, "
                "such as a.csv"
            )
        if self.direction not in DIRECTIONS:
            raise ValueError(
                f"{self.csv}: direction is {self.direction!r}; use one of {', '.join(DIRECTIONS)}"
            )
        every = any(term.take == "every" for term in self.terms)
        if not self.terms or (every and len(self.terms) > 1):
            reason = "give one term or several; a term that takes every row stands alone"
            raise ValueError(f"{self.csv}: {reason}")
        wrong = {term.take for term in self.terms} - {"only", "first", "last", "every"}
        if wrong:
            raise ValueError(f"{self.csv}: take is {wrong.pop()!r}; use only, first, last or every")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One sentence that a reader may doubt.

    Attributes
    ----------
    source, quotation, place
        Who says so, in which exact words, and where: page, table, sentence.
    measure
        The cell that tests it; ``None`` if this project does not measure it.
    scope
        What a measurement of ours is of, if it is not what the source measured.
    """

    id: str
    text: str
    source: str = ""
    quotation: str = ""
    place: str = ""
    measure: Measure | None = None
    scope: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the sources and the measurements say about one claim.

    Attributes
    ----------
    measured, value, low, high, n, reason
        One of ``MEASURED``, the measurement, and how it was judged or why there is none.
    written
        One of ``WRITTEN``: whether the words stand in the source.
    tfidf, dense, sentence, sentence_source
        Similarity to the best-matching sentence of the sources, and that sentence.
    checks
        Each check of the text by name: passed or not.
    decided
        Which checks decided what is said in ``written``: those that failed, of the ones that the
        settings ask for, else all that passed.
    tier
        Quality, see `negfail_nb.claims.checking.TIERS`.
    """

    claim: str
    measured: str = "not measured"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    reason: str = ""
    written: str = "no source"
    tfidf: float | None = None
    dense: float | None = None
    sentence: str = ""
    sentence_source: str = ""
    checks: Mapping[str, bool] = field(default_factory=dict)
    decided: str = ""
    tier: str = "D"


def write_records(path: str | Path, kind: str, records: Iterable[Any]) -> Path:
    """Write sources or claims as one JSON file: ``{"schema": 1, kind: [...]}``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"schema": SCHEMA, kind: [plain(record) for record in records]})
    return path


def read_claims(path: str | Path) -> list[Claim]:
    """Read claims from JSON (of `write_records`) or TOML (``[[claims]]``).

    Raises
    ------
    ValueError
        For another schema, a field that cannot be used, or two claims of one id; the text names
        file and record.
    """
    return _read(Path(path), "claims", Claim)


def read_sources(path: str | Path) -> list[Source]:
    """Read sources from JSON or TOML (``[[sources]]``); errors as in `read_claims`."""
    return _read(Path(path), "sources", Source)


def paper_claims() -> list[Claim]:
    """Return the claims that come with the package: NAT's findings and numbers, and those on long
    contexts.
    """
    return _read(files("negfail_nb.claims") / "claims.toml", "claims", Claim)


def paper_sources() -> list[Source]:
    """Return the sources of `paper_claims`, in the transcription that was at hand."""
    return _read(files("negfail_nb.claims") / "sources.toml", "sources", Source)


def _read(path: Path | Traversable, kind: str, made: type) -> list[Any]:
    name = path.name
    try:
        text = path.read_bytes().decode("utf-8")
        record = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    listed = record.get(kind) if isinstance(record, dict) else None
    if not isinstance(listed, list) or record.get("schema") != SCHEMA:
        raise ValueError(f'{name}: needed are "schema": {SCHEMA} and a list of {kind}')
    items = [_make(made, item, f"{name}, {kind} {n}") for n, item in enumerate(listed, 1)]
    doubled = sorted(i for i, count in Counter(str(item.id) for item in items).items() if count > 1)
    if doubled:
        raise ValueError(f"{name}: more than one of {kind} has the id {', '.join(doubled)}")
    return items


def _make(kind: type, record: Any, place: str) -> Any:
    if not isinstance(record, Mapping):
        raise ValueError(f"{place} is {type(record).__name__}, not an object with fields")
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(record) - known)
    if unknown:
        raise ValueError(
            f"{place}: unknown fields {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    values = dict(record)
    try:
        if "authors" in values:
            values["authors"] = tuple(values["authors"])
        if values.get("measure"):
            terms = tuple(Term(**term) for term in values["measure"]["terms"])
            values["measure"] = Measure(**{**values["measure"], "terms": terms})
        return kind(**values)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{place}: {error}") from error
