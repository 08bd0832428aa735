"""`render` for more trajectories than memory holds: the same, some at a time, into files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from negfail_nb import runs
from negfail_nb.prefix.example import Example
from negfail_nb.prefix.example_files import EXAMPLES
from negfail_nb.prefix.tokens import vocabulary_hash
from negfail_nb.source import source_hash
from negfail_nb.stored import Parts, Stored, announce, json_codec, json_lines, take
from negfail_nb.trajectory import Problem, Trajectory, jsonable

UNIT = 4096  # trajectories that are rendered before the next are read
SAMPLE = 256  # trajectories that time and room are estimated from
SKIPPED = json_codec(lambda values: Problem(**values), jsonable)

Make = Callable[[Iterable[Trajectory]], Iterator[Example | Problem]]


def render_stored(
    trajectories: Sequence[Trajectory],
    make: Make,
    settings: dict[str, Any],
    tokenizer: Any,
    folder: str | Path | runs.Place,
) -> tuple[Stored, Stored]:
    """Render trajectories with ``make`` into a folder; return the examples and what was skipped."""
    inputs = {"trajectories": _Content(trajectories), "tokenizer": _Tokenizer(tokenizer)}

    def compute(run: runs.Run) -> dict[str, Any]:
        return _render(trajectories, make, run.folder)

    run = runs.make(folder, settings, compute, inputs, source_hash("prefix.rendering"))
    return Stored(run.path("examples"), EXAMPLES), Stored(run.path("skipped"), SKIPPED)


class _Content:
    """Trajectories as an input with a hash."""

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        known = getattr(trajectories, "content", None)
        digest = hashlib.sha256()
        for line in () if known else json_lines(trajectories):
            digest.update(line + b"\n")
        self.content = known or digest.hexdigest()


class _Tokenizer:
    """A tokenizer as an input with a hash, over all that makes ids of text."""

    def __init__(self, tokenizer: Any) -> None:
        whole = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else ""
        texts = (whole, vocabulary_hash(tokenizer), str(getattr(tokenizer, "chat_template", "")))
        self.content = hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _render(trajectories: Sequence[Trajectory], make: Make, folder: Path) -> dict[str, Any]:
    examples = Parts(folder / "examples", EXAMPLES)
    skipped = Parts(folder / "skipped", SKIPPED)
    starts = range(0, len(trajectories), UNIT)
    names = [f"{number:05}" for number in range(len(starts))]
    waiting = {n for n in names if examples.note(n) is None or skipped.note(n) is None}
    if waiting:
        _announce(trajectories, make, min(len(trajectories), UNIT * len(waiting)), folder)
    counts = [0, 0]
    with tqdm(total=len(trajectories), desc="render", unit="trajectory", leave=False) as progress:
        for name, start in zip(names, starts, strict=True):
            rows = range(start, min(start + UNIT, len(trajectories)))
            if name in waiting:
                left: list[Problem] = []
                made = make(take(trajectories, rows))
                examples.write(name, _examples(made, left))
                skipped.write(name, left)
            for place, parts in enumerate((examples, skipped)):
                counts[place] += parts.note(name)["records"]
            progress.update(len(rows))
    return {"examples": counts[0], "skipped": counts[1]}


def _examples(made: Iterable[Example | Problem], left: list[Problem]) -> Iterator[Example]:
    for one in made:
        if isinstance(one, Problem):
            left.append(one)
        else:
            yield one


def _announce(trajectories: Sequence[Trajectory], make: Make, waiting: int, folder: Path) -> None:
    """Say how long it will take, and whether it fits, before it begins."""
    rows = np.linspace(0, len(trajectories) - 1, min(SAMPLE, len(trajectories)), dtype=np.int64)
    some = take(trajectories, rows)
    began = time.perf_counter()
    size = sum(_size(one) for one in make(some) if isinstance(one, Example)) / len(rows)
    seconds = waiting * (time.perf_counter() - began) / len(rows)
    announce(f"rendering {waiting:,} trajectories", seconds, size * waiting, folder)


def _size(example: Example) -> int:
    told = (verdict[-1] for verdict in example.verdicts)
    written = (part for turn in example.turns for part in turn)
    texts = sum(map(len, (*example.thoughts, *written, *told)))
    return 2 * example.input_ids.nbytes + texts + 2 * len(example.label) + 100
