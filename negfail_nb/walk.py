"""The walk from raw logs to compared arms: one method a stage, each reading and writing run
folders.

A stage that is done is read from disk, one that is not is computed, with whatever it needs before
it. So every notebook runs by itself, and the command line does the same as the notebooks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb import runs, stages
from negfail_nb.csvs import read_csv
from negfail_nb.evaluation import COMPARED, AgentScores, agent_scores, compare_agents
from negfail_nb.logs import Logs
from negfail_nb.plans import PLANS, maker
from negfail_nb.prefix import Rendered
from negfail_nb.quality import Report
from negfail_nb.settings import Checked, ModelSettings, PrefixSettings, Profile, get_profile
from negfail_nb.source import source_hash
from negfail_nb.stages import UNTUNED, ArmData
from negfail_nb.trajectory import Problem, read_trajectories

if TYPE_CHECKING:
    import pandas as pd

    from negfail_nb.benchmarking import Benchmark
    from negfail_nb.claims.opening import Judged
    from negfail_nb.prefix.templates import Template
    from negfail_nb.training import TrainedRun

logger = logging.getLogger("negfail_nb")

STAGES = ("collect", "quality", "prefix", "train", "evaluate", "agent", "benchmark", "claims")


@dataclass(frozen=True, slots=True)
class Walk:
    """One profile walked in one project folder.

    Attributes
    ----------
    profile
        Settings of all stages.
    home
        The project folder: ``runs/``, ``figures/`` and ``reports/`` are made in it, relative paths
        in settings start from it.
    """

    profile: Profile
    home: Path

    @property
    def figures(self) -> Path:
        """Where the figures of this profile go."""
        return self.home / "figures" / self.profile.name

    @property
    def report(self) -> Path:
        """Where the report of this profile's claims goes, and the record of its corrections."""
        return self.home / "reports" / self.profile.name

    def using(self, *settings: Checked) -> Walk:
        """Return the same walk with other settings for some stages, such as those of a form."""
        return replace(self, profile=self.profile.using(*settings))

    def collect(self) -> Logs:
        """01: read the profile's logs, or generate some."""
        run = self.run("collect")
        problems = json.loads(run.path("problems.json").read_text(encoding="utf-8"))
        return Logs(
            tuple(read_trajectories(run.path("trajectories.jsonl"))),
            tuple(Problem(*p) for p in problems),
        )

    def quality(self) -> Report:
        """02: say why runs failed, filter, split by question."""
        return Report.load(self.run("quality").folder)

    def prefix(self) -> dict[str, ArmData]:
        """03: label and tokenise each arm's data; the tokenizer is trained here where the model has
        none.
        """
        return {arm: self.arm_data(arm) for arm in self.profile.train.arms}

    def arm_data(self, arm: str) -> ArmData:
        """03: the data of one arm; those that learn by preference start from the vanilla arm, and
        have its data.
        """
        from negfail_nb.training import load_tokenizer

        run = self.run("prefix")
        tokenizer = load_tokenizer(replace(self.profile.model, name=str(run.path("tokenizer"))))
        folder = run.path(stages.rendered_arms([arm])[0])
        return ArmData(*(Rendered.load(folder / part, tokenizer) for part in ("train", "heldout")))

    def train(self) -> dict[str, TrainedRun]:
        """04: fine-tune one model an arm, from the same start. An interrupted arm goes on from its
        last checkpoint.
        """
        from negfail_nb.training import TrainedRun

        return {
            arm: TrainedRun.open(self.run(f"train-{arm}").path("model"))
            for arm in self.profile.train.arms
        }

    def evaluate(self) -> pd.DataFrame:
        """05: perplexity on held-out successes, each arm under its own prompt, with intervals over
        questions.
        """
        return read_csv(self.run("evaluate").path("comparison.csv"))

    def agents(self) -> dict[str, AgentScores]:
        """05: how the untuned model and each arm's agent answer held-out questions, live, one
        episode a question.
        """
        names = self.agent_names()
        return {
            n: agent_scores(read_trajectories(self.run(f"agent-{n}").path("episodes.jsonl")))
            for n in names
        }

    def compare_agents(self) -> pd.DataFrame:
        """05: the agents beside each other, differences taken to the first arm; empty where nobody
        is asked.

        See `negfail_nb.evaluation.compare_agents` for the columns.
        """
        import pandas as pd

        scores = self.agents()
        if not scores:
            return pd.DataFrame(columns=list(COMPARED))
        return compare_agents(scores, self.profile.evaluate, baseline=self.profile.train.arms[0])

    def benchmark(self) -> Benchmark:
        """06: the same questions under every arm: nothing to read, gold alone, long contexts,
        retrieval, the agent.
        """
        from negfail_nb.benchmarking.opening import read_grid

        return read_grid(self.profile, self.home, self.run("benchmark").folder)

    def claims(self) -> Judged:
        """08: judge claims from their sources and from the tables that notebooks 05 to 07 left in
        ``figures``.
        """
        from negfail_nb.claims.opening import read_judged

        return read_judged(self.run("claims").folder)

    def agent_names(self) -> tuple[str, ...]:
        """Names of the agents that are evaluated; none where no questions are asked, or the model
        knows nothing yet.
        """
        if not self.profile.evaluate.agent_questions:
            return ()
        return ((UNTUNED,) if self.profile.model.name else ()) + self.profile.train.arms

    def run(self, stage: str) -> runs.Run:
        """Return the finished run of a stage under this profile's settings; compute it first where
        it is not there.

        Parameters
        ----------
        stage
            One of ``STAGES``; training and agents have one an arm, such as ``"train-nat"`` and
            ``"agent-nat"``.

        Raises
        ------
        ValueError
            For a stage that does not exist.
        negfail_nb.runs.NotWhole
            Where the budget did not reach for all of it; the text names the setting. What is there
            is kept.
        """
        name, _, arm = stage.partition("-")
        if name not in STAGES:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
        settings, inputs = PLANS[name](self, arm)
        function = maker(self, name, arm)
        source = source_hash(f"stages:{function}")

        def compute(run: runs.Run) -> Mapping[str, Any]:
            return getattr(stages, function)(self, run, *([arm] if arm else []))

        place = runs.Place(self.home / "runs", f"{self.profile.name}/{stage}")
        return runs.make(place, settings, compute, inputs, source)

    def folders(self, stage: str) -> list[Path]:
        """Return the run folders of a stage; training and agents have one an arm."""
        arms = {"train": self.profile.train.arms, "agent": self.agent_names()}
        names = [f"{stage}-{arm}" for arm in arms[stage]] if stage in arms else [stage]
        return [self.run(name).folder for name in names]

    def files(self) -> dict[str, Path]:
        """Return the files and folders outside of ``runs/`` that this profile reads, by the names
        in its settings.
        """
        profile = self.profile
        names = (
            *profile.collect.logs,
            profile.collect.questions,
            profile.collect.corpus,
            *profile.quality.evaluation,
        )
        names += (
            profile.evaluate.questions,
            profile.evaluate.corpus,
            profile.claims.file,
            profile.literature.folder,
        )
        return {**self.named(*names, profile.prefix.template_file), **self.model_files()}

    def provenance(self, stage: str) -> dict[str, Any]:
        """Return what a figure of a stage came from: profile, settings, fingerprint and results of
        its run.

        With them goes the environment of the run: the commit and the packages that computed it, not
        those of today.
        """
        run = self.run(stage)
        kept = {name: run.manifest[name] for name in ("results", "finished", "environment")}
        return {"profile": self.profile.name, **run.plan, **kept}

    def template(self, arm: str) -> Template:
        """Return the label template of an arm; the untuned model is asked as the vanilla arm is."""
        from negfail_nb.training import make_arms

        return make_arms(["vanilla" if arm == UNTUNED else arm], self.prefix_settings())[0].template

    def resolved(self) -> Profile:
        """Return the profile with paths seen from the project folder."""
        return replace(self.profile, model=self.model_settings(), prefix=self.prefix_settings())

    def prefix_settings(self) -> PrefixSettings:
        """Return the settings of 03, with paths seen from the project folder."""
        settings = self.profile.prefix
        ours = self.home / settings.chat_template
        chat = str(ours) if settings.chat_template and ours.is_file() else settings.chat_template
        return replace(
            settings, template_file=self.at_home(settings.template_file), chat_template=chat
        )

    def model_settings(self) -> ModelSettings:
        """Return the model's settings, with its folder seen from the project folder."""
        name = self.profile.model.name
        return (
            replace(self.profile.model, name=self.at_home(name))
            if self._is_folder(name)
            else self.profile.model
        )

    def model_files(self, name: str | None = None) -> dict[str, Path]:
        """Return a model, where it is a folder or comes with the package; hub ids have no content
        to look into.
        """
        from negfail_nb.training.model import PACKAGED

        name = self.profile.model.name if name is None else name
        if name in PACKAGED:
            return {name: PACKAGED[name]}
        return self.named(name) if self._is_folder(name) else {}

    def _is_folder(self, name: str) -> bool:
        return bool(name) and (self.home / name).is_dir()

    def named(self, *names: str) -> dict[str, Path]:
        """Return files or folders of the project by the names that settings have for them; empty
        names are left out.
        """
        return {name: self.home / name for name in names if name}

    def at_home(self, name: str) -> str:
        """Return a path of the settings, seen from the project folder; empty stays empty."""
        return str(self.home / name) if name else ""


def open_walk(
    profile: str | Profile = "pocket",
    home: str | Path = ".",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Walk:
    """Return the walk of a profile in a project folder.

    Parameters
    ----------
    profile
        A profile, or the name of one.
    home
        The project folder.
    changes
        Settings that differ from the profile's, by stage: ``{"train": {"epochs": 3}}``.
    """
    home = Path(home)
    chosen = profile if isinstance(profile, Profile) else get_profile(profile, home)
    return Walk(chosen.change(**changes) if changes else chosen, home)
