"""Which trajectories are left out, and why: each filter a small named thing, applied in order.

A filter takes the cases that are left and returns the reason for each one that goes, by position.
None of them depends on the order of its input: of several that are alike, the one whose id sorts
first stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from tqdm.auto import tqdm

from negfail_nb.quality.cases import Case
from negfail_nb.quality.duplicates import SimilarQuestions, SimilarSets, closest_overlap, shingles
from negfail_nb.quality.failures import agent_text
from negfail_nb.quality.labels import contradiction
from negfail_nb.quality.questions import read_questions
from negfail_nb.quality.split import rank
from negfail_nb.settings import QualitySettings

Reasons = dict[int, str]


@dataclass(frozen=True, slots=True)
class Context:
    """What a filter may look at beside the cases that are left: the settings, and all questions
    some run solved.
    """

    settings: QualitySettings
    solved: frozenset[str]


@dataclass(frozen=True, slots=True)
class Filter:
    """A named filter.

    Attributes
    ----------
    settings
        Names of the settings that it reads; empty where it has none.
    active
        Whether the settings switch it on.
    apply
        Returns the reason for each case that goes, by position.
    """

    name: str
    description: str
    settings: tuple[str, ...]
    active: Callable[[QualitySettings], bool]
    apply: Callable[[Sequence[Case], Context], Reasons]

    def setting(self, settings: QualitySettings) -> str:
        """Return its settings as text, ``"off"`` where it is switched off."""
        if not self.active(settings):
            return "off"
        return ", ".join(f"{name}={getattr(settings, name)!r}" for name in self.settings)


def _no_model_turn(cases: Sequence[Case], context: Context) -> Reasons:
    return {i: "has no assistant message" for i, c in enumerate(cases) if c.finding.turns == 0}


def _unlabelled(cases: Sequence[Case], context: Context) -> Reasons:
    return {
        i: "no label, and no answer that could be judged"
        for i, c in enumerate(cases)
        if c.finding.outcome == "unlabelled"
    }


def _mislabelled(cases: Sequence[Case], context: Context) -> Reasons:
    return {i: reason for i, c in enumerate(cases) if (reason := contradiction(c.trajectory))}


def _unparseable(cases: Sequence[Case], context: Context) -> Reasons:
    return {
        i: f"{c.finding.turns} turns, none with a valid action"
        for i, c in enumerate(cases)
        if c.finding.errors == c.finding.actions
        and c.trajectory.prediction is None
        and not _is_chat(c)
    }


def _is_chat(case: Case) -> bool:
    """Whether the run ended as its log says, without ever acting: a conversation, not a broken
    action.
    """
    return not case.finding.actions and case.trajectory.termination == "finished"


def _too_long(cases: Sequence[Case], context: Context) -> Reasons:
    limit, per_token = context.settings.window_tokens, context.settings.chars_per_token
    return {
        i: f"about {c.finding.characters / per_token:.0f} tokens ({c.finding.characters} characters), window {limit}"
        for i, c in enumerate(cases)
        if c.finding.characters / per_token > limit
    }


def _leakage(cases: Sequence[Case], context: Context) -> Reasons:
    known = read_questions(context.settings.evaluation)
    index = SimilarQuestions(context.settings.leak_similarity, (question for question, _ in known))
    leaked: dict[str, str] = {}
    asked = {c.text: (c.key, c.trajectory.question) for c in cases if c.trajectory.question.strip()}
    for key, question in asked.values():
        if key not in leaked and (found := index.similar(question)):
            number, similarity = max(found, key=lambda hit: (hit[1], -hit[0]))
            leaked[key] = f"similarity {similarity:.2f} to {known[number][1]}: {known[number][0]!r}"
    return {i: leaked[c.key] for i, c in enumerate(cases) if c.key in leaked}


def _exact_duplicate(cases: Sequence[Case], context: Context) -> Reasons:
    first: dict[tuple[str, bytes], str] = {}
    removed = {}
    for i in _by_id(cases):
        kept = first.setdefault((cases[i].task, cases[i].digest), cases[i].trajectory.id)
        if kept != cases[i].trajectory.id:
            removed[i] = f"the agent wrote the same in {kept!r}"
    return removed


def _near_duplicate(cases: Sequence[Case], context: Context) -> Reasons:
    index = SimilarSets(context.settings.near_duplicate)
    kept: list[str] = []
    removed = {}
    for i in tqdm(_by_id(cases), desc="near duplicates", unit="trajectory", leave=False):
        item = cases[i]
        salt = blake2b(
            f"{item.finding.outcome} {item.task}".encode("utf-8", "surrogatepass"), digest_size=8
        ).digest()
        words = agent_text(item.trajectory).lower().split()
        values = shingles(words, salt=int.from_bytes(salt, "little"))
        if not len(values):
            continue
        if found := index.similar(values):
            number, similarity = found[0]
            removed[i] = f"similarity {similarity:.2f} to {kept[number]!r}"
        else:
            index.add(values)
            kept.append(item.trajectory.id)
    return removed


def _solved_overlap(cases: Sequence[Case], context: Context) -> Reasons:
    failed = {c.key: c.trajectory.question for c in cases if c.finding.outcome == "failure"}
    open_keys = sorted(failed.keys() - context.solved)
    overlaps = dict(zip(open_keys, closest_overlap(open_keys, sorted(context.solved)), strict=True))
    wanted = context.settings.solved_overlap
    return {
        i: f"word overlap {overlaps[c.key]:.2f} with the closest solved question"
        for i, c in enumerate(cases)
        if c.finding.outcome == "failure" and overlaps.get(c.key, 1.0) < wanted
    }


def _min_score(cases: Sequence[Case], context: Context) -> Reasons:
    return {
        i: f"quality score {c.finding.score:.2f}"
        for i, c in enumerate(cases)
        if c.finding.score is not None and c.finding.score < context.settings.min_score
    }


def _cap_question(cases: Sequence[Case], context: Context) -> Reasons:
    limit = context.settings.cap_question
    reason = f"the question has {limit} others with this outcome"
    return _cap(cases, limit, context.settings.seed, lambda c: (c.task, c.finding.outcome), reason)


def _cap_source(cases: Sequence[Case], context: Context) -> Reasons:
    limit = context.settings.cap_source
    return _cap(
        cases,
        limit,
        context.settings.seed,
        lambda c: c.finding.model,
        f"the model has {limit} others",
    )


def _by_id(cases: Sequence[Case]) -> list[int]:
    return sorted(range(len(cases)), key=lambda i: cases[i].trajectory.id)


def _cap(
    cases: Sequence[Case], limit: int, seed: int, group: Callable[[Case], object], reason: str
) -> Reasons:
    groups = defaultdict(list)
    for i, item in enumerate(cases):
        groups[group(item)].append(i)
    surplus = (
        sorted(g, key=lambda i: rank(seed, cases[i].trajectory.id))[limit:] for g in groups.values()
    )
    return {i: reason for indices in surplus for i in indices}


def _always(settings: QualitySettings) -> bool:
    return True


def _deduplicating(settings: QualitySettings) -> bool:
    return settings.near_duplicate > 0


def _given(name: str) -> Callable[[QualitySettings], bool]:
    return lambda settings: bool(getattr(settings, name))


FILTERS: tuple[Filter, ...] = (
    Filter(
        "no_model_turn", "No turn of the model: nothing to train on.", (), _always, _no_model_turn
    ),
    Filter("unlabelled", "Nobody knows whether it succeeded.", (), _always, _unlabelled),
    Filter(
        "mislabelled",
        "The log's label contradicts its answer: it would teach that a right answer is wrong, or the reverse.",
        ("check_labels",),
        _given("check_labels"),
        _mislabelled,
    ),
    Filter("unparseable", "No valid action at all, and no answer.", (), _always, _unparseable),
    Filter(
        "too_long",
        "Longer than the window; tokens are estimated from characters.",
        ("window_tokens", "chars_per_token"),
        _always,
        _too_long,
    ),
    Filter(
        "leakage",
        "Its question is, or nearly is, one of the evaluation questions.",
        ("evaluation", "leak_similarity"),
        _given("evaluation"),
        _leakage,
    ),
    Filter(
        "exact_duplicate",
        "Same question, same outcome, and the agent wrote the same.",
        (),
        _deduplicating,
        _exact_duplicate,
    ),
    Filter(
        "near_duplicate",
        "Same question, same outcome, and the agent wrote nearly the same (Jaccard of word triples).",
        ("near_duplicate",),
        _deduplicating,
        _near_duplicate,
    ),
    Filter(
        "solved_overlap",
        "A failure whose question is too far from every question that some run solved.",
        ("solved_overlap",),
        _given("solved_overlap"),
        _solved_overlap,
    ),
    Filter(
        "min_score",
        "A failure that did not get far enough.",
        ("min_score",),
        _given("min_score"),
        _min_score,
    ),
    Filter(
        "cap_question",
        "More than enough trajectories of its question and outcome; which stay is drawn by seed.",
        ("cap_question", "seed"),
        _given("cap_question"),
        _cap_question,
    ),
    Filter(
        "cap_source",
        "More than enough trajectories of its model; which stay is drawn by seed.",
        ("cap_source", "seed"),
        _given("cap_source"),
        _cap_source,
    ),
)
