"""The literature that claims are checked against: files of a folder, of which one of each is kept,
ranked by queries.

`negfail_nb.claims.searching` asks several queries in several places.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from negfail_nb.claims.readers import READERS, clean_id
from negfail_nb.claims.records import Source
from negfail_nb.trajectory import Problem

logger = logging.getLogger("negfail_nb")

SAME_TITLE = 0.92  # similarity of titles from which two sources are one


@dataclass(frozen=True, slots=True)
class Literature:
    """Sources, what could not be read, and which sources were found to be one: ``(kept id, dropped
    id, why)``.
    """

    sources: tuple[Source, ...] = ()
    problems: tuple[Problem, ...] = ()
    merged: tuple[tuple[str, str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.sources)


def read_folder(folder: str | Path) -> Literature:
    """Read every text, Markdown, PDF, BibTeX and JSON file of a folder, and of the folders in it.

    Raises
    ------
    FileNotFoundError
        Where there is no such folder.
    ValueError
        Where no file of it can be read; the text names the first problem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of sources {folder} does not exist")
    sources, problems = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        name = path.relative_to(folder).as_posix()
        try:
            sources += [replace(source, file=name) for source in _reader(path)(path)]
        except (
            ValueError,
            OSError,
        ) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            problems.append(Problem(name, "", str(error)))
    if not sources:
        first = f": {problems[0]}" if problems else ""
        raise ValueError(f"no source in {folder}{first}; give {', '.join(READERS)} files")
    for problem in problems:
        logger.warning("not read: %s", problem)
    return replace(merge(sources), problems=tuple(problems))


def _reader(path: Path) -> Callable[[Path], list[Source]]:
    if path.suffix.lower() not in READERS:
        raise ValueError(
            f"files {path.suffix or 'without ending'} are not read; use {', '.join(READERS)}"
        )
    return READERS[path.suffix.lower()]


def merge(sources: Iterable[Source]) -> Literature:
    """Keep one of each source: equal id, equal DOI, or nearly equal title. Empty fields are filled
    from the others.
    """
    kept: list[Source] = []
    merged = []
    for source in sources:
        place, why = _twin(source, kept)
        if why:
            merged.append((kept[place].id, source.id, why))
            kept[place] = _filled(kept[place], source)
        else:
            kept.append(replace(source, id=_unused(source.id, {other.id for other in kept})))
    return Literature(tuple(kept), merged=tuple(merged))


def _twin(source: Source, kept: Sequence[Source]) -> tuple[int, str]:
    title = _plain_title(source.title)
    for place, other in enumerate(kept):
        if source.doi and source.doi == other.doi:
            return place, "same DOI"
        if source.id == other.id and (
            not title or not other.title or _near(title, _plain_title(other.title), 0.5)
        ):
            return place, "same id"
        if _near(title, _plain_title(other.title), SAME_TITLE):
            return place, "nearly the same title"
    return -1, ""


def _unused(name: str, taken: set[str]) -> str:
    """Two files may have one name, and be two texts."""
    names = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(candidate for candidate in names if candidate not in taken)


def _plain_title(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", title.lower()).strip()


def _near(one: str, two: str, least: float) -> bool:
    # Part 1 and part 2 of a paper are two papers, however alike their titles are.
    if not one or not two or re.findall(r"\d+", one) != re.findall(r"\d+", two):
        return False
    matcher = SequenceMatcher(None, one, two, autojunk=False)
    return one == two or (matcher.quick_ratio() >= least and matcher.ratio() >= least)


def _filled(kept: Source, other: Source) -> Source:
    """The longer text wins: a full text says more than its abstract."""
    names = ("title", "authors", "year", "doi", "url", "venue", "file")
    values: dict[str, Any] = {n: getattr(kept, n) or getattr(other, n) for n in names}
    return replace(kept, text=max(kept.text, other.text, key=len), **values)


def rank(sources: Sequence[Source], queries: Sequence[str]) -> list[tuple[Source, float]]:
    """Return sources with the TF-IDF cosine of title and text to the query that fits best, the best
    first.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [f"{source.title} {source.text}" for source in sources]
    if not any(re.search(r"\w\w", text) for text in texts) or not queries:
        return [(source, 0.0) for source in sources]
    model = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    documents = model.fit_transform(texts)
    scores = (documents @ model.transform(queries).T).toarray().max(axis=1)
    order = sorted(range(len(sources)), key=lambda i: (-scores[i], sources[i].id))
    return [(sources[i], float(scores[i])) for i in order]


def to_bibtex(sources: Iterable[Source]) -> str:
    """Return BibTeX entries, ordered by id. Special characters of LaTeX are escaped."""
    return "\n".join(_entry(source) for source in sorted(sources, key=lambda s: s.id))


def _entry(source: Source) -> str:
    values = {
        "title": source.title,
        "author": " and ".join(source.authors),
        "year": source.year,
        "doi": source.doi,
        "url": source.url,
        "journal": source.venue,
    }
    lines = [f"  {name} = {{{_tex(value)}}}" for name, value in values.items() if value]
    return (
        f"@{re.sub('[^a-z]', '', source.kind.lower()) or 'misc'}{{"
        + ",\n".join([clean_id(source.id), *lines])
        + "\n}\n"
    )


def _tex(text: str) -> str:
    """Braces and backslashes of foreign text could run a macro: they go, the rest is escaped."""
    return re.sub(r"([#$%&_])", r"\\\1", re.sub(r"[\\{}~^]", " ", text)).replace("\n", " ")
