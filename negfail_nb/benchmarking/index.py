"""The index of a pool: built once into a folder as its settings ask, and searched by one call.

A folder holds one part per kind of search (``bm25``, ``dense``, ``links``), each with a manifest of
its own, written last: another method uses the parts that are there. The folder's manifest has the
settings.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from negfail_nb.benchmarking.dense import Dense, Reranker, build_dense
from negfail_nb.benchmarking.hits import Hits, fuse
from negfail_nb.benchmarking.lexical import Lexical, build_lexical
from negfail_nb.benchmarking.links import Links, build_links
from negfail_nb.benchmarking.paths import linked_search
from negfail_nb.benchmarking.records import PassagePool
from negfail_nb.benchmarking.served_encoder import AnyEncoder, open_encoder
from negfail_nb.content import counted, differences, file_hash, fingerprint, plain, write_json
from negfail_nb.locks import alone
from negfail_nb.runs import MANIFEST, Place
from negfail_nb.settings import EndpointSettings, RetrievalSettings
from negfail_nb.source import source_hash

FORMAT = 1
APPROXIMATE_ABOVE = 1_000_000  # vectors; exact search of more takes seconds per question
PARTS: Mapping[str, tuple[str, ...]] = {
    "bm25": ("bm25",),
    "dense": ("dense",),
    "hybrid": ("bm25", "dense"),
    "linked": ("bm25", "links"),
    "linked-hybrid": ("bm25", "dense", "links"),
}
SOURCES = {"bm25": "lexical", "dense": "dense", "links": "links"}  # modules that build the parts

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
        return f"Index({self.settings.method}, {len(self.pool)} passages)"

    @property
    def content(self) -> str:
        """SHA-256 over what decides what is found: the pool, the settings, and the encoder."""
        encoder = getattr(self._parts.get("dense"), "encoder", None)
        weights = encoder.fingerprint if encoder else ""
        return fingerprint([self.pool.content, counted(self.settings), weights])

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """Return the ``k`` best passages of each query.

        Parameters
        ----------
        queries
            All at once; that is faster than one after the other.
        k
            Passages per query, from 1 to as many as the pool has.

        Returns
        -------
        Hits
            Best first, equal scores in the order of the pool. If fewer than ``k`` passages share a
            word with a query, BM25 fills up with others, of score 0.

        Raises
        ------
        ValueError
            For a query without text, or a ``k`` that the pool cannot give.
        """
        if isinstance(queries, str):
            raise ValueError(f"queries is one text, {queries[:80]!r}; give a list of texts")
        for place, query in enumerate(queries):
            if not isinstance(query, str) or not query.strip():
                raise ValueError(f"query {place} is {query!r}; every query needs a text")
        size = len(self.pool)
        if not 1 <= k <= size:
            raise ValueError(f"k is {k}; the pool has {size} passages: give 1 to {size}")
        if not queries:
            return Hits(np.empty((0, k), np.int64), np.empty((0, k), np.float32))
        if self._reranker is None:
            return self._found(list(queries), k)
        hits = self._found(list(queries), min(max(k, self.settings.depth), size))
        return self._reranker.rerank(queries, hits, self.pool, k)

    def word_scores(self, query: str, numbers: np.ndarray) -> np.ndarray:
        """Return the BM25 score of each different word of a query in some passages, words x
        passages; ``ValueError`` if the index has no BM25 part.
        """
        if "bm25" not in self._parts:
            raise ValueError(
                f"an index of method {self.settings.method!r} has no BM25 scores; use 'bm25', "
                "'hybrid' or 'linked'"
            )
        return self._parts["bm25"].word_scores(query, numbers)

    def _found(self, queries: list[str], k: int) -> Hits:
        if "links" not in self._parts:
            return self._fused(queries, k)
        without_links = SimpleNamespace(search=self._fused, word_scores=self.word_scores)
        return linked_search(without_links, self._parts["links"], queries, k, self.settings)

    def _fused(self, queries: Sequence[str], k: int) -> Hits:
        searched = [part for name, part in self._parts.items() if name != "links"]
        if len(searched) == 1:
            return searched[0].search(queries, k)
        depth = min(max(k, self.settings.depth), len(self.pool))
        return fuse([part.search(queries, depth) for part in searched], k, self.settings.fusion)


def build_index(
    pool: PassagePool,
    settings: RetrievalSettings = RetrievalSettings(),
    folder: str | Path | Place | None = None,
    cache: str | Path | None = None,
    endpoint: EndpointSettings = EndpointSettings(),
) -> Index:
    """Build an index, or open it if it is built; parts whose corpus or settings changed are built
    anew.

    Parameters
    ----------
    pool
        The passages.
    settings
        How they are to be found.
    folder
        Where the index goes; a `Place` has a folder for each pool. ``None``: a temporary folder,
        removed with the index.
    cache
        Folder of vectors by text, which several indexes may share; ``None``: in the index's own
        folder, or of a `Place` one for all its pools. Texts that were encoded before, in any pool,
        are not encoded again.
    endpoint
        Where an encoder ``endpoint:MODEL`` is asked, with which key, and how patiently; its model
        does not count.

    Returns
    -------
    Index
        Ready to search. The log says which parts were built, and what had changed.

    Raises
    ------
    ValueError
        If the pool is empty, no passage has a word, or a model is not there.
    ModelError
        If the server of an encoder cannot be reached, or refuses.
    """
    if not len(pool):
        raise ValueError("the pool has no passages; there is nothing to search")
    temporary = tempfile.TemporaryDirectory(prefix="negfail_nb-index-") if folder is None else None
    if isinstance(folder, Place):
        cache = cache or folder.root / folder.name / "cache"
        folder = folder.root / folder.name / pool.content[:16]
    home = Path(temporary.name if temporary else folder)
    home.mkdir(parents=True, exist_ok=True)
    encoder = _open_encoder(settings, endpoint)
    with alone(home / "index", f"the index in {home}"):
        for name, plan in _plans(pool, settings, encoder).items():
            _ensure(home / name, plan, pool, encoder, Path(cache or home / "cache"))
        manifest = {"format": FORMAT, "corpus": pool.content, "settings": plain(settings)}
        write_json(home / MANIFEST, manifest)
    index = Index(pool, settings, home, _open_parts(pool, settings, home, encoder))
    index._temporary = temporary
    return index


def open_index(
    folder: str | Path, pool: PassagePool, endpoint: EndpointSettings = EndpointSettings()
) -> Index:
    """Open an index that `build_index` wrote, with the settings it was built with; ``endpoint`` as
    there.

    Raises
    ------
    ValueError
        If the folder holds no finished index, one of another corpus, or files that changed; the
        text names it.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder, "corpus", "settings")
    if not manifest:
        raise ValueError(
            f"{folder} holds no finished index: it has no readable {MANIFEST}; build it with "
            "build_index"
        )
    if manifest["corpus"] != pool.content:
        raise ValueError(
            f"{folder} is an index of another corpus; give its own pool, or build one with "
            "build_index"
        )
    try:
        settings = RetrievalSettings(**manifest["settings"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / MANIFEST}: settings: {error}; build the index again with build_index"
        ) from error
    encoder = _open_encoder(settings, endpoint)
    for name, plan in _plans(pool, settings, encoder).items():
        if changes := _changes(folder / name, plan):
            raise ValueError(
                f"{folder / name} cannot be used: {'; '.join(changes)}. Build it again with "
                "build_index"
            )
    return Index(pool, settings, folder, _open_parts(pool, settings, folder, encoder))


def _open_encoder(settings: RetrievalSettings, endpoint: EndpointSettings) -> AnyEncoder | None:
    return open_encoder(settings.encoder, endpoint) if "dense" in PARTS[settings.method] else None


def _plans(
    pool: PassagePool, settings: RetrievalSettings, encoder: AnyEncoder | None
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
    corpus = {"format": FORMAT, "corpus": pool.content, "passages": len(pool)}
    return {
        name: {**corpus, **wanted[name], "source": source_hash(f"benchmarking.{SOURCES[name]}")}
        for name in PARTS[settings.method]
    }


def _build(
    folder: Path, name: str, plan: Mapping[str, Any], pool: PassagePool, encoder: Any, cache: Path
) -> None:
    """Write one part into a folder."""
    if name == "bm25":
        build_lexical(pool, folder, plan["k1"], plan["b"])
    elif name == "dense":
        made = fingerprint([plan["weights"], {"source": plan["source"]}])[:16]
        build_dense(pool, folder, encoder, cache / made, plan["approximate"])
    else:
        build_links(pool).save(folder)


def _open_parts(
    pool: PassagePool, settings: RetrievalSettings, folder: Path, encoder: Any
) -> dict[str, Any]:
    opening = {
        "bm25": lambda path: Lexical(path, len(pool)),
        "dense": lambda path: Dense(path, encoder),
        "links": Links.open,
    }
    return {name: opening[name](folder / name) for name in PARTS[settings.method]}


def _ensure(
    folder: Path, plan: Mapping[str, Any], pool: PassagePool, encoder: Any, cache: Path
) -> None:
    """Build a part unless it is there as planned; who has the old one open keeps it."""
    changes = _changes(folder, plan)
    if not changes:
        return
    if folder.exists():
        logger.info("%s is built again: %s", folder, "; ".join(changes))
    part = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        _build(part, folder.name, plan, pool, encoder, cache)
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
    """Return in what a part differs from its plan, and which of its files changed."""
    manifest = _read_manifest(folder, "files")
    if not manifest:
        return [f"it has no readable {MANIFEST}"]
    files = manifest.pop("files")
    found = {
        name: file_hash(folder / name) if (folder / name).is_file() else None for name in files
    }
    return differences(manifest, dict(plan)) + differences(files, found)


def _read_manifest(folder: Path, *fields: str) -> dict[str, Any]:
    """Return a manifest of this format that has the fields; an empty one if there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return {}
    return manifest if manifest.keys() >= set(fields) else {}
