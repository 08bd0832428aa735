"""`assess`: trajectories to a `Report`: why runs failed, what was left out, how they are split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from negfail_nb.quality.cases import make_cases
from negfail_nb.quality.filters import FILTERS, Context, apply_filters
from negfail_nb.quality.report import Removal, Report, Stage, sorted_out
from negfail_nb.quality.split import Questions, all_removed, count, make_notes, make_stage
from negfail_nb.quality.streaming import assess_stored
from negfail_nb.runs import Place
from negfail_nb.settings import QualitySettings
from negfail_nb.trajectory import Trajectory


def assess(
    trajectories: Iterable[Trajectory],
    settings: QualitySettings = QualitySettings(),
    folder: str | Path | Place | None = None,
) -> Report:
    """Find out why runs failed, filter them, score the failures and split the questions.

    Parameters
    ----------
    trajectories
        Records: what ``load_trajectories`` returned, or any iterable of them.
    settings
        Which filters are on, and how strict they are.
    folder
        For more runs than memory holds: what is found is written here, question by question, and
        the report reads it from there. A call that was stopped goes on, and a finished one is not
        repeated. The report is the same as without a folder.

    Returns
    -------
    Report
        Nothing is lost: each trajectory of the input is kept, or removed with filter and reason.

    Raises
    ------
    ValueError
        If there are no trajectories, two share an id, or all were removed.
    TypeError
        If something else than trajectories is given.
    """
    if folder is not None:
        return assess_stored(trajectories, settings, folder)
    cases = make_cases(_checked(trajectories))
    findings = tuple(case.finding for case in cases)
    context = Context(settings, frozenset(c.key for c in cases if c.trajectory.success))
    removed: list[Removal] = []
    stages: list[Stage] = []
    for step, before, reasons in apply_filters(cases, context, FILTERS):
        removed += [Removal(before[i].finding.id, step.name, reasons[i]) for i in sorted(reasons)]
        stages.append(make_stage(step, settings, count(before, reasons)))
        cases = [case for i, case in enumerate(before) if i not in reasons]
    if not cases:
        raise ValueError(all_removed(stages))
    asked = Questions()
    asked.add((c.trajectory.id, c.text, c.key, c.trajectory.question) for c in cases)
    groups, heldout = asked.hold_out(settings)
    kept = tuple(sorted_out(c.trajectory, c.key in heldout, c.finding.score) for c in cases)
    outcomes = Counter(finding.outcome for finding in findings)
    left = {trajectory.outcome for trajectory in kept}
    solved = any(t.success and t.split == "heldout" for t in kept)
    return Report(
        settings=settings,
        kept=kept,
        removed=tuple(removed),
        findings=findings,
        stages=tuple(stages),
        notes=tuple(make_notes(outcomes, left, groups, solved, settings)),
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
            f"{count} trajectories have the id {name!r}; load each log once, or give each its own "
            "id"
        )
    return found
