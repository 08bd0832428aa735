"""What a sweep found: cells, the episodes behind them, comparisons; read, written and joined."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.content import fingerprint, write_json
from negfail_nb.csvs import read_csv, write_csv
from negfail_nb.evaluation import AgentScores, compare_agents
from negfail_nb.intervals import holm
from negfail_nb.settings import EvaluateSettings

if TYPE_CHECKING:
    import pandas as pd

KEY = ("study", "condition", "seed")  # of a cell
FILES = ("episodes.csv", "cells.csv")
MADE = "made.json"  # beside them: what the cells were made with
CELLS = (
    "study",
    "condition",
    "arm",
    "seed",
    "against",
    "folder",
    "em",
    "f1",
    "action_error_rate",
    "questions",
    "steps",
    "train_seconds",
)
PACKAGED = Path(__file__).parent / "experiment"


@dataclass(frozen=True, slots=True)
class Swept:
    """The results of a sweep.

    Attributes
    ----------
    episodes
        One row an episode: ``study``, ``condition``, ``arm``, ``seed`` and the columns of
        `AgentScores`.
    cells
        One row a condition and seed: ``em``, ``f1``, ``action_error_rate``, ``questions``,
        ``folder``, ``steps`` and ``train_seconds`` of its training, and ``against``: the condition
        that it is compared with.
    made
        What the cells were made with, each once: ``profile``, ``model``, its ``weights`` (where
        they came from) and ``dtype``, ``train`` (its settings before a condition changes them) and
        ``environment``; none where nobody noted it.
    """

    episodes: pd.DataFrame
    cells: pd.DataFrame
    made: tuple[Mapping[str, Any], ...] = ()

    @property
    def model(self) -> str:
        """The model that was tuned; empty where nobody noted it."""
        return ", ".join(dict.fromkeys(filter(None, (one.get("model") for one in self.made))))

    @property
    def about(self) -> str:
        """What was swept, in a line."""
        if self.cells.empty:
            return "No studies come with this package. `make experiment` makes them."
        profiles = ", ".join(dict.fromkeys(one.get("profile", "") for one in self.made))
        numbers = (
            _span(self.cells.groupby("study")["seed"].nunique(), "seed"),
            _span(self.cells["questions"], "held-out question"),
        )
        conditions = len(self.cells[["study", "condition"]].drop_duplicates())
        model = self.model or "a model that nobody noted"
        return (
            f"Tuned: {model} (profile {profiles or 'unknown'}). {conditions} conditions in "
            f"{self.cells['study'].nunique()} studies, each with {' and '.join(numbers)}."
        )

    def made_by(self, profile: str) -> bool:
        """Whether all of it was made with a profile of this name."""
        return bool(self.made) and all(one.get("profile") == profile for one in self.made)

    @property
    def provenance(self) -> dict[str, Any]:
        """What a figure of a study came from, as `negfail_nb.views.save_figure` takes it."""
        made = [one.get("environment", {}) for one in self.made]
        environment = made[0] if len(made) == 1 else dict(enumerate(made))
        return {"command": "make experiment", "model": self.model, "environment": environment}

    @classmethod
    def join(cls, parts: Iterable[Swept]) -> Swept:
        """Return sweeps as one, such as those of several sessions or machines.

        A condition and seed that several of them have is taken from the last.

        Raises
        ------
        ValueError
            For sweeps of different models, or that asked a study different questions.
        """
        import pandas as pd

        parts = list(parts)
        models = list(dict.fromkeys(filter(None, (part.model for part in parts))))
        if len(models) > 1:
            raise ValueError(
                f"these sweeps tuned different models: {', '.join(models)}; keep them apart, each "
                "in its own folder"
            )
        cells, episodes = (
            pd.concat([getattr(part, name).assign(part=i) for i, part in enumerate(parts)])
            for name in ("cells", "episodes")
        )
        order = cells[["study", "condition"]].drop_duplicates()
        order["rank"] = range(len(order))
        last = cells.drop_duplicates(list(KEY), keep="last").merge(order)
        found = episodes.merge(last[[*KEY, "part", "rank"]])
        tables = (
            table.sort_values(["rank", "seed"], kind="stable", ignore_index=True)
            for table in (found, last)
        )
        made = {fingerprint(one): one for part in parts for one in part.made}
        joined = cls(*(t.drop(columns=["part", "rank"]) for t in tables), tuple(made.values()))
        joined._check_questions()
        return joined

    def _check_questions(self) -> None:
        cells = self.episodes.groupby(list(KEY), sort=False)["question_id"].agg(frozenset)
        for study, asked in cells.groupby("study", sort=False):
            other = asked[asked != asked.iloc[0]]
            if len(other):
                names = [f"{i[1]}, seed {i[2]}" for i in (asked.index[0], other.index[0])]
                raise ValueError(
                    f"study {study}: {' and '.join(names)} answered different questions; sweep one "
                    "again with the settings of the other, or keep them in separate folders"
                )

    def against(self, study: str) -> dict[str, str]:
        """Return what each condition of a study is compared with; what others are, with itself.

        Raises
        ------
        ValueError
            For a study that was not swept; the text lists those that were.
        """
        rows = self.episodes[self.episodes["study"] == study]
        if rows.empty:
            known = ", ".join(dict.fromkeys(self.episodes["study"]))
            raise ValueError(f"no study {study!r} in this sweep; there are {known}")
        names = list(dict.fromkeys(rows["condition"]))
        said = {}
        if "against" in self.cells:
            cells = self.cells[self.cells["study"] == study]
            said = dict(zip(cells["condition"], cells["against"].fillna(""), strict=True))
        return {name: said.get(name) if said.get(name) in names else names[0] for name in names}

    def compare(self, study: str, settings: EvaluateSettings = EvaluateSettings()) -> pd.DataFrame:
        """Return `compare_agents` of the conditions of a study, each with what it is compared with
        (``baseline``), in the order swept; ``p_holm`` is ``p`` corrected for the comparisons of
        the study (`negfail_nb.intervals.holm`).

        Raises
        ------
        ValueError
            For a study that was not swept; the text lists those that were.
        """
        import pandas as pd

        against = self.against(study)
        rows = self.episodes[self.episodes["study"] == study]
        scores = {name: AgentScores(part) for name, part in rows.groupby("condition", sort=False)}
        parts = []
        for baseline in dict.fromkeys(against.values()):
            group = {name: scores[name] for name in against if against[name] == baseline}
            compared = compare_agents({baseline: scores[baseline], **group}, settings, baseline)
            parts.append(compared[compared["arm"].isin(group)].assign(baseline=baseline))
        table = pd.concat(parts).set_index("arm", drop=False)
        table = table.loc[list(against)].reset_index(drop=True)
        table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"]))
        return table

    def save(self, folder: str | Path) -> Path:
        """Write ``episodes.csv``, ``cells.csv``, and into ``made.json`` what the cells were made
        with.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(self.episodes, folder / "episodes.csv")
        write_csv(self.cells, folder / "cells.csv")
        write_json(folder / MADE, self.made)
        return folder

    @classmethod
    def load(cls, folder: str | Path = "") -> Swept:
        """Read what `save` wrote.

        Parameters
        ----------
        folder
            Where it lies; empty: the results of ``make experiment`` that come with the package, if
            there are any.

        Raises
        ------
        FileNotFoundError
            Where the folder lacks the tables.
        """
        import pandas as pd

        if not folder and not PACKAGED.is_dir():
            return cls(
                pd.DataFrame(columns=["study", "condition", "arm", "seed"]),
                pd.DataFrame(columns=CELLS),
            )
        folder = Path(folder or PACKAGED)
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder.name} has no {' and no '.join(missing)}; `make experiment` writes them"
            )
        tables = (read_csv(folder / name, keep_default_na=False, na_values=[""]) for name in FILES)
        made = folder / MADE
        return cls(
            *tables, tuple(json.loads(made.read_text(encoding="utf-8"))) if made.is_file() else ()
        )


def _span(counts: pd.Series, unit: str) -> str:
    low, high = counts.min(), counts.max()
    return f"{low:,}{'' if low == high else f' to {high:,}'} {unit}{'' if high == 1 else 's'}"
