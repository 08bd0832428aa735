"""Readers of literature: text, PDF, BibTeX, and JSON of abstracts (ours, OpenAlex, Semantic
Scholar); and BibTeX as it is written.

Each returns sources, or raises `ValueError` with what is wrong in words. What they read is data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from negfail_nb.claims.records import Source


def read_text(path: Path) -> list[Source]:
    """Read a text or Markdown file; its first line is the title."""
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError("the file is empty")
    title = text.strip().splitlines()[0].lstrip("# ").strip()
    return [Source(id=path.stem, title=title[:300], text=text, file=path.name)]


def read_pdf(path: Path) -> list[Source]:
    """Read the text of a PDF with pypdf; pages are divided by form feeds."""
    try:
        import pypdf
    except ImportError as error:
        raise ValueError(
            "reading PDF needs pypdf, which is not installed: pip install 'negfail_nb[claims]'"
        ) from error
    try:
        reader = pypdf.PdfReader(path)
        text = "\f".join(page.extract_text() or "" for page in reader.pages)
        title = str((reader.metadata or {}).get("/Title") or "")
    except Exception as error:  # pypdf raises many kinds for damaged files
        raise ValueError(f"not a readable PDF: {type(error).__name__}: {error}") from error
    if not text.strip():
        raise ValueError(
            "the PDF has no text (scanned pages?): run OCR on it, or give a .txt beside it"
        )
    title = title or text.strip().splitlines()[0][:300]
    return [Source(id=path.stem, title=title, text=text, file=path.name)]


def read_bibtex(path: Path) -> list[Source]:
    """Read the entries of a BibTeX file with bibtexparser; the abstract is the text.

    Strings of the file are filled in, and accents of LaTeX become letters.
    """
    from bibtexparser import middlewares, parse_string

    decode = [middlewares.LatexDecodingMiddleware()]
    library = parse_string(path.read_text(encoding="utf-8"), append_middleware=decode)
    entries = list(library.entries)
    for block in library.failed_blocks:
        if block.ignore_error_block is None:
            line = 1 + (block.start_line or 0)
            raise ValueError(
                f"BibTeX entry at line {line}: a brace is not closed, or a comma is missing"
            )
        entries.append(block.ignore_error_block)  # two entries of one key are both read
    if not entries:
        raise ValueError("no BibTeX entry in it")
    return [_bibtex_source(entry, path.name) for entry in entries]


def _bibtex_source(entry: Any, file: str) -> Source:
    values = {f.key.lower(): re.sub(r"[{}]", "", str(f.value)) for f in entry.fields}
    fields = {name: re.sub(r"\s+", " ", value).strip() for name, value in values.items()}
    people = re.split(r"\s+and\s+", fields.get("author", ""))
    venue = fields.get("journal") or fields.get("booktitle")
    about = {"id": entry.key, "kind": entry.entry_type, "authors": people, "venue": venue}
    return _source(fields | about, entry.key, file)


def read_json(path: Path) -> list[Source]:
    """Read abstracts: a list, or an object with ``sources``, ``results`` (OpenAlex) or ``data``
    (Semantic Scholar).
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if isinstance(record, Mapping):
        lists = (
            record[k] for k in ("sources", "results", "data") if isinstance(record.get(k), list)
        )
        record = next(lists, [record])
    if not isinstance(record, list) or not all(isinstance(item, Mapping) for item in record):
        raise ValueError("give a list of objects, or an object with sources, results or data")
    sources = []
    for number, one in enumerate(record, 1):
        sources.append(_source(one, f"{path.stem}-{number}", path.name))
        if not sources[-1].title and not sources[-1].text:
            raise ValueError(f"record {path.stem}-{number} has neither title nor abstract")
    return sources


READERS = {
    ".txt": read_text,
    ".md": read_text,
    ".pdf": read_pdf,
    ".bib": read_bibtex,
    ".json": read_json,
}


def to_bibtex(sources: Iterable[Source]) -> str:
    """Return BibTeX entries, ordered by id. Special characters of LaTeX are escaped."""
    return "\n".join(_entry(source) for source in sorted(sources, key=lambda s: s.id))


def clean_id(text: str) -> str:
    """Return a key that BibTeX takes; the last part of an address, without an arXiv version."""
    last = re.sub(r"v\d+$", "", text.rstrip("/").rsplit("/", 1)[-1]) if "/" in text else text
    return re.sub(r"[^\w.:-]+", "-", last).strip("-") or "source"


def clean_doi(text: str) -> str:
    """Return a DOI in lower case, without the address before it."""
    return re.sub(r"^(https?://(dx\.)?doi\.org/|doi:\s*)", "", text.strip().lower())


def _source(item: Mapping[str, Any], name: str, file: str) -> Source:
    """Build a source from a record of OpenAlex, Semantic Scholar, BibTeX or our own export."""
    title = _words(item.get("title") or item.get("display_name"))
    text = _words(item.get("text") or item.get("abstract"))
    text = text or _inverted(item.get("abstract_inverted_index"))
    ids = item.get("externalIds") if isinstance(item.get("externalIds"), Mapping) else {}
    return Source(
        id=clean_id(str(item.get("id") or item.get("paperId") or name)),
        title=title,
        authors=tuple(_authors(item)),
        year=_words(item.get("year") or item.get("publication_year")),
        doi=clean_doi(_words(item.get("doi") or ids.get("DOI"))),
        url=_words(item.get("url")),
        venue=_words(item.get("venue")),
        text=text,
        kind=_words(item.get("kind")) or "misc",
        file=file,
    )


def _words(value: Any) -> str:
    """Numbers and texts as text; anything else in a foreign field is dropped."""
    known = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() if known else ""


def _authors(item: Mapping[str, Any]) -> Iterator[str]:
    listed = item.get("authors") or item.get("authorships") or []
    for author in listed if isinstance(listed, list) else []:
        if isinstance(author, Mapping):
            inner = author.get("author") if isinstance(author.get("author"), Mapping) else author
            author = inner.get("name") or inner.get("display_name")
        if _words(author):
            yield _words(author)


def _inverted(index: Any) -> str:
    """OpenAlex gives an abstract as each word with its places."""
    given = index.items() if isinstance(index, Mapping) else ()
    placed = [(at, word) for word, places in given if isinstance(places, list) for at in places]
    return " ".join(word for _, word in sorted(pair for pair in placed if isinstance(pair[0], int)))


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
    kind = re.sub("[^a-z]", "", source.kind.lower()) or "misc"
    return f"@{kind}{{" + ",\n".join([clean_id(source.id), *lines]) + "\n}\n"


def _tex(text: str) -> str:
    """Braces and backslashes of foreign text could run a macro: they go, the rest is escaped."""
    return re.sub(r"([#$%&_])", r"\\\1", re.sub(r"[\\{}~^]", " ", text)).replace("\n", " ")
