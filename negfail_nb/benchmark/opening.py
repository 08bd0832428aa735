"""06: the benchmark of a profile: its questions, pool and index are opened, and the grid of arms is played."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from negfail_nb.agents import open_agent
from negfail_nb.benchmark.arms.answers import read_answers
from negfail_nb.benchmark.arms.estimate import Estimate, estimate
from negfail_nb.benchmark.arms.grid import ANSWERS, benchmark
from negfail_nb.benchmark.arms.playing import expand_arms
from negfail_nb.benchmark.arms.reading import Benchmark
from negfail_nb.benchmark.arms.sitting import Agent
from negfail_nb.benchmark.corpora.pool import MemoryPool, Pool, read_passages
from negfail_nb.benchmark.corpora.questions import HUB, POCKET, Questions, load_questions
from negfail_nb.benchmark.corpora.records import PassagePool
from negfail_nb.benchmark.retrieval.index import build_index
from negfail_nb.collect import EndpointModel
from negfail_nb.profiles import Profile
from negfail_nb.runs import write_json
from negfail_nb.trajectory import Problem

COST, PROBLEMS = "cost.csv", "problems.json"


def open_questions(profile: Profile, home: Path = Path()) -> Questions:
    """Return the questions that a profile's benchmark asks, with the passages of their records."""
    settings = profile.benchmark
    source = settings.data if settings.data in (*HUB, POCKET) else home / settings.data
    return load_questions(source, limit=settings.questions, seed=settings.seed)


def open_pool(profile: Profile, questions: Questions, home: Path, folder: Path) -> PassagePool:
    """Return the passages that are searched: those of the profile's corpus, memory-mapped, or of the questions."""
    corpus = profile.benchmark.corpus
    if not corpus:
        return MemoryPool(questions.passages)
    made = folder / "pool"
    return Pool.open(made) if made.is_dir() else Pool.build(read_passages(home / corpus), made)


def open_reader(profile: Profile) -> Any:
    """Return who reads: the profile's endpoint, or a model on this machine."""
    settings = profile.benchmark
    if settings.player == "endpoint":
        return EndpointModel(profile.endpoint)
    return open_agent(replace(profile, model=replace(profile.model, name=settings.model or profile.model.name)))


def open_tokenizer(profile: Profile) -> Any:
    """Return the tokenizer that counts the tokens of contexts: of a served model, that of ``benchmark.model``."""
    from negfail_nb.train import load_tokenizer

    name = profile.benchmark.model or profile.model.name
    if not name:
        raise ValueError("benchmark.model is empty, and so is model.name; name the model whose tokenizer counts tokens")
    return load_tokenizer(replace(profile.model, name=name))


def estimate_grid(profile: Profile, home: Path = Path()) -> Estimate:
    """Return what the grid of a profile costs at most, without asking anything."""
    questions = open_questions(profile, home)
    labels = expand_arms(profile.benchmark.arms, profile.contexts.lengths)
    pool = MemoryPool(questions.passages)
    return estimate(labels, questions, profile.benchmark, pool, tokenizer=open_tokenizer(profile), live=profile.live)


def play_grid(profile: Profile, home: Path, folder: Path, open_tuned: Callable[[], Agent] | None = None) -> Benchmark:
    """Play the grid of a profile into a folder; called again, it goes on from there.

    Parameters
    ----------
    profile
        Its ``benchmark``, ``contexts`` and ``retrieval`` say what is asked, how; ``endpoint`` or ``model`` who reads.
    home
        The folder that paths in settings start from.
    folder
        Where answers, index and what was not asked go.
    open_tuned
        Returns who plays the arm ``agent``; ``None``: the reader itself.
    """
    settings = profile.benchmark
    questions = open_questions(profile, home)
    pool = open_pool(profile, questions, home, folder)
    made = benchmark(
        open_reader(profile),
        questions,
        settings=settings,
        pool=pool,
        index=build_index(pool, profile.retrieval, folder / "index"),
        tokenizer=open_tokenizer(profile),
        agent=open_tuned() if open_tuned and "agent" in settings.arms else Agent(live=profile.live),
        contexts=profile.contexts,
        folder=folder,
        budget=profile.budget,
    )
    made.cost.table.to_csv(folder / COST, index=False)
    write_json(folder / PROBLEMS, [[p.file, p.record, p.reason] for p in made.problems])
    return made


def read_grid(profile: Profile, home: Path, folder: Path) -> Benchmark:
    """Return what `play_grid` left in a folder."""
    import pandas as pd

    labels = expand_arms(profile.benchmark.arms, profile.contexts.lengths)
    questions = open_questions(profile, home)
    found = {answer.id: answer for answer in read_answers(folder / ANSWERS)}
    names = (f"{label}/{question.id}" for label in labels for question in questions)
    answers = tuple(found[name] for name in names if name in found)
    problems = json.loads((folder / PROBLEMS).read_text(encoding="utf-8"))
    cost = Estimate(pd.read_csv(folder / COST))
    return Benchmark(tuple(questions), labels, answers, tuple(Problem(*p) for p in problems), cost)
