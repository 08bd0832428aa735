"""What `assess` returns: a `Report` of why runs failed, what was left out, how they are split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from negfail_nb.csvs import write_csv
from negfail_nb.quality.failures import KINDS, Finding
from negfail_nb.settings import QualitySettings
from negfail_nb.stored import Stored
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


class Kept(Sequence):
    """Kept trajectories that are read from files, with their split and quality score.

    Parameters
    ----------
    records
        All trajectories of the input.
    rows, heldout, solved, quality
        Arrays of shape (kept,): which of them, and what is known of each.
    """

    def __init__(
        self,
        records: Stored,
        rows: np.ndarray,
        heldout: np.ndarray,
        solved: np.ndarray,
        quality: np.ndarray,
    ) -> None:
        self.records = records
        self.rows = rows
        self.heldout = heldout
        self.solved = solved
        self.quality = quality

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Trajectory]:
        told = zip(self.heldout.tolist(), self.quality.tolist(), strict=True)
        for trajectory, known in zip(self.records.take(self.rows), told, strict=True):
            yield sorted_out(trajectory, *known)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        trajectory = self.records[int(self.rows[index])]
        return sorted_out(trajectory, bool(self.heldout[index]), float(self.quality[index]))

    def take(self, places: np.ndarray | Sequence[int]) -> Kept:
        """Return the trajectories at some places, or where a mask holds."""
        about = (self.rows, self.heldout, self.solved, self.quality)
        places = np.asarray(places, dtype=None if len(places) else np.int64)
        return Kept(self.records, *(column[places] for column in about))

    def about(self) -> Iterator[tuple[str, str, bool]]:
        """Yield id, split and success of each, without reading the rest."""
        ids = self.records.take(self.rows).column("id")
        for name, heldout, solved in zip(ids, self.heldout, self.solved, strict=True):
            split = "heldout" if heldout else "train"
            yield name.decode("utf-8", "surrogatepass"), split, bool(solved)

    @property
    def content(self) -> str:
        """SHA-256 of the trajectories, as JSON lines, with split and score."""
        digest = hashlib.sha256(self.records.take(self.rows).content.encode())
        digest.update(np.packbits(self.heldout).tobytes() + self.quality.tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"Kept({len(self)} trajectories of {self.records.folder})"


def sorted_out(trajectory: Trajectory, heldout: bool, quality: float) -> Trajectory:
    """Return a kept trajectory with its split and its quality score."""
    scores = {**trajectory.scores, "quality": quality}
    return trajectory.replace(split="heldout" if heldout else "train", scores=scores)


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

    The sequences are tuples, or read from the files of a folder if `assess` was given one.
    """

    settings: QualitySettings
    kept: Sequence[Trajectory]
    removed: Sequence[Removal]
    findings: Sequence[Finding]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def train(self) -> Sequence[Trajectory]:
        """Kept trajectories to train on: those whose questions are not held out."""
        if isinstance(self.kept, Kept):
            return self.kept.take(~self.kept.heldout)
        return tuple(t for t in self.kept if t.split != "heldout")

    @property
    def heldout(self) -> Sequence[Trajectory]:
        """Kept successes whose questions are held out: what perplexity is measured on."""
        if isinstance(self.kept, Kept):
            return self.kept.take(self.kept.heldout & self.kept.solved)
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

        split = dict(self._splits())
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

        shown: Counter[str] = Counter()
        first: Counter[str] = Counter()
        incidents: Counter[str] = Counter()
        failed = 0
        for finding in self.findings:
            if finding.outcome == "success":
                incidents.update(finding.kinds)
                continue
            failed += 1
            shown.update(finding.kinds)
            first[finding.primary] += 1
        rows = [
            {
                "kind": kind.name,
                "failures": shown[kind.name],
                "share": shown[kind.name] / max(failed, 1),
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

    def _splits(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.kept, Kept):
            return ((name, split) for name, split, _ in self.kept.about())
        return ((t.id, t.split) for t in self.kept)

    def _summary(self) -> str:
        if isinstance(self.kept, Kept):
            solved = int(self.kept.solved.sum())
            kept = {"success": solved, "failure": len(self.kept) - solved}
        else:
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


def _check(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ValueError(f"there is no {what} {name!r}; use one of {', '.join(known)}")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]
