"""The index of a pool: what its settings ask for is built once, kept in a folder, and searched by
one call.

A folder holds one part for each kind of search (``bm25``, ``dense``, ``links``), each with a
manifest of its own, written last: another method uses the parts that are there. The folder's
manifest says which settings they serve.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from negfail_nb.benchmarking.corpora.records import PassagePool
from negfail_nb.benchmarking.retrieval.dense import Dense, Encoder, build_dense
from negfail_nb.benchmarking.retrieval.fusion import Hits, fuse
from negfail_nb.benchmarking.retrieval.lexical import Lexical, build_lexical
from negfail_nb.benchmarking.retrieval.rerank import Reranker
from negfail_nb.locks import alone
from negfail_nb.runs import MANIFEST, differences, file_hash, fingerprint, plain, write_json
from negfail_nb.settings import RetrievalSettings
from negfail_nb.source import source_hash

__all__ = ["Hits", "Index", "build_index", "open_index"]

FORMAT = 1
APPROXIMATE_ABOVE = 1_000_000  # vectors; exact search of more takes seconds per question
PARTS: Mapping[str, tuple[str, ...]] = {
    "bm25": ("bm25",),
    "dense": ("dense",),
    "hybrid": ("bm25", "dense"),
    "linked": ("bm25", "links"),
    "linked-hybrid": ("bm25", "dense", "links"),
}

logger = logging.getLogger("negfail_nb")


class Index:
    """Finds passages of a pool; made by `build_index` or `open_index`.

    Attributes
    ----------
    pool, settings
        What is searched, and how.
    folder
        Where the index is.
    """

    def __init__(
        self, pool: PassagePool, settings: RetrievalSettings, folder: Path, parts: Mapping[str, Any]
    ) -> None:
        self.pool, self.settings, self.folder, self._parts = pool, settings, folder, dict(parts)
        self._reranker = Reranker(settings.reranker) if settings.reranker else None
        self._temporary: tempfile.TemporaryDirectory | None = None

    def __repr__(self) -> str:
        """Return method and size."""
        return f"Index({self.settings.method}, {len(self.pool)} passages)"

    def search(self, queries: Sequence[str], k: int, exclude: Sequence[Sequence[int]] = ()) -> Hits:
        """Return the ``k`` best passages of each query.

        Parameters
        ----------
        queries
            All at once; that is faster than one after the other.
        k
            How many passages a query, from 1 to as many as the pool has.
        exclude
            For each query the numbers of passages that must not be returned; none where it is
            empty.

        Returns
        -------
        Hits
            Best first, equal scores in the order of the pool. Where fewer than ``k`` passages have
            anything to do with a query, BM25 fills up with others, of score 0.

        Raises
        ------
        ValueError
            For a query without text, a ``k`` that the pool cannot give, or an ``exclude`` of
            another length.
        """
        queries = self._checked(queries)
        excluded = [sorted(set(map(int, numbers))) for numbers in exclude] or [[]] * len(queries)
        if len(excluded) != len(queries):
            raise ValueError(
                f"exclude has {len(excluded)} lists for {len(queries)} queries; give one a query"
            )
        most = max(map(len, excluded), default=0)
        if not 1 <= k <= len(self.pool) - most:
            less = f" less the {most} that are excluded" if most else ""
            raise ValueError(
                f"k is {k}; the pool has {len(self.pool)} passages{less}: give 1 to {len(self.pool) - most}"
            )
        if not queries:
            return Hits(np.empty((0, k), np.int64), np.empty((0, k), np.float32))
        hits = self._ranked(queries, k + most)
        return _without(hits, excluded, k) if most else hits

    def word_scores(self, query: str, numbers: np.ndarray) -> np.ndarray:
        """Return the BM25 score of each different word of a query in some passages, shape ``(words,
        passages)``.

        Raises
        ------
        ValueError
            Where the index has no BM25 part.
        """
        if "bm25" not in self._parts:
            raise ValueError(
                f"an index of method {self.settings.method!r} has no BM25 scores; use 'bm25', 'hybrid' or 'linked'"
            )
        return self._parts["bm25"].word_scores(query, numbers)

    def _checked(self, queries: Sequence[str]) -> list[str]:
        if isinstance(queries, str):
            raise ValueError(f"queries is one text, {queries[:80]!r}; give a list of texts")
        for place, query in enumerate(queries):
            if not isinstance(query, str) or not query.strip():
                raise ValueError(f"query {place} is {query!r}; every query needs a text")
        return list(queries)

    def _ranked(self, queries: list[str], k: int) -> Hits:
        if self._reranker is None:
            return self._found(queries, k)
        hits = self._found(queries, min(max(k, self.settings.depth), len(self.pool)))
        return self._reranker.rerank(queries, hits, self.pool, k)

    def _found(self, queries: list[str], k: int) -> Hits:
        if "links" in self._parts:
            from negfail_nb.benchmarking.retrieval.paths import linked_search

            return linked_search(_Fused(self), self._parts["links"], queries, k, self.settings)
        return self._fused(queries, k)

    def _fused(self, queries: Sequence[str], k: int) -> Hits:
        searched = [part for name, part in self._parts.items() if name != "links"]
        if len(searched) == 1:
            return searched[0].search(queries, k)
        depth = min(max(k, self.settings.depth), len(self.pool))
        return fuse([part.search(queries, depth) for part in searched], k, self.settings.fusion)


class _Fused:
    """What links are followed from: the same index, without its links."""

    def __init__(self, index: Index) -> None:
        self.search, self.word_scores = index._fused, index.word_scores


def build_index(
    pool: PassagePool,
    settings: RetrievalSettings = RetrievalSettings(),
    folder: str | Path | None = None,
    cache: str | Path | None = None,
) -> Index:
    """Build an index, or open it where it is built; parts whose corpus or settings changed are
    built anew.

    Parameters
    ----------
    pool
        The passages.
    settings
        How they are to be found.
    folder
        Where the index goes; ``None``: a temporary folder, removed with the index.
    cache
        Folder of vectors by text, which several indexes may share; ``None``: in the index's own
        folder. Texts that were encoded before, in any pool, are not encoded again.

    Returns
    -------
    Index
        Ready to search. The log says which parts were built, and what had changed.

    Raises
    ------
    ValueError
        Where the pool is empty, no passage has a word, or a model is not there.
    """
    if not len(pool):
        raise ValueError("the pool has no passages; there is nothing to search")
    temporary = tempfile.TemporaryDirectory(prefix="negfail_nb-index-") if folder is None else None
    home = Path(temporary.name if temporary else folder)
    home.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(settings.encoder) if "dense" in PARTS[settings.method] else None
    with alone(home / "index", f"the index in {home}"):
        for name, plan in _plans(pool, settings, encoder).items():
            _ensure(
                home / name,
                plan,
                _builder(name, pool, settings, encoder, Path(cache or home / "cache")),
            )
        write_json(
            home / MANIFEST,
            {"format": FORMAT, "corpus": pool.fingerprint, "settings": plain(settings)},
        )
    index = Index(pool, settings, home, _open_parts(pool, settings, home, encoder))
    index._temporary = temporary
    return index


def open_index(folder: str | Path, pool: PassagePool) -> Index:
    """Open an index that `build_index` wrote, with the settings it was built with.

    Raises
    ------
    ValueError
        Where the folder holds no finished index, one of another corpus, or files that changed; the
        text names it.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder, "corpus", "settings")
    if not manifest:
        raise ValueError(
            f"{folder} holds no finished index: it has no readable {MANIFEST}; build it with build_index"
        )
    if manifest["corpus"] != pool.fingerprint:
        raise ValueError(
            f"{folder} is an index of another corpus; give its own pool, or build one with build_index"
        )
    settings = _read_settings(folder, manifest["settings"])
    encoder = Encoder(settings.encoder) if "dense" in PARTS[settings.method] else None
    for name, plan in _plans(pool, settings, encoder).items():
        if changes := _changes(folder / name, plan):
            raise ValueError(
                f"{folder / name} cannot be used: {'; '.join(changes)}. Build it again with build_index"
            )
    return Index(pool, settings, folder, _open_parts(pool, settings, folder, encoder))


def _plans(
    pool: PassagePool, settings: RetrievalSettings, encoder: Encoder | None
) -> dict[str, dict[str, Any]]:
    """Return, for each part that the method needs, what it depends on."""
    wanted: dict[str, dict[str, Any]] = {"bm25": {"k1": settings.k1, "b": settings.b}, "links": {}}
    if encoder is not None:
        approximate = len(pool) > APPROXIMATE_ABOVE
        wanted["dense"] = {
            "encoder": settings.encoder,
            "weights": encoder.fingerprint,
            "approximate": approximate,
        }
    corpus = {"format": FORMAT, "corpus": pool.fingerprint, "passages": len(pool)}
    return {name: corpus | wanted[name] | _source(name) for name in PARTS[settings.method]}


def _source(part: str) -> dict[str, str]:
    module = {"bm25": "lexical"}.get(part, part)
    return {"source": source_hash(f"benchmarking.retrieval.{module}")}


def _builder(
    name: str, pool: PassagePool, settings: RetrievalSettings, encoder: Encoder | None, cache: Path
) -> Callable[[Path], None]:
    """Return what writes one part into a folder."""
    from negfail_nb.benchmarking.retrieval.links import build_links

    if name == "bm25":
        return lambda folder: build_lexical(pool, folder, settings.k1, settings.b)
    if name == "dense":
        approximate = len(pool) > APPROXIMATE_ABOVE
        made = fingerprint([encoder.fingerprint, _source(name)])[:16]
        return lambda folder: build_dense(pool, folder, encoder, cache / made, approximate)
    return lambda folder: build_links(pool).save(folder / "arrays")  # with a manifest of their own


def _open_parts(
    pool: PassagePool, settings: RetrievalSettings, folder: Path, encoder: Any
) -> dict[str, Any]:
    from negfail_nb.benchmarking.retrieval.links import Links

    opening: dict[str, Callable[[], Any]] = {
        "bm25": lambda: Lexical(folder / "bm25", len(pool)),
        "dense": lambda: Dense(folder / "dense", encoder),
        "links": lambda: Links.open(folder / "links" / "arrays", pool, verify=False),
    }
    return {name: opening[name]() for name in PARTS[settings.method]}


def _ensure(folder: Path, plan: Mapping[str, Any], build: Callable[[Path], None]) -> None:
    """Build a part unless it is there as planned. Beside the old one: who has that open keeps it."""
    changes = _changes(folder, plan)
    if not changes:
        return
    if folder.exists():
        logger.info("%s is built again: %s", folder, "; ".join(changes))
    part = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        build(part)
        files = {
            path.relative_to(part).as_posix(): file_hash(path)
            for path in part.rglob("*")
            if path.is_file()
        }
        write_json(part / MANIFEST, {**plan, "files": files})
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _changes(folder: Path, plan: Mapping[str, Any]) -> list[str]:
    """Return one text for each thing in which a part is not as planned, by the content of its
    files.
    """
    manifest = _read_manifest(folder, "files")
    if not manifest:
        return [f"it has no readable {MANIFEST}"]
    files = manifest.pop("files")
    found = {
        name: file_hash(folder / name) if (folder / name).is_file() else None for name in files
    }
    return differences(manifest, dict(plan)) + differences(files, found)


def _read_manifest(folder: Path, *fields: str) -> dict[str, Any]:
    """Return a manifest of this format that has the fields; an empty one where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = (
        isinstance(manifest, dict)
        and manifest.get("format") == FORMAT
        and manifest.keys() >= set(fields)
    )
    return manifest if known else {}


def _read_settings(folder: Path, values: Any) -> RetrievalSettings:
    try:
        return RetrievalSettings(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / MANIFEST}: settings: {error}; build the index again with build_index"
        ) from error


def _without(hits: Hits, excluded: Sequence[Sequence[int]], k: int) -> Hits:
    keep = [
        np.flatnonzero(~np.isin(row, out))[:k]
        for row, out in zip(hits.numbers, excluded, strict=True)
    ]
    return Hits(
        np.take_along_axis(hits.numbers, np.array(keep), 1),
        np.take_along_axis(hits.scores, np.array(keep), 1),
    )
