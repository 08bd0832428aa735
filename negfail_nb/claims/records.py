"""What passes between the steps of room 08: a source, a claim with what measures it, and the
verdict on it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from negfail_nb.runs import write_json

SCHEMA = 1
DIRECTIONS = ("above", "below", "within")
MEASURED = ("supported", "contradicted", "undecided", "not measured")
WRITTEN = ("backed", "doubtful", "not found", "no source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One text of the literature. ``text`` is data: it is compared and quoted, never run or
    rendered.

    Attributes
    ----------
    id
        Unique in a collection; the key of its BibTeX entry.
    text
        Full text or abstract; pages are divided by form feeds, as PDF readers give them.
    kind
        BibTeX entry type, such as ``"article"``.
    file, query, retrieved
        Where it was read from, which query found it, and when (ISO date); empty where that does not
        apply.
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
    ``"every"``. First and last are those of the table, or by the number in the column ``order``,
    where one is named.
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
        The value when the claim was written; another value now is said. Empty where the claim names
        none.
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
                f"measure: csv is {self.csv!r}; give the name of a table without a folder, such as a.csv"
            )
        if self.direction not in DIRECTIONS:
            raise ValueError(
                f"{self.csv}: direction is {self.direction!r}; use one of {', '.join(DIRECTIONS)}"
            )
        if not self.terms or (
            len(self.terms) > 1 and any(term.take == "every" for term in self.terms)
        ):
            raise ValueError(
                f"{self.csv}: give one term or several; a term that takes every row stands alone"
            )
        for term in self.terms:
            if term.take not in ("only", "first", "last", "every"):
                raise ValueError(
                    f"{self.csv}: take is {term.take!r}; use only, first, last or every"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One sentence that a reader may doubt.

    Attributes
    ----------
    source, quotation, place
        Who says so, in which exact words, and where: page, table, sentence.
    measure
        The cell that tests it; ``None`` where this project does not measure it.
    scope
        On what a measurement of ours would be, where it is not what the source measured.
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
    measured
        One of ``MEASURED``. ``"undecided"``: measured, but the interval lies on both sides of the
        threshold.
    value, low, high, reason
        Of the measurement; ``reason`` says why there is none, or how it was judged.
    written
        One of ``WRITTEN``: whether the words stand in the source.
    tfidf, dense, sentence, sentence_source
        Similarity to the best-matching sentence of the sources, and that sentence.
    checks
        Each check of the text by name: passed or not.
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
    tier: str = "D"


def to_record(item: Any) -> dict[str, Any]:
    """Return a source, claim or verdict as JSON values."""
    return json.loads(json.dumps(asdict(item)))


def make(kind: type, record: Mapping[str, Any], place: str = "record") -> Any:
    """Build a `Source`, `Claim` or `Verdict` from JSON values.

    Raises
    ------
    ValueError
        For an unknown or missing field; the text names place and field.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{place} is {type(record).__name__}, not an object with fields")
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(record) - known)
    if unknown:
        raise ValueError(
            f"{place}: unknown fields {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    values = dict(record)
    if "authors" in values:
        values["authors"] = tuple(values["authors"])
    try:
        if values.get("measure"):
            values["measure"] = _measure(values["measure"])
        return kind(**values)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{place}: {error}") from error


def _measure(record: Mapping[str, Any]) -> Measure:
    return Measure(**{**record, "terms": tuple(Term(**term) for term in record["terms"])})


def write_records(path: str | Path, kind: str, records: Iterable[Any]) -> Path:
    """Write sources, claims or verdicts as one JSON file: ``{"schema": 1, kind: [...]}``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"schema": SCHEMA, kind: [to_record(record) for record in records]})
    return path


def read_claims(path: str | Path) -> list[Claim]:
    """Read claims from JSON (of `write_records`) or TOML (``[[claims]]``).

    Raises
    ------
    ValueError
        For another schema, a field that cannot be used, or two claims of one id; the text names
        file and record.
    """
    return _read(Path(path).name, Path(path).read_bytes(), "claims", Claim)


def read_sources(path: str | Path) -> list[Source]:
    """Read sources from JSON (of `write_records`) or TOML (``[[sources]]``); errors as in
    `read_claims`.
    """
    return _read(Path(path).name, Path(path).read_bytes(), "sources", Source)


def paper_claims() -> list[Claim]:
    """Return the claims that come with the package: NAT's findings and numbers, and those on long
    contexts.
    """
    return _packaged("claims.toml", "claims", Claim)


def paper_sources() -> list[Source]:
    """Return the sources of `paper_claims`: what the papers say, in the transcription that was at
    hand.
    """
    return _packaged("sources.toml", "sources", Source)


def _packaged(name: str, kind: str, made: type) -> list[Any]:
    return _read(name, files("negfail_nb.claims").joinpath(name).read_bytes(), kind, made)


def _read(name: str, content: bytes, kind: str, made: type) -> list[Any]:
    try:
        text = content.decode("utf-8")
        record = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if (
        not isinstance(record, dict)
        or record.get("schema") != SCHEMA
        or not isinstance(record.get(kind), list)
    ):
        raise ValueError(f'{name}: needed are "schema": {SCHEMA} and a list of {kind}')
    items = [
        make(made, item, f"{name}, {kind} {number}") for number, item in enumerate(record[kind], 1)
    ]
    doubled = sorted({item.id for item in items if sum(other.id == item.id for other in items) > 1})
    if doubled:
        raise ValueError(f"{name}: more than one of {kind} has the id {', '.join(doubled)}")
    return items
