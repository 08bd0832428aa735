"""What can be read about the world: a passage for each entity, one at a time or as a corpus."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from negfail_nb.pocket.wordings import words
from negfail_nb.pocket.world import FACTS, World, lazy_world, pick, stream
from negfail_nb.trajectory import write_lines

_NUMBERS = range(2, 61)
_TIMES = range(1950, 2023)


@dataclass(frozen=True, slots=True)
class Passage:
    """A text about one entity: title, sentences, and the sentence that states each relation."""

    entity: int
    title: str
    sentences: tuple[str, ...]
    where: Mapping[str, int]

    @property
    def text(self) -> str:
        """The sentences as one text. As in HotpotQA, each but the first begins with its space."""
        return "".join(self.sentences)


def write_passage(world: World, index: int) -> Passage:
    """Write the passage of one entity: each of its facts in one of several wordings, and two
    distracting sentences.
    """
    entity = world.entities[index]
    rng = stream(world.seed, index, 1)
    first, *rest = FACTS[entity.kind]
    sentences = []
    where = {}
    for relation in (first, *_shuffled((*rest, *_shuffled(words("asides"), rng)[:2]), rng)):
        subject = entity.name if not sentences else pick(_subjects(entity.kind, entity.name), rng)
        if relation in entity.values:
            where[relation] = len(sentences)
            link = entity.links.get(relation)
            value = entity.values[relation] if link is None else world.mention(link)
            sentence = pick(words("sentences")[relation], rng).format(x=subject, v=value)
        else:
            other = world.mention(world.another(index, rng)).removeprefix(f"the {entity.kind} ")
            sentence = relation.format(
                x=subject, y=other, n=pick(_NUMBERS, rng), t=pick(_TIMES, rng)
            )
        sentences.append(sentence[0].upper() + sentence[1:])
    return Passage(index, entity.title, (sentences[0], *(" " + s for s in sentences[1:])), where)


def _shuffled(items: Sequence[str], rng: random.Random) -> list[str]:
    return sorted(items, key=lambda _: rng.random())


def _subjects(kind: str, name: str) -> tuple[str, str]:
    return (name, name.split()[-1]) if kind == "person" else (name, f"the {kind}")


def stream_passages(entities: int, seed: int, split: str = "") -> Iterator[Passage]:
    """Return the passages of ``make_world(entities, seed, split)`` in order, each written when it
    is taken: memory does not grow with the world. The errors are those of `make_world`.
    """
    world = lazy_world(entities, seed, split)
    return (write_passage(world, index) for index in range(entities))


def write_passages(path: str | Path, entities: int, seed: int, split: str = "") -> Path:
    """Write the passages of a world as a corpus that `load_corpus` and the search tool read: one
    JSON line per passage, with ``title`` and ``text``. Return the file.

    Parameters
    ----------
    path
        The file; it appears whole or not at all.
    entities, seed, split
        As for `make_world`, with its errors.
    """
    from tqdm.auto import tqdm

    passages = stream_passages(entities, seed, split)
    progress = tqdm(passages, desc="passages", unit="passage", total=entities, leave=False)
    return write_lines(
        path, ({"title": passage.title, "text": passage.text} for passage in progress)
    )
