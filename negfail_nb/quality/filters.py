"""Which trajectories are left out, and why: each filter is one small function, applied in order.

A filter takes the cases that are left and returns the reason for each one that goes, by position.
None of them depends on the order of its input: of several that are alike, the one whose id sorts
first stays.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm.auto import tqdm

from negfail_nb.data_sets import named_part, read_data_set
from negfail_nb.duplicates import SimilarQuestions, SimilarSets, closest_overlap, rank, shingles
from negfail_nb.quality.answers import contradiction
from negfail_nb.quality.cases import Case
from negfail_nb.quality.failures import agent_text
from negfail_nb.settings import QualitySettings
from negfail_nb.stored import take

CHARS_PER_TOKEN = 3.5  # of English text and code; with fewer, set a smaller window


@dataclass(frozen=True)
class Context:
    """What a filter may look at beside the cases: settings, and all questions that were solved."""

    settings: QualitySettings
    solved: frozenset[str]

    @cached_property
    def evaluation(self) -> tuple[list[tuple[str, str]], SimilarQuestions]:
        """The evaluation questions with their places, and an index of them."""
        known = read_questions(self.settings.evaluation)
        texts = (question for question, _ in known)
        return known, SimilarQuestions(self.settings.leak_similarity, texts)


Apply = Callable[[Sequence[Case], Context], dict[int, str]]


@dataclass(frozen=True, slots=True)
class Filter:
    """A named filter.

    Attributes
    ----------
    settings
        Names of the settings that it reads.
    switch
        The setting that switches it off if it is 0 or empty, by default the first; ``""``: it is
        always on.
    apply
        Returns the reason for each case that goes, by position.
    across
        Whether it compares runs of different questions. One that does not may be given the runs of
        some questions at a time, when there are more of them than memory holds.
    """

    name: str
    description: str
    settings: tuple[str, ...]
    switch: str
    apply: Apply
    across: bool = True

    def active(self, settings: QualitySettings) -> bool:
        """Whether the settings switch it on."""
        return not self.switch or bool(getattr(settings, self.switch))

    def setting(self, settings: QualitySettings) -> str:
        """Return its settings as text, ``"off"`` if it is switched off."""
        if not self.active(settings):
            return "off"
        return ", ".join(f"{name}={getattr(settings, name)!r}" for name in self.settings)


FILTERS: list[Filter] = []


def quality_filter(
    *settings: str, switch: str = "", across: bool = True
) -> Callable[[Apply], Apply]:
    """Register a filter behind the others, with the names of the settings that it reads.

    The function's name names the filter, its docstring describes it; see `Filter`.
    """

    def register(apply: Apply) -> Apply:
        description = " ".join((apply.__doc__ or "").split())
        switched = switch or "".join(settings[:1])
        FILTERS.append(Filter(apply.__name__, description, settings, switched, apply, across))
        return apply

    return register


@quality_filter(across=False)
def no_model_turn(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """No turn of the model: nothing to train on."""
    return {i: "has no assistant message" for i, c in enumerate(cases) if c.finding.turns == 0}


@quality_filter(across=False)
def unlabelled(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """Nobody knows whether it succeeded."""
    reason = "no label, and no answer that could be judged"
    return {i: reason for i, c in enumerate(cases) if c.finding.outcome == "unlabelled"}


@quality_filter("check_labels", across=False)
def mislabelled(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """The log's label contradicts its answer: it would teach that a right answer is wrong, or
    the reverse.
    """
    return {i: reason for i, c in enumerate(cases) if (reason := contradiction(c.trajectory))}


@quality_filter(across=False)
def unparseable(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """No valid action at all, and no answer."""
    reasons = {}
    for i, case in enumerate(cases):
        found = case.finding
        # A run that ended as its log says, without ever acting, is a conversation.
        chat = not found.actions and found.termination == "finished"
        if found.errors == found.actions and found.prediction is None and not chat:
            reasons[i] = f"{found.turns} turns, none with a valid action"
    return reasons


@quality_filter("window_tokens", across=False)
def too_long(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """Longer than the window; tokens are estimated from characters."""
    limit = context.settings.window_tokens
    lengths = {i: c.finding.characters for i, c in enumerate(cases)}
    return {
        i: f"about {length / CHARS_PER_TOKEN:.0f} tokens ({length} characters), window {limit}"
        for i, length in lengths.items()
        if length / CHARS_PER_TOKEN > limit
    }


@quality_filter("evaluation", "leak_similarity", across=False)
def leakage(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """Its question is, or nearly is, one of the evaluation questions."""
    known, index = context.evaluation
    leaked: dict[str, str] = {}
    asked = {c.text: (c.key, c.trajectory.question) for c in cases if c.trajectory.question.strip()}
    for key, question in asked.values():
        if key not in leaked and (found := index.similar(question)):
            number, similarity = max(found, key=lambda hit: (hit[1], -hit[0]))
            leaked[key] = f"similarity {similarity:.2f} to {known[number][1]}: {known[number][0]!r}"
    return {i: leaked[c.key] for i, c in enumerate(cases) if c.key in leaked}


@quality_filter("failure_temperatures", across=False)
def failure_temperatures(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """A failure that was sampled at another temperature, or nobody knows at which."""
    lowest, highest = context.settings.failure_temperatures
    failures = {
        i: c.trajectory.source.temperature
        for i, c in enumerate(cases)
        if c.finding.outcome == "failure"
    }
    return {
        i: f"sampled at temperature {'unknown' if value is None else f'{value:g}'}"
        for i, value in failures.items()
        if value is None or not lowest <= value <= highest
    }


@quality_filter(switch="near_duplicate", across=False)
def exact_duplicate(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """Same question, same outcome, and the agent wrote the same."""
    first: dict[tuple[str, bytes], str] = {}
    removed = {}
    for i in _by_id(cases):
        kept = first.setdefault((cases[i].task, cases[i].digest), cases[i].trajectory.id)
        if kept != cases[i].trajectory.id:
            removed[i] = f"the agent wrote the same in {kept!r}"
    return removed


@quality_filter("near_duplicate", across=False)
def near_duplicate(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """Same question, same outcome, and the agent wrote nearly the same (Jaccard of word
    triples).
    """
    alike: dict[tuple[str, str], SimilarSets] = {}
    kept: dict[tuple[str, str], list[str]] = defaultdict(list)
    removed = {}
    for i in tqdm(_by_id(cases), desc="near duplicates", unit="trajectory", leave=False, delay=1):
        item = cases[i]
        values = shingles(agent_text(item.trajectory).lower().split())
        if not len(values):
            continue
        group = item.finding.outcome, item.task
        index = alike.setdefault(group, SimilarSets(context.settings.near_duplicate))
        if found := index.similar(values):
            number, similarity = found[0]
            removed[i] = f"similarity {similarity:.2f} to {kept[group][number]!r}"
        else:
            index.add(values)
            kept[group].append(item.trajectory.id)
    return removed


@quality_filter("solved_overlap")
def solved_overlap(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """A failure whose question is too far from every question that some run solved."""
    failures = {i: c.key for i, c in enumerate(cases) if c.finding.outcome == "failure"}
    unsolved = sorted(set(failures.values()) - context.solved)
    overlaps = dict(zip(unsolved, closest_overlap(unsolved, sorted(context.solved)), strict=True))
    return {
        i: f"word overlap {overlaps[key]:.2f} with the closest solved question"
        for i, key in failures.items()
        if overlaps.get(key, 1.0) < context.settings.solved_overlap
    }


@quality_filter("min_score", across=False)
def min_score(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """A failure that did not get far enough."""
    return {
        i: f"quality score {c.finding.score:.2f}"
        for i, c in enumerate(cases)
        if c.finding.score is not None and c.finding.score < context.settings.min_score
    }


@quality_filter("cap_question", "seed", across=False)
def cap_question(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """More than enough trajectories of its question and outcome; which stay is drawn by seed."""
    limit = context.settings.cap_question
    groups = [(c.task, c.finding.outcome) for c in cases]
    return _surplus(
        cases, groups, limit, context, f"the question has {limit} others with this outcome"
    )


@quality_filter("cap_source", "seed")
def cap_source(cases: Sequence[Case], context: Context) -> dict[int, str]:
    """More than enough trajectories of its model; which stay is drawn by seed."""
    limit = context.settings.cap_source
    groups = [c.finding.model for c in cases]
    return _surplus(cases, groups, limit, context, f"the model has {limit} others")


def _surplus(
    cases: Sequence[Case], groups: Sequence[object], limit: int, context: Context, reason: str
) -> dict[int, str]:
    members = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    seed = context.settings.seed
    ranks = [rank(seed, c.trajectory.id) for c in cases]
    drawn = (sorted(m, key=ranks.__getitem__) for m in members.values())
    return {i: reason for order in drawn for i in order[limit:]}


def _by_id(cases: Sequence[Case]) -> list[int]:
    return sorted(range(len(cases)), key=lambda i: cases[i].trajectory.id)


def apply_filters(
    cases: Sequence[Case], context: Context, steps: Sequence[Filter]
) -> Iterator[tuple[Filter, Sequence[Case], dict[int, str]]]:
    """Yield each filter, the cases that are left before it, and why some of them go, by place."""
    for step in steps:
        active = step.active(context.settings) and len(cases)
        reasons = step.apply(cases, context) if active else {}
        yield step, cases, reasons
        if reasons:
            cases = take(cases, [i for i in range(len(cases)) if i not in reasons])


def read_questions(sources: Sequence[str]) -> list[tuple[str, str]]:
    """Read evaluation questions from JSON lists or JSON lines of records with a "question".

    Parameters
    ----------
    sources
        Files; or names of data sets, ``"svamp"`` (its test part) or ``"svamp/train"``, see
        `negfail_nb.data_sets.read_data_set`.

    Returns
    -------
    list
        ``(question, file name and record number)``.

    Raises
    ------
    ValueError
        If a file is missing, is not JSON, or holds a record without a question; the text names file
        and record. Also if a record of a data set cannot be read: it could not be kept apart.
    """
    found = []
    for source in sources:
        found += _of_data_set(source) if named_part(source) else _of_file(Path(source))
    return found


def _of_data_set(name: str) -> list[tuple[str, str]]:
    read = read_data_set(name)
    if read.problems:
        raise ValueError(f"{name}, an evaluation data set: {read.problems[0]}")
    return [(record["question"], f"{name}:{where}") for where, record in read.items]


def _of_file(path: Path) -> list[tuple[str, str]]:
    found = []
    for number, record in enumerate(_records(path), 1):
        question = record.get("question") if isinstance(record, Mapping) else None
        if not isinstance(question, str) or not question.strip():
            raise ValueError(
                f"{path}: record {number} has no text under 'question'; every record needs one"
            )
        found.append((question, f"{path.name}:{number}"))
    return found


def _records(path: Path) -> list:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot read the evaluation questions: {error}; correct `evaluation`"
        ) from error
    try:
        if content.lstrip().startswith("["):
            return json.loads(content)
        # Not splitlines(): U+2028 and U+0085 may stand raw in a JSON string.
        return [json.loads(line) for line in content.split("\n") if line.strip()]
    except ValueError as error:
        raise ValueError(
            f"{path}: not JSON: {error}; `evaluation` takes a JSON list, or a JSON record per line"
        ) from error
