"""Searching for literature: several queries in several places at once, and what was found is kept.

A search is any function of a query and a limit that returns sources. What it gave is kept in a file
with query and date, so that a report can be made again without a network; what failed or came too
late is a problem that is told.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from negfail_nb.claims.literature import Literature, merge, rank
from negfail_nb.claims.readers import clean_id
from negfail_nb.claims.records import Source, read_sources, write_records
from negfail_nb.runs import fingerprint
from negfail_nb.settings import LiteratureSettings
from negfail_nb.trajectory import Problem

logger = logging.getLogger("negfail_nb")

Search = Callable[[str, int], Iterable[Source]]  # query, at most so many
Answer = tuple[list[Source], list[Problem]]


@dataclass(frozen=True, slots=True)
class FolderSearch:
    """Search of sources that are at hand, such as those of `negfail_nb.claims.read_folder`. Nothing
    of it is kept.
    """

    sources: Sequence[Source]
    name: str = "folder"
    local: bool = True

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

    name, local = "arxiv", False

    def __init__(self, client: Any = None) -> None:
        self._client, self._lock = client, Lock()

    def __call__(self, query: str, limit: int) -> list[Source]:
        """Return what arXiv finds.

        Raises
        ------
        ValueError
            Where the package is not installed, or arXiv refuses the query; the text says why.
        """
        arxiv = _arxiv()
        with self._lock:
            self._client = self._client or arxiv.Client(page_size=min(limit, 100))
            found = list(self._client.results(arxiv.Search(query=query, max_results=limit)))
        refused = next((result for result in found if "/api/errors" in result.entry_id), None)
        if refused:
            raise ValueError(f"arXiv refused the query: {refused.summary.strip()}")
        return [from_arxiv(result) for result in found]


def _arxiv() -> Any:
    try:
        import arxiv
    except ImportError as error:
        raise ValueError(
            "searching arXiv needs the package arxiv, which is not installed: pip install 'negfail_nb[claims]'"
        ) from error
    return arxiv


def from_arxiv(result: Any) -> Source:
    """Build a source from a result of the package ``arxiv``."""
    return Source(
        id=clean_id(result.entry_id),
        title=re.sub(r"\s+", " ", result.title).strip(),
        authors=tuple(str(author) for author in result.authors),
        year=str(result.published.year),
        doi=(result.doi or "").lower(),
        url=result.entry_id,
        venue="arXiv",
        text=re.sub(r"\s+", " ", result.summary).strip(),
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
        Such as `FolderSearch` and `ArxivSearch`, or any function of query and limit. Two searches
        of one ``name`` (or function name) share what is kept.
    date
        ISO date that is kept with each source that came over a network.
    cache
        Folder where an answer is kept by search, query and limit; a kept answer, with its date, is
        used again. Delete its file to ask again.
    settings
        How many sources an answer holds at most, how long all answers may take together, which
        titles are one.

    Returns
    -------
    Literature
        Ranked. A search that failed, found nothing or came too late is a problem of the result, not
        an error.
    """
    asked = [(one, query) for one in searches for query in queries]
    kept = Path(cache) if cache else None
    answers = _at_once(
        [lambda one=o, q=q: _ask(one, q, date, settings.limit, kept) for o, q in asked], settings
    )
    named = [(_name(one), query) for one, query in asked]
    late = f"no answer within {settings.timeout:g} s (literature.timeout); the others are used, ask again later"
    given = [
        a or ([], [Problem(name, query, late)])
        for a, (name, query) in zip(answers, named, strict=True)
    ]
    found = merge((source for sources, _ in given for source in sources))
    problems = tuple(problem for _, told in given for problem in told)
    for problem in problems:
        logger.warning("search: %s", problem)
    return replace(
        found,
        sources=tuple(source for source, _ in rank(found.sources, queries)),
        problems=problems,
    )


def _at_once(
    jobs: Sequence[Callable[[], Answer]], settings: LiteratureSettings
) -> list[Answer | None]:
    """Run jobs in threads of their own; ``None`` for what is not there in time.

    A pool of threads would wait for a search that hangs when Python ends; threads that are daemons
    are let go.
    """
    answers: list[Answer | None] = [None] * len(jobs)

    def work(place: int) -> None:
        answers[place] = jobs[place]()

    threads = [Thread(target=work, args=(place,), daemon=True) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    until = time.monotonic() + settings.timeout
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return list(answers)  # what comes later changes nothing


def _ask(one: Search, query: str, date: str, limit: int, cache: Path | None) -> Answer:
    name, local = _name(one), getattr(one, "local", False)
    file = (
        cache / f"{name}-{fingerprint([name, query, limit])[:12]}.json"
        if cache and not local
        else None
    )
    try:
        if file and file.is_file():
            return read_sources(file), []
        found = [
            replace(s, query=query, retrieved="" if local else date) for s in one(query, limit)
        ][:limit]
        if file and found:
            write_records(file, "sources", found)
    except Exception as error:  # a search is foreign code over a network
        return [], [Problem(name, query, f"{type(error).__name__}: {error}")]
    return found, [] if found else [Problem(name, query, "nothing was found")]


def _name(one: Search) -> str:
    return getattr(one, "name", "") or getattr(one, "__name__", type(one).__name__)
