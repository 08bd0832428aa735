"""What the quality stage hands on: what was kept, what was removed and why, and the tables that
show it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.csvs import write_csv
from negfail_nb.quality.failures import KINDS
from negfail_nb.quality.score import Finding
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
        ``scores["quality"]`` set. Data for training elsewhere should come from ``train``, which
        leaves out those that are held out for evaluation.
    removed
        All others, with filter and reason.
    findings
        One a trajectory of the input, in input order.
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
        """Kept trajectories to train on; all of them where nothing is held out. Export these."""
        return tuple(trajectory for trajectory in self.kept if trajectory.split != "heldout")

    @property
    def heldout(self) -> tuple[Trajectory, ...]:
        """Kept trajectories whose questions are held out for evaluation; training on them makes it
        worthless.
        """
        return tuple(trajectory for trajectory in self.kept if trajectory.split == "heldout")

    def funnel(self) -> pd.DataFrame:
        """Return one row a filter: before, removed, after, and the successes and failures after it."""
        import pandas as pd

        columns = [
            "filter",
            "setting",
            "before",
            "removed",
            "after",
            "successes",
            "failures",
            "description",
        ]
        rows = [{**asdict(stage), "after": stage.before - stage.removed} for stage in self.stages]
        table = pd.DataFrame(rows, columns=columns)
        return table.rename(columns={"successes": "successes after", "failures": "failures after"})

    def table(self) -> pd.DataFrame:
        """Return one row a trajectory of the input: what was found, and where it went."""
        import pandas as pd

        split = {trajectory.id: trajectory.split for trajectory in self.kept}
        removed = {removal.id: removal for removal in self.removed}
        rows = [
            {
                "id": f.id,
                "model": f.model,
                "outcome": f.outcome,
                "termination": f.termination,
                "primary": f.primary,
                "kinds": ", ".join(f.kinds),
                "turns": f.turns,
                "calls": f.calls,
                "action_errors": f.action_errors,
                "score": f.score,
                "split": split.get(f.id, ""),
                "removed_by": removed[f.id].filter if f.id in removed else "",
            }
            for f in self.findings
        ]
        return pd.DataFrame(rows).astype({"action_errors": float, "score": float})

    def outcomes(self) -> pd.DataFrame:
        """Return one row a model, outcome and termination: count, calls a run, share of actions
        that are errors.
        """
        import pandas as pd

        rows = pd.DataFrame(
            [
                (f.model, f.outcome, f.termination, f.calls, f.actions, f.errors)
                for f in self.findings
            ],
            columns=["model", "outcome", "termination", "calls", "actions", "errors"],
        )
        groups = rows.groupby(["model", "outcome", "termination"], sort=True)
        sums = {"actions": ("actions", "sum"), "errors": ("errors", "sum")}
        table = groups.agg(count=("calls", "size"), calls=("calls", "mean"), **sums)
        table["action_errors"] = table.pop("errors") / table.pop("actions").where(lambda n: n > 0)
        return table.reset_index()

    def kinds(self) -> pd.DataFrame:
        """Return one row a kind of failure: failures that show it, their share, those where it is
        primary, successes.

        Unlabelled runs count among the failures here; they are a row of their own.
        """
        import pandas as pd

        failed = [f for f in self.findings if f.outcome != "success"]
        total = max(len(failed), 1)
        shown = Counter(kind for f in failed for kind in f.kinds)
        first = Counter(f.primary for f in failed)
        incidents = Counter(
            kind for f in self.findings if f.outcome == "success" for kind in f.kinds
        )
        rows = [
            (
                k.name,
                shown[k.name],
                shown[k.name] / total,
                first[k.name],
                incidents[k.name],
                k.description,
            )
            for k in KINDS
        ]
        return pd.DataFrame(
            rows, columns=["kind", "failures", "share", "primary", "successes", "description"]
        )

    def examples(self, kind: str, n: int = 5) -> pd.DataFrame:
        """Return up to ``n`` trajectories that show a kind of failure, those where it is primary
        first.

        Raises
        ------
        ValueError
            For an unknown kind.
        """
        import pandas as pd

        _check("kind of failure", kind, [k.name for k in KINDS])
        found = sorted(
            (f for f in self.findings if kind in f.kinds), key=lambda f: f.primary != kind
        )[:n]
        columns = ["id", "outcome", "question", "answer", "prediction", "termination", "score"]
        return pd.DataFrame(
            [[getattr(f, name) for name in columns] for f in found], columns=columns
        )

    def removed_examples(self, filter: str, n: int = 5) -> pd.DataFrame:
        """Return up to ``n`` trajectories that a filter removed, with the reason.

        Raises
        ------
        ValueError
            For an unknown filter.
        """
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
        write_lines(folder / "findings.jsonl", (f.to_dict() for f in self.findings))
        write_lines(folder / "removed.jsonl", map(asdict, self.removed))
        for name in ("funnel", "outcomes", "kinds", "table"):
            write_csv(getattr(self, name)(), folder / f"{name}.csv")
        head = {
            "settings": asdict(self.settings),
            "stages": list(map(asdict, self.stages)),
            "notes": list(self.notes),
        }
        write_lines(folder / "report.json", [head])
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Read what `save` wrote; its tables are equal.

        Raises
        ------
        FileNotFoundError
            Where a file is missing: saving was interrupted, or this is no report.
        """
        folder = Path(folder)
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder}: no whole quality report, {', '.join(missing)} missing; save it again"
            )
        head = _read_lines(folder / "report.json")[0]
        settings = {
            name: tuple(v) if isinstance(v, list) else v for name, v in head["settings"].items()
        }
        return cls(
            settings=QualitySettings(**settings),
            kept=tuple(read_trajectories(folder / "kept.jsonl")),
            removed=tuple(Removal(**record) for record in _read_lines(folder / "removed.jsonl")),
            findings=tuple(map(Finding.from_dict, _read_lines(folder / "findings.jsonl"))),
            stages=tuple(Stage(**record) for record in head["stages"]),
            notes=tuple(head["notes"]),
        )

    def __repr__(self) -> str:
        """Return one line of counts."""
        return f"Report({self._summary()})"

    def _summary(self) -> str:
        kept = Counter(trajectory.outcome for trajectory in self.kept)
        return (
            f"{len(self.kept)} of {len(self.findings)} trajectories kept: {kept['success']} successes, "
            f"{kept['failure']} failures; {len(self.heldout)} of them held out"
        )

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        shown = self.kinds().query("failures > 0")
        tables = (
            ("Funnel", self.funnel()),
            ("Kinds of failure", shown),
            ("Outcomes", self.outcomes().head(20)),
        )
        body = "".join(
            f"<h4>{title}</h4>{table.to_html(index=False, float_format='%.3f')}"
            for title, table in tables
        )
        return f"<p><b>{escape(self._summary())}</b></p><ul>{notes}</ul>{body}"


def _check(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ValueError(f"there is no {what} {name!r}; use one of {', '.join(known)}")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]
