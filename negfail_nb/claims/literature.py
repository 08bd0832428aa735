"""The literature that claims are checked against: the files of a folder and what searches find, one
of each kept, ranked by the queries.

A search is any function of a query and a limit that returns sources. What it gave is kept in a file
with query and date, so that a report can be made again without a network; what failed or came too
late is a problem of the result.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import SequenceMatcher
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from negfail_nb.claims.readers import READERS, clean_id
from negfail_nb.claims.records import Claim, Source, paper_sources, read_sources, write_records
from negfail_nb.content import fingerprint
from negfail_nb.settings import LiteratureSettings
from negfail_nb.trajectory import Problem

logger = logging.getLogger("negfail_nb")

Search = Callable[[str, int], Iterable[Source]]  # query, at most so many
SAME_TITLE = 0.92  # similarity of titles from which two sources are one


@dataclass(frozen=True, slots=True)
class Literature:
    """Sources, what could not be read or found, and which sources were found to be one: ``(kept id,
    dropped id, why)``.
    """

    sources: tuple[Source, ...] = ()
    problems: tuple[Problem, ...] = ()
    merged: tuple[tuple[str, str, str], ...] = ()


def open_literature(
    settings: LiteratureSettings = LiteratureSettings(),
    cache: str | Path = "",
    claims: Iterable[Claim] = (),
) -> Literature:
    """Return the sources that come with the package, those of a folder, or what a search finds.

    What is read from the folder and found elsewhere is merged; without queries the whole folder is
    taken.

    Parameters
    ----------
    settings
        What is searched for, and where.
    cache
        Folder for the answers of searches over a network; empty: they are not kept.
    claims
        Sources of the folder that these name stay, whatever a search finds.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder does not exist or nothing in it can be read; or if only a network is to be
        searched, and no query says for what.
    """
    given = Literature(tuple(paper_sources()))
    if settings.folder:
        given = read_folder(settings.folder)
    if not settings.queries:
        if "folder" not in settings.searches:
            raise ValueError(
                "literature.searches has no folder, and literature.queries is empty; "
                "say what to search"
            )
        return given
    made = {"folder": FolderSearch(given.sources), "arxiv": ArxivSearch()}
    today = datetime.now(UTC).date().isoformat()
    places = [made[name] for name in settings.searches]
    found = search(settings.queries, places, today, cache, settings)
    by_id = {one.id: one for one in found.sources}
    cited = {claim.source for claim in claims}
    kept = {one.id: by_id.get(one.id, one) for one in given.sources if one.id in cited}
    joined = merge([*kept.values(), *(s for s in found.sources if s.id not in kept)])
    merged = given.merged + found.merged + joined.merged
    return Literature(joined.sources, given.problems + found.problems, merged)


def read_folder(folder: str | Path) -> Literature:
    """Read every text, Markdown, PDF, BibTeX and JSON file of a folder, and of the folders in it.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If no file of it can be read; the text names the first problem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of sources {folder} does not exist")
    sources = []
    problems = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        name = path.relative_to(folder).as_posix()
        try:
            sources += [replace(source, file=name) for source in _reader(path)(path)]
        except (ValueError, OSError) as error:  # errors of decoding and of JSON are ValueErrors
            problems.append(Problem(name, "", str(error)))
    if not sources:
        first = f": {problems[0]}" if problems else ""
        raise ValueError(f"no source in {folder}{first}; give {', '.join(READERS)} files")
    for problem in problems:
        logger.warning("not read: %s", problem)
    return replace(merge(sources), problems=tuple(problems))


def _reader(path: Path) -> Callable[[Path], list[Source]]:
    if path.suffix.lower() not in READERS:
        ending = path.suffix or "without ending"
        raise ValueError(f"files {ending} are not read; use {', '.join(READERS)}")
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
        theirs = _plain_title(other.title)
        if source.doi and source.doi == other.doi:
            return place, "same DOI"
        if source.id == other.id and (not title or not theirs or _near(title, theirs, 0.5)):
            return place, "same id"
        if _near(title, theirs, SAME_TITLE):
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


@dataclass(frozen=True, slots=True)
class FolderSearch:
    """Search of sources that are at hand, as of `read_folder`; its answers are not kept."""

    sources: Sequence[Source]
    name: str = "folder"

    def __call__(self, query: str, limit: int) -> list[Source]:
        """Return the sources that share a word with the query, the best first."""
        return [source for source, score in rank(self.sources, [query])[:limit] if score > 0]


class ArxivSearch:
    """Search of arXiv through the package ``arxiv``; one request at a time, three seconds apart, as
    arXiv asks.

    Parameters
    ----------
    client
        An ``arxiv.Client``; ``None``: a new one, made when it is first asked.
    """

    name = "arxiv"

    def __init__(self, client: Any = None) -> None:
        self._client, self._lock = client, Lock()

    def __call__(self, query: str, limit: int) -> list[Source]:
        """Return what arXiv finds.

        Raises
        ------
        ValueError
            If the package is not installed, or arXiv refuses the query; the text says why.
        """
        try:
            import arxiv
        except ImportError as error:
            raise ValueError(
                "searching arXiv needs the package arxiv, which is not installed: "
                "pip install 'negfail_nb[claims]'"
            ) from error
        with self._lock:
            self._client = self._client or arxiv.Client(page_size=min(limit, 100))
            found = list(self._client.results(arxiv.Search(query=query, max_results=limit)))
        refused = next((result for result in found if "/api/errors" in result.entry_id), None)
        if refused:
            raise ValueError(f"arXiv refused the query: {refused.summary.strip()}")
        return [_from_arxiv(result) for result in found]


def _from_arxiv(result: Any) -> Source:
    return Source(
        id=clean_id(result.entry_id),
        title=" ".join(result.title.split()),
        authors=tuple(str(author) for author in result.authors),
        year=str(result.published.year),
        doi=(result.doi or "").lower(),
        url=result.entry_id,
        venue="arXiv",
        text=" ".join(result.summary.split()),
    )


def search(
    queries: Sequence[str],
    searches: Sequence[Search],
    date: str,
    cache: str | Path = "",
    settings: LiteratureSettings = LiteratureSettings(),
) -> Literature:
    """Ask every search every query, all at once, and merge what comes back.

    Parameters
    ----------
    queries, searches
        Such as `FolderSearch` and `ArxivSearch`, or any function of query and limit.
    date
        ISO date that is kept with each source that came over a network.
    cache
        Folder where an answer is kept by ``name`` of the search (or of the function), query and
        limit, and used again, with its date. Delete its file to ask again.
    settings
        How many sources an answer holds at most, and how long all answers may take together.

    Returns
    -------
    Literature
        Ranked. A search that failed, found nothing or came too late is a problem of the result, not
        an error.
    """
    asked = [(one, query) for one in searches for query in queries]
    answers: dict[int, Literature] = {}

    def work(place: int) -> None:
        answers[place] = _ask(*asked[place], date, settings.limit, Path(cache) if cache else None)

    # A pool of threads would wait for a search that hangs when Python ends; daemons are let go.
    threads = [Thread(target=work, args=(place,), daemon=True) for place in range(len(asked))]
    for thread in threads:
        thread.start()
    until = time.monotonic() + settings.timeout
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    in_time = dict(answers)  # what comes later changes nothing
    late = f"no answer within {settings.timeout:g} s (literature.timeout); the others are used, "
    late += "ask again later"
    given = [
        in_time.get(place, Literature(problems=(Problem(_name(one), query, late),)))
        for place, (one, query) in enumerate(asked)
    ]
    problems = tuple(problem for answer in given for problem in answer.problems)
    for problem in problems:
        logger.warning("search: %s", problem)
    found = merge(source for answer in given for source in answer.sources)
    ranked = tuple(source for source, _ in rank(found.sources, queries))
    return replace(found, sources=ranked, problems=problems)


def _ask(one: Search, query: str, date: str, limit: int, cache: Path | None) -> Literature:
    name = _name(one)
    file = None
    if isinstance(one, FolderSearch):
        date = ""
    elif cache:
        file = cache / f"{name}-{fingerprint([name, query, limit])[:12]}.json"
    try:
        if file and file.is_file():
            return Literature(tuple(read_sources(file)))
        found = [replace(s, query=query, retrieved=date) for s in one(query, limit)][:limit]
        if file and found:
            write_records(file, "sources", found)
    except Exception as error:  # a search is foreign code over a network
        return Literature(problems=(Problem(name, query, f"{type(error).__name__}: {error}"),))
    if not found:
        return Literature(problems=(Problem(name, query, "nothing was found"),))
    return Literature(tuple(found))


def _name(one: Search) -> str:
    return getattr(one, "name", "") or getattr(one, "__name__", type(one).__name__)
