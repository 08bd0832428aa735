"""Which questions are held out, the funnel of the filters, and notes: what `assess` says of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from negfail_nb.duplicates import heldout_questions, question_groups
from negfail_nb.quality.cases import Case
from negfail_nb.quality.filters import Filter
from negfail_nb.quality.report import Stage
from negfail_nb.settings import QualitySettings

Counts = tuple[int, int, int, int]  # before, removed; successes and failures after


def count(cases: Sequence[Case], reasons: Collection[int]) -> Counts:
    """Return how many cases went through a filter that removes those at some places."""
    left = (case for i, case in enumerate(cases) if i not in reasons)
    outcomes = Counter(case.finding.outcome for case in left)
    return len(cases), len(reasons), outcomes["success"], outcomes["failure"]


def make_stage(step: Filter, settings: QualitySettings, counts: Counts) -> Stage:
    """Return a row of the funnel."""
    return Stage(step.name, step.description, step.setting(settings), *counts)


class Questions:
    """The questions of the kept cases, and which of them are held out."""

    def __init__(self) -> None:
        self._asked: dict[str, str] = {}  # by normalised text
        self._same: dict[str, str] = {}  # the key of each text

    def add(self, cases: Iterable[tuple[str, str, str, str]]) -> None:
        """Add id, text, key and question of cases; all cases of a question are added together."""
        ordered = sorted(cases)
        asked = {text: question for _, text, _, question in ordered}
        # A key is the first text of its question, whose own run a filter may have removed.
        asked |= {key: key for _, _, key, _ in ordered if key not in asked}
        self._asked |= asked
        self._same |= {text: key for _, text, key, _ in ordered}

    def hold_out(self, settings: QualitySettings) -> tuple[list[list[str]], frozenset[str]]:
        """Return the groups of near-duplicates, and the keys of those questions that are drawn."""
        groups = question_groups(self._asked, settings.leak_similarity, self._same)
        return groups, heldout_questions(groups, settings.heldout, settings.seed)


def all_removed(stages: Sequence[Stage]) -> str:
    """Return what to say where no trajectory is left."""
    worst = max(stages, key=lambda stage: stage.removed)
    setting = f" ({worst.setting})" if worst.setting else ""
    return (
        f"all {stages[0].before} trajectories were removed, most of them ({worst.removed}) by the "
        f"filter {worst.filter!r}{setting}: {worst.description.rstrip('.')}. Change that setting, "
        "or look at the logs"
    )


def make_notes(
    outcomes: Mapping[str, int],
    left: Collection[str],
    groups: Sequence[Sequence[str]],
    solved: bool,
    settings: QualitySettings,
) -> list[str]:
    """Return what a user should know: given the outcomes of all, those of the kept, the groups of
    questions, and whether a success is held out.
    """
    notes = []
    if not outcomes["success"]:
        notes.append(
            "No success among the trajectories: there is no good example to learn from or to "
            "evaluate on."
        )
    if not outcomes["failure"]:
        notes.append(
            "No failure among the trajectories: NUT and NAT have nothing to add to plain "
            "fine-tuning."
        )
    if outcomes["unlabelled"]:
        notes.append(
            f"{outcomes['unlabelled']} trajectories have no label, and no answer that could be "
            "judged; they were removed."
        )
    for outcome in (name for name in ("success", "failure") if name not in left):
        notes.append(f"No {outcome} is left after the filters; the funnel shows where they went.")
    total = sum(map(len, groups))
    largest = max(map(len, groups))
    if total == 1:
        notes.append(
            "All trajectories are about one question: nothing is held out, so nothing can be "
            "evaluated."
        )
    elif len(groups) == 1:
        notes.append(
            f"All {total} questions are near-duplicates of each other: nothing is held out."
        )
    elif largest > max(2, total / 2):
        notes.append(
            f"{largest} of {total} questions are near-duplicates and stay together; the share may "
            "be missed."
        )
    if len(groups) > 1 and settings.heldout > 0 and not solved:
        notes.append(
            "No success is held out: held-out perplexity cannot be measured. Change the seed or "
            "the share."
        )
    return notes
