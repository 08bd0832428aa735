"""BM25 over titles and texts, built block by block: millions of passages need little memory.

The scores are those of Lucene's formula, and the files are bm25s's (Lù, 2024): for each word the
passages that hold it and what it adds to their scores. bm25s reads them memory-mapped and scores,
with numba if it is installed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np

from negfail_nb.benchmarking.hits import Hits, best, stack
from negfail_nb.benchmarking.records import Passage, PassagePool

DATA = "data.csc.index.npy"
INDICES = "indices.csc.index.npy"
BORDERS = "indptr.csc.index.npy"
VOCABULARY = "vocab.index.json"
_WORD = re.compile(r"\w+")  # words of one letter too, as in "Vitamin C"
_BLOCK = 50_000  # passages that are counted at once
_MEMO = 1_000_000  # words whose stems are remembered
_COMPILED = 100_000  # passages from which compiling (seconds) pays


class Words:
    """Turns texts into numbers of words: lower case, English stems, no stop words.

    With ``grow``, new stems get a number; else they are left out.
    """

    def __init__(self, stems: dict[str, int], grow: bool = False) -> None:
        import Stemmer
        from bm25s.stopwords import STOPWORDS_EN

        self.stems, self._grow, self._stops = stems, grow, frozenset(STOPWORDS_EN)
        self._stemmer = Stemmer.Stemmer("english")  # of its own: one must not be shared by threads
        self._memo: dict[str, int] = {}

    def numbers(self, text: str) -> list[int]:
        """Return the numbers of a text's words, in order."""
        found = []
        for word in _WORD.findall(text.lower()):
            number = self._memo.get(word)
            found.append(self._look_up(word) if number is None else number)
        return [number for number in found if number >= 0]

    def _look_up(self, word: str) -> int:
        if len(self._memo) >= _MEMO:
            self._memo.clear()
        stem = self._stemmer.stemWord(word)
        if word in self._stops:
            number = -1
        elif self._grow:
            number = self.stems.setdefault(stem, len(self.stems))
        else:
            number = self.stems.get(stem, -1)
        self._memo[word] = number
        return number


class Lexical:
    """BM25 search over ``count`` passages; `build_lexical` wrote the files in ``folder``.

    A word counts once, however often a query repeats it. Passages that share no word with a query
    score 0.
    """

    def __init__(self, folder: Path, count: int) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # on import it sets itself to DEBUG
        self._bm25 = bm25s.BM25()
        self._bm25.load_scores(folder, num_docs=count, mmap=True)
        self._bm25.nonoccurrence_array = None
        self._threads = 1
        if count >= _COMPILED and find_spec("numba"):
            from numba import njit

            self._bm25.activate_numba_scorer()  # its option backend="numba" does not
            scorer = self._bm25._compute_relevance_from_scores
            if hasattr(scorer, "py_func"):  # compiled; now so that other threads run beside it
                self._bm25._compute_relevance_from_scores = njit(nogil=True)(scorer.py_func)
                self._threads = _cores()
        self._stems = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """Return the ``k`` best passages of each query."""
        words = Words(self._stems)
        asked = [words.numbers(query) for query in queries]
        if self._threads == 1:
            return stack([best(self._scores(query), k) for query in asked], k)
        with ThreadPoolExecutor(self._threads) as threads:
            return stack(list(threads.map(lambda query: best(self._scores(query), k), asked)), k)

    def word_scores(self, query: str, numbers: np.ndarray) -> np.ndarray:
        """Return the score of each different word of a query in some passages, float32, words x
        passages.

        The sum over the words is the passage's score. Words that no passage holds have no row.
        """
        words = list(dict.fromkeys(Words(self._stems).numbers(query)))
        found = np.array([self._word(word, numbers) for word in words], np.float32)
        return found.reshape(len(words), len(numbers))

    def _word(self, word: int, numbers: np.ndarray) -> np.ndarray:
        arrays = self._bm25.scores
        start, stop = map(int, arrays["indptr"][word : word + 2])  # no word is without a passage
        holding = arrays["indices"][start:stop]
        # Of another type, all of ``holding`` would be converted.
        wanted = np.asarray(numbers).astype(holding.dtype)
        places = np.minimum(np.searchsorted(holding, wanted), stop - start - 1)
        return np.where(holding[places] == wanted, arrays["data"][start:stop][places], 0)

    def _scores(self, words: Sequence[int]) -> np.ndarray:
        return self._bm25.get_scores_from_ids(list(dict.fromkeys(words)))


def build_lexical(pool: PassagePool, folder: Path, k1: float, b: float) -> None:
    """Write the BM25 scores of a pool's words; for a while also counts, 12 bytes per word and
    passage.
    """
    from tqdm.auto import tqdm

    words = Words({}, grow=True)
    lengths = np.zeros(len(pool), np.int32)
    bar = tqdm(pool, total=len(pool), desc="count words", unit="passage", leave=False)
    passages = iter(bar)
    with tempfile.TemporaryDirectory(dir=folder, prefix="counts-") as counts:
        blocks = [
            _count(islice(passages, _BLOCK), start, words, lengths, Path(counts))
            for start in range(0, len(pool), _BLOCK)
        ]
        if not words.stems:
            raise ValueError(
                f"none of the {len(pool)} passages has a word to search for; give others"
            )
        holding = sum(np.bincount(_load(block)[0], minlength=len(words.stems)) for block in blocks)
        idf = np.log(1 + (len(pool) - holding + 0.5) / (holding + 0.5))
        _write(blocks, folder, holding, idf, k1 * (1 - b + b * lengths / lengths.mean()))
    (folder / VOCABULARY).write_text(json.dumps(words.stems, ensure_ascii=False), encoding="utf-8")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(
    block: Iterable[Passage], start: int, words: Words, lengths: np.ndarray, folder: Path
) -> Path:
    """Count the words of a block; the file has word, passage and count, by word, then passage."""
    texts = [np.array(words.numbers(passage.searched), np.int64) for passage in block]
    sizes = [len(text) for text in texts]
    lengths[start : start + len(texts)] = sizes
    passages = np.repeat(np.arange(len(texts)), sizes)
    pairs, counts = np.unique(np.concatenate(texts) * _BLOCK + passages, return_counts=True)
    path = folder / f"{start}.npy"
    np.save(path, np.array([pairs // _BLOCK, pairs % _BLOCK + start, counts], np.int32))
    return path


def _load(block: Path) -> np.ndarray:
    return np.load(block, allow_pickle=False)


def _write(
    blocks: Sequence[Path], folder: Path, holding: np.ndarray, idf: np.ndarray, norms: np.ndarray
) -> None:
    """Write each block's scores into its words' lists; in the order of blocks, lists ascend."""
    borders = np.concatenate([[0], np.cumsum(holding)])
    np.save(folder / BORDERS, borders)
    cursor = borders[:-1].copy()
    for block in blocks:
        words, passages, counts = _load(block)
        firsts = np.flatnonzero(np.diff(words, prepend=-1))
        sizes = np.diff(firsts, append=len(words))
        places = np.repeat(cursor[words[firsts]] - firsts, sizes) + np.arange(len(words))
        cursor[words[firsts]] += sizes
        scores = idf[words] * counts / (norms[passages] + counts)
        # Mapped anew for each block: what was written need not stay in memory.
        _array(folder / DATA, np.float32, borders[-1])[places] = scores
        _array(folder / INDICES, np.int32, borders[-1])[places] = passages


def _array(path: Path, dtype: type, size: int) -> np.ndarray:
    mode = "r+" if path.exists() else "w+"
    return np.lib.format.open_memmap(path, mode, dtype, (int(size),))
