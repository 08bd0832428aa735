"""Worlds of any size in little memory: entities made when they are asked for, passages one after
the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

from negfail_nb.pocket.passages import Passage, write_passage
from negfail_nb.pocket.world import Entity, World, check_world, make_entity
from negfail_nb.trajectory import write_lines


class LazyEntities(Sequence[Entity]):
    """The entities of a world, each made when it is asked for; those asked for last are kept.

    Parameters
    ----------
    entities, seed, split
        As for `make_world`.
    keep
        How many are kept.
    """

    def __init__(self, entities: int, seed: int, split: str = "", keep: int = 4096) -> None:
        check_world(entities, split)
        self._indexes = range(entities)
        self._make = lru_cache(keep)(
            partial(make_entity, entities=entities, seed=seed, split=split)
        )

    def __len__(self) -> int:
        return len(self._indexes)

    def __getitem__(self, index):
        at = self._indexes[index]
        return tuple(map(self._make, at)) if isinstance(at, range) else self._make(at)


def lazy_world(entities: int, seed: int, split: str = "") -> World:
    """Return the world that `make_world` makes, without making its entities; the errors are the
    same.

    Questions need a walk over all entities only where their forms include ``"yes_no"``.
    """
    return World(LazyEntities(entities, seed, split), seed, split)


def stream_passages(entities: int, seed: int, split: str = "") -> Iterator[Passage]:
    """Return the passages of a world in the order of its entities, each written when it is taken.

    They are those that `write_passage` writes for ``make_world(entities, seed, split)``, in memory
    that does not grow with the world; the errors are those of `make_world`.
    """
    world = lazy_world(entities, seed, split)
    return (write_passage(world, index) for index in range(entities))


def write_passages(path: str | Path, entities: int, seed: int, split: str = "") -> Path:
    """Write the passages of a world as a corpus: one JSON line a passage, with ``title`` and
    ``text``.

    Parameters
    ----------
    path
        The file; it appears whole or not at all.
    entities, seed, split
        As for `make_world`, and with its errors.

    Returns
    -------
    Path
        The file written, which `load_corpus` and the search tool read.
    """
    from tqdm.auto import tqdm

    passages = stream_passages(entities, seed, split)
    progress = tqdm(passages, desc="passages", unit="passage", total=entities, leave=False)
    return write_lines(
        path, ({"title": passage.title, "text": passage.text} for passage in progress)
    )
