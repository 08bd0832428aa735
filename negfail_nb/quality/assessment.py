"""`assess`: trajectories to a `Report`: why runs failed, what was left out, how they are split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.csvs import write_csv
from negfail_nb.duplicates import heldout_questions, question_groups
from negfail_nb.quality.failures import KINDS, Finding
from negfail_nb.quality.filters import FILTERS, Case, Context, make_cases
from negfail_nb.settings import QualitySettings
from negfail_nb.trajectory import Trajectory, read_trajectories, write_lines, write_trajectories

if TYPE_CHECKING:
    import pandas as pd

_FILES = ("kept.jsonl", "findings.jsonl", "removed.jsonl", "report.json")


@dataclass(frozen=True, slots=True)
class Removal:
    """One trajectory that was left out: which filter did it, and why."""

    id: str
    filter: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One row of the funnel: a filter, and how many went through it."""

    filter: str
    description: str
    setting: str
    before: int
    removed: int
    successes: int
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report:
    """The quality of a collection of trajectories.

    Attributes
    ----------
    kept
        Trajectories that passed all filters, in input order, with ``split`` and
        ``scores["quality"]`` set.
    removed
        All others, with filter and reason.
    findings
        One per trajectory of the input, in input order.
    stages
        The funnel.
    notes
        What a user should know before going on, such as "no failures".
    """

    settings: QualitySettings
    kept: tuple[Trajectory, ...]
    removed: tuple[Removal, ...]
    findings: tuple[Finding, ...]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def train(self) -> tuple[Trajectory, ...]:
        """Kept trajectories to train on: those whose questions are not held out."""
        return tuple(t for t in self.kept if t.split != "heldout")

    @property
    def heldout(self) -> tuple[Trajectory, ...]:
        """Kept successes whose questions are held out: what perplexity is measured on."""
        return tuple(t for t in self.kept if t.split == "heldout" and t.success)

    def funnel(self) -> pd.DataFrame:
        """Return one row per filter: before, removed, after, successes and failures after it."""
        import pandas as pd

        names = ("filter", "setting", "before", "removed", "after", "successes", "failures")
        rows = [{**asdict(stage), "after": stage.before - stage.removed} for stage in self.stages]
        table = pd.DataFrame(rows, columns=[*names, "description"])
        return table.rename(columns={"successes": "successes after", "failures": "failures after"})

    def table(self) -> pd.DataFrame:
        """Return one row per trajectory of the input: what was found, and where it went."""
        import pandas as pd

        split = {trajectory.id: trajectory.split for trajectory in self.kept}
        removed_by = {removal.id: removal.filter for removal in self.removed}
        names = ("id", "model", "outcome", "termination", "primary", "kinds", "turns", "calls")
        names += ("action_errors", "score")
        rows = [
            {name: getattr(f, name) for name in names}
            | {
                "kinds": ", ".join(f.kinds),
                "split": split.get(f.id, ""),
                "removed_by": removed_by.get(f.id, ""),
            }
            for f in self.findings
        ]
        return pd.DataFrame(rows).astype({"action_errors": float, "score": float})

    def outcomes(self) -> pd.DataFrame:
        """Return counts, calls and errors per action, by model, outcome and termination."""
        import pandas as pd

        by = ["model", "outcome", "termination"]
        names = [*by, "calls", "actions", "errors"]
        rows = [[getattr(f, name) for name in names] for f in self.findings]
        sums = {"actions": ("actions", "sum"), "errors": ("errors", "sum")}
        groups = pd.DataFrame(rows, columns=names).groupby(by, sort=True)
        table = groups.agg(count=("calls", "size"), calls=("calls", "mean"), **sums)
        table["action_errors"] = table.pop("errors") / table.pop("actions").where(lambda n: n > 0)
        return table.reset_index()

    def kinds(self) -> pd.DataFrame:
        """Return one row per kind of failure: failures that show it, their share, those with it as
        primary kind, successes that show it. Unlabelled runs count as failures here.
        """
        import pandas as pd

        failed = [f for f in self.findings if f.outcome != "success"]
        solved = [f for f in self.findings if f.outcome == "success"]
        shown = Counter(kind for f in failed for kind in f.kinds)
        first = Counter(f.primary for f in failed)
        incidents = Counter(kind for f in solved for kind in f.kinds)
        rows = [
            {
                "kind": kind.name,
                "failures": shown[kind.name],
                "share": shown[kind.name] / max(len(failed), 1),
                "primary": first[kind.name],
                "successes": incidents[kind.name],
                "description": kind.description,
            }
            for kind in KINDS
        ]
        return pd.DataFrame(rows)

    def examples(self, kind: str, n: int = 5) -> pd.DataFrame:
        """Return up to ``n`` trajectories that show a kind of failure, as primary kind first."""
        import pandas as pd

        _check("kind of failure", kind, [k.name for k in KINDS])
        found = [f for f in self.findings if kind in f.kinds]
        found.sort(key=lambda f: f.primary != kind)
        columns = ["id", "outcome", "question", "answer", "prediction", "termination", "score"]
        rows = [[getattr(f, name) for name in columns] for f in found[:n]]
        return pd.DataFrame(rows, columns=columns)

    def removed_examples(self, filter: str, n: int = 5) -> pd.DataFrame:
        """Return up to ``n`` trajectories that a filter removed, with the reason."""
        import pandas as pd

        _check("filter", filter, [stage.filter for stage in self.stages])
        questions = {f.id: f.question for f in self.findings}
        found = [(r.id, questions[r.id], r.reason) for r in self.removed if r.filter == filter][:n]
        return pd.DataFrame(found, columns=["id", "question", "reason"])

    def save(self, folder: str | Path) -> Path:
        """Write the report: JSON lines that `load` reads, and the tables as CSV. ``report.json``
        comes last.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").unlink(missing_ok=True)
        write_trajectories(folder / "kept.jsonl", self.kept)
        write_lines(folder / "findings.jsonl", map(asdict, self.findings))
        write_lines(folder / "removed.jsonl", map(asdict, self.removed))
        for name in ("funnel", "outcomes", "kinds", "table"):
            write_csv(getattr(self, name)(), folder / f"{name}.csv")
        head = {"settings": asdict(self.settings), "stages": list(map(asdict, self.stages))}
        write_lines(folder / "report.json", [{**head, "notes": list(self.notes)}])
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Read what `save` wrote; its tables are equal.

        Raises
        ------
        FileNotFoundError
            If a file is missing: saving was interrupted, or this is no report.
        """
        folder = Path(folder)
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder}: no whole quality report, {', '.join(missing)} missing; save it again"
            )
        head = _read_lines(folder / "report.json")[0]
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in head["settings"].items()}
        return cls(
            settings=QualitySettings(**settings),
            kept=tuple(read_trajectories(folder / "kept.jsonl")),
            removed=tuple(Removal(**record) for record in _read_lines(folder / "removed.jsonl")),
            findings=tuple(
                Finding(**{**record, "kinds": tuple(record["kinds"])})
                for record in _read_lines(folder / "findings.jsonl")
            ),
            stages=tuple(Stage(**record) for record in head["stages"]),
            notes=tuple(head["notes"]),
        )

    def __repr__(self) -> str:
        """Return one line of counts."""
        return f"Report({self._summary()})"

    def _summary(self) -> str:
        kept = Counter(trajectory.outcome for trajectory in self.kept)
        return (
            f"{len(self.kept)} of {len(self.findings)} trajectories kept: "
            f"{kept['success']} successes, {kept['failure']} failures; "
            f"{len(self.kept) - len(self.train)} of them held out"
        )

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        tables = {
            "Funnel": self.funnel(),
            "Kinds of failure": self.kinds().query("failures > 0"),
            "Outcomes": self.outcomes().head(20),
        }
        body = "".join(
            f"<h4>{title}</h4>{table.to_html(index=False, float_format='%.3f')}"
            for title, table in tables.items()
        )
        return f"<p><b>{escape(self._summary())}</b></p><ul>{notes}</ul>{body}"


def assess(
    trajectories: Iterable[Trajectory], settings: QualitySettings = QualitySettings()
) -> Report:
    """Find out why runs failed, filter them, score the failures and split the questions.

    Parameters
    ----------
    trajectories
        Records: what ``load_trajectories`` returned, or any iterable of them.
    settings
        Which filters are on, and how strict they are.

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
    cases = make_cases(_checked(trajectories))
    findings = tuple(case.finding for case in cases)
    context = Context(settings, frozenset(c.key for c in cases if c.trajectory.success))
    removed: list[Removal] = []
    stages: list[Stage] = []
    for step in FILTERS:
        reasons = step.apply(cases, context) if step.active(settings) and cases else {}
        removed += [Removal(cases[i].finding.id, step.name, reasons[i]) for i in sorted(reasons)]
        before = len(cases)
        cases = [case for i, case in enumerate(cases) if i not in reasons]
        outcomes = Counter(case.finding.outcome for case in cases)
        counts = (before, len(reasons), outcomes["success"], outcomes["failure"])
        stages.append(Stage(step.name, step.description, step.setting(settings), *counts))
    if not cases:
        raise ValueError(_all_removed(stages))
    kept, groups = _split(cases, settings)
    return Report(
        settings=settings,
        kept=kept,
        removed=tuple(removed),
        findings=findings,
        stages=tuple(stages),
        notes=tuple(_notes(findings, kept, groups, settings)),
    )


def _check(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ValueError(f"there is no {what} {name!r}; use one of {', '.join(known)}")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


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


def _all_removed(stages: Sequence[Stage]) -> str:
    worst = max(stages, key=lambda stage: stage.removed)
    setting = f" ({worst.setting})" if worst.setting else ""
    return (
        f"all {stages[0].before} trajectories were removed, most of them ({worst.removed}) by the "
        f"filter {worst.filter!r}{setting}: {worst.description.rstrip('.')}. Change that setting, "
        "or look at the logs"
    )


def _split(
    cases: Sequence[Case], settings: QualitySettings
) -> tuple[tuple[Trajectory, ...], list[list[str]]]:
    ordered = sorted(cases, key=lambda case: case.trajectory.id)
    questions = {case.text: case.trajectory.question for case in ordered}
    # A key is the first text of its question, whose own run a filter may have removed.
    questions |= {case.key: case.key for case in ordered if case.key not in questions}
    same = {case.text: case.key for case in ordered}
    groups = question_groups(questions, settings.leak_similarity, same)
    heldout = heldout_questions(groups, settings.heldout, settings.seed)
    kept = tuple(
        case.trajectory.replace(
            split="heldout" if case.key in heldout else "train",
            scores={**case.trajectory.scores, "quality": case.finding.score},
        )
        for case in cases
    )
    return kept, groups


def _notes(
    findings: Sequence[Finding],
    kept: Sequence[Trajectory],
    groups: Sequence[Sequence[str]],
    settings: QualitySettings,
) -> list[str]:
    outcomes = Counter(finding.outcome for finding in findings)
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
    left = {trajectory.outcome for trajectory in kept}
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
    solved = any(t.success and t.split == "heldout" for t in kept)
    if len(groups) > 1 and settings.heldout > 0 and not solved:
        notes.append(
            "No success is held out: held-out perplexity cannot be measured. Change the seed or "
            "the share."
        )
    return notes
