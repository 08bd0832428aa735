"""06: the benchmark of a profile: its questions, pool and index are opened, and the grid of arms is
played.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from negfail_nb.agents import EndpointModel
from negfail_nb.agents.opening import open_agent
from negfail_nb.benchmarking.arms import expand_arms
from negfail_nb.benchmarking.costs import Estimate, estimate
from negfail_nb.benchmarking.grid import benchmark, open_benchmark
from negfail_nb.benchmarking.index import build_index
from negfail_nb.benchmarking.pools import MemoryPool, Pool, read_passages
from negfail_nb.benchmarking.question_run import Agent
from negfail_nb.benchmarking.questions import HUB, POCKET, Questions, load_questions
from negfail_nb.benchmarking.records import PassagePool
from negfail_nb.benchmarking.scores import Benchmark
from negfail_nb.runs import NotWhole, file_hash
from negfail_nb.settings import ModelSettings, Profile

LONG, GRID = "long_context", "grid"

logger = logging.getLogger("negfail_nb")


def open_questions(profile: Profile, home: Path = Path()) -> Questions:
    """Return the questions that a profile's benchmark asks, with the passages of their records."""
    settings = profile.benchmark
    source = settings.data if settings.data in (*HUB, POCKET) else home / settings.data
    return load_questions(source, limit=settings.questions, seed=settings.seed)


def open_pool(profile: Profile, questions: Questions, home: Path, folder: Path) -> PassagePool:
    """Return the passages that are searched: those of the profile's corpus, memory-mapped, or of
    the questions.

    A pool of the same corpus is opened where it is whole, and else built anew.
    """
    if not profile.benchmark.corpus:
        return MemoryPool(questions.passages)
    corpus = home / profile.benchmark.corpus
    made = folder / "pool" / file_hash(corpus)[:16]
    try:
        return Pool.open(made)
    except ValueError as reason:
        logger.info("the pool of %s is built: %s", corpus, reason)
        return Pool.build(read_passages(corpus), made)


def open_reader(profile: Profile, home: Path = Path()) -> Any:
    """Return who reads: the profile's endpoint, or a model on this machine.

    Raises
    ------
    ValueError
        Where no setting names the model.
    """
    if profile.benchmark.player == "endpoint":
        return EndpointModel(profile.endpoint)
    return open_agent(replace(profile, model=reader_settings(profile, home)))


def open_tokenizer(profile: Profile, home: Path = Path()) -> Any:
    """Return the tokenizer of who reads; ``None`` where no setting names one, and no arm counts
    tokens.

    Raises
    ------
    ValueError
        Where no setting names the model, and there are long contexts to fill.
    """
    from negfail_nb.training import load_tokenizer

    settings = profile.benchmark
    long = any(arm.startswith(LONG) for arm in settings.arms)
    if settings.player == "endpoint" and not long and not _reader_name(profile):
        return None
    return load_tokenizer(reader_settings(profile, home))


def open_window(profile: Profile, home: Path = Path()) -> int | None:
    """Return how many tokens a served model takes, as its own config says; ``None``: the model
    itself knows.

    Without it, a length that the model cannot take would cost one refused request a question.
    """
    if profile.benchmark.player != "endpoint" or not _reader_name(profile):
        return None
    from transformers import AutoConfig

    from negfail_nb.training.model import PACKAGED

    name = reader_settings(profile, home).name
    place = PACKAGED.get(name, os.path.expanduser(name))
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False).get_text_config()
    except (OSError, ValueError) as error:
        logger.warning(
            "%s has no config that could be read, so the lengths are not checked: %s", name, error
        )
        return None
    return getattr(config, "max_position_embeddings", None)


def reader_settings(profile: Profile, home: Path = Path()) -> ModelSettings:
    """Return which model reads; of a served one, the hub id or folder whose tokenizer counts its
    tokens.

    Raises
    ------
    ValueError
        Where neither ``benchmark.model`` nor ``model.name`` names one.
    """
    name = _reader_name(profile)
    if not name:
        what = "which model reads"
        if profile.benchmark.player == "endpoint":
            what = f"the model whose tokenizer counts the tokens of {profile.endpoint.model or 'the endpoint'}"
        raise ValueError(
            f"benchmark.model is empty, and so is model.name; name {what}: a hub id or a folder"
        )
    folder = home / name
    return replace(profile.model, name=str(folder) if folder.is_dir() else name)


def _reader_name(profile: Profile) -> str:
    return profile.benchmark.model or profile.model.name


def estimate_grid(profile: Profile, home: Path = Path()) -> Estimate:
    """Return what the grid of a profile costs at most, without asking anything."""
    questions = open_questions(profile, home)
    labels = expand_arms(profile.benchmark.arms, profile.contexts.lengths)
    pool, tokenizer = MemoryPool(questions.passages), open_tokenizer(profile, home)
    return estimate(
        labels, questions, profile.reading, pool, tokenizer=tokenizer, live=profile.live
    )


def play_grid(
    profile: Profile, home: Path, folder: Path, open_tuned: Callable[[], Agent] | None = None
) -> Benchmark:
    """Play the grid of a profile into a folder; called again, it goes on from there.

    Parameters
    ----------
    profile
        ``benchmark``, ``reading``, ``contexts`` and ``retrieval`` say what is asked, and how;
        ``endpoint`` or ``model`` who reads.
    home
        The folder that paths in settings start from.
    folder
        Where answers, index and what was not asked go.
    open_tuned
        Returns who plays the arm ``agent``; ``None``: the reader itself.

    Raises
    ------
    ValueError
        Where no setting names the model, and as `negfail_nb.benchmarking.grid.benchmark` does.
    NotWhole
        Where the budget did not reach for all questions. Raise it and call again: nothing is asked
        twice.
    """
    # What may be missing is opened before the index is built, which can take hours.
    reader, tokenizer, window = (
        opened(profile, home) for opened in (open_reader, open_tokenizer, open_window)
    )
    questions = open_questions(profile, home)
    pool = open_pool(profile, questions, home, folder)
    agent = Agent(live=profile.live, thoughts=profile.prefix.thoughts)
    made = benchmark(
        reader,
        questions,
        profile.benchmark.arms,
        profile.reading,
        pool=pool,
        index=build_index(pool, profile.retrieval, folder / "index"),
        tokenizer=tokenizer,
        window=window,
        agent=open_tuned() if open_tuned and "agent" in profile.benchmark.arms else agent,
        contexts=profile.contexts,
        folder=folder / GRID,
        budget=profile.budget,
    )
    if made.problems:  # a grid that is not whole must not pass for a finished stage
        raise NotWhole(f"the grid is not whole; its answers are kept. {made.problems[0]}")
    return made


def read_grid(profile: Profile, home: Path, folder: Path) -> Benchmark:
    """Return what `play_grid` left in a folder."""
    return open_benchmark(folder / GRID)
