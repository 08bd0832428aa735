"""02 quality: why a run failed, which failures teach, what is left out and counted, and how
questions are split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tqdm.auto import tqdm

from negfail_nb.quality.cases import Case, by_question, case
from negfail_nb.quality.failures import KINDS, Kind, Run, kinds, read
from negfail_nb.quality.filters import FILTERS, Context, Filter
from negfail_nb.quality.report import Removal, Report, Stage
from negfail_nb.quality.score import Finding, Weights, examine, quality
from negfail_nb.quality.split import heldout_questions, question_groups
from negfail_nb.settings import QualitySettings
from negfail_nb.trajectory import Trajectory

__all__ = [
    "FILTERS", "KINDS", "Filter", "Finding", "Kind", "Removal", "Report", "Run", "Stage", "Weights",
    "assess", "examine", "kinds", "quality", "read",
]  # fmt: skip


def assess(
    trajectories: Iterable[Trajectory], settings: QualitySettings = QualitySettings()
) -> Report:
    """Find out why runs failed, filter them, score the failures and split the questions.

    Parameters
    ----------
    trajectories
        Records, or what ``load_trajectories`` returned.
    settings
        Which filters are on, and how strict they are.

    Returns
    -------
    Report
        Nothing is lost: each trajectory of the input is kept, or removed with filter and reason.

    Raises
    ------
    ValueError
        Where there are no trajectories, two share an id, or all were removed.
    TypeError
        Where something else than trajectories is given.
    """
    cases = _examine(_checked(getattr(trajectories, "trajectories", trajectories)))
    findings = tuple(item.finding for item in cases)
    context = Context(settings, frozenset(item.key for item in cases if item.trajectory.success))
    left, removed, stages = _filter(cases, context)
    if not left:
        raise ValueError(_all_removed(stages))
    kept, notes = _split(left, settings)
    notes = (*_input_notes(findings), *notes)
    return Report(
        settings=settings, kept=kept, removed=removed, findings=findings, stages=stages, notes=notes
    )


def _checked(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    if isinstance(trajectories, str):
        raise TypeError(
            f"assess takes trajectories, not text ({trajectories!r}); use load_trajectories first"
        )
    found = list(trajectories)
    if not found:
        raise ValueError(
            "there are no trajectories to assess; look at what load_trajectories could not read"
        )
    if strange := next((item for item in found if not isinstance(item, Trajectory)), None):
        raise TypeError(
            f"assess takes Trajectory records, not {type(strange).__name__}; see load_trajectories"
        )
    name, count = Counter(trajectory.id for trajectory in found).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"{count} trajectories have the id {name!r}; load each log once, or give each its own id"
        )
    return found


def _examine(trajectories: Sequence[Trajectory]) -> list[Case]:
    # A run's steps are parsed once and let go at once: all of them would not fit beside the
    # trajectories.
    cases = []
    for trajectory in tqdm(trajectories, desc="kinds of failure", unit="trajectory", leave=False):
        run = read(trajectory)
        cases.append(case(trajectory, examine(run), run.written))
    return by_question(cases)


def _filter(
    cases: Sequence[Case], context: Context
) -> tuple[list[Case], tuple[Removal, ...], tuple[Stage, ...]]:
    removed: list[Removal] = []
    stages: list[Stage] = []
    left = list(cases)
    for step in FILTERS:
        reasons = step.apply(left, context) if step.active(context.settings) and left else {}
        removed += [
            Removal(left[i].trajectory.id, step.name, reason)
            for i, reason in sorted(reasons.items())
        ]
        before, left = len(left), [item for i, item in enumerate(left) if i not in reasons]
        outcomes = Counter(item.finding.outcome for item in left)
        counts = (before, len(reasons), outcomes["success"], outcomes["failure"])
        stages.append(Stage(step.name, step.description, step.setting(context.settings), *counts))
    return left, tuple(removed), tuple(stages)


def _split(
    cases: Sequence[Case], settings: QualitySettings
) -> tuple[tuple[Trajectory, ...], list[str]]:
    ordered = sorted(cases, key=lambda c: c.trajectory.id)
    questions = {item.text: item.trajectory.question for item in ordered}
    # A key is the first text of its question, whose own run a filter may have removed.
    questions |= {item.key: item.key for item in ordered if item.key not in questions}
    groups = question_groups(
        questions, settings.leak_similarity, {item.text: item.key for item in ordered}
    )
    heldout = heldout_questions(groups, settings.heldout, settings.seed)
    kept = tuple(
        item.trajectory.replace(
            split="heldout" if item.key in heldout else "train",
            scores={**item.trajectory.scores, "quality": item.finding.score},
        )
        for item in cases
    )
    return kept, _split_notes(kept, groups, settings)


def _all_removed(stages: Sequence[Stage]) -> str:
    worst = max(stages, key=lambda stage: stage.removed)
    setting = f" ({worst.setting})" if worst.setting else ""
    return (
        f"all {stages[0].before} trajectories were removed, most of them ({worst.removed}) by the filter "
        f"{worst.filter!r}{setting}: {worst.description.rstrip('.')}. Change that setting, or look at the logs"
    )


def _input_notes(findings: Sequence[Finding]) -> list[str]:
    outcomes = Counter(finding.outcome for finding in findings)
    notes = []
    if not outcomes["success"]:
        notes.append(
            "No success among the trajectories: there is no good example to learn from or to evaluate on."
        )
    if not outcomes["failure"]:
        notes.append(
            "No failure among the trajectories: NUT and NAT have nothing to add to plain fine-tuning."
        )
    if outcomes["unlabelled"]:
        notes.append(
            f"{outcomes['unlabelled']} trajectories have no label, and no answer that could be judged; "
            "they were removed."
        )
    return notes


def _split_notes(
    kept: Sequence[Trajectory], groups: Sequence[Sequence[str]], settings: QualitySettings
) -> list[str]:
    notes = [
        f"No {outcome} is left after the filters; the funnel shows where they went."
        for outcome in ("success", "failure")
        if not any(trajectory.outcome == outcome for trajectory in kept)
    ]
    total, largest = sum(map(len, groups)), max(map(len, groups))
    if total == 1:
        notes.append(
            "All trajectories are about one question: nothing is held out, so nothing can be evaluated."
        )
    elif len(groups) == 1:
        notes.append(
            f"All {total} questions are near-duplicates of each other: nothing is held out."
        )
    elif largest > max(2, total / 2):
        notes.append(
            f"{largest} of {total} questions are near-duplicates and stay together; the share may be missed."
        )
    if (
        len(groups) > 1
        and settings.heldout > 0
        and not any(t.success and t.split == "heldout" for t in kept)
    ):
        notes.append(
            "No success is held out: held-out perplexity cannot be measured. Change the seed or the share."
        )
    return notes
