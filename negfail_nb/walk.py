"""The walk from raw logs to compared arms: one method a stage, each reading and writing run folders.

A stage that is done is read from disk, one that is not is computed, with whatever it needs before it. So every notebook
runs by itself, and the command line does the same as the notebooks.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb import runs
from negfail_nb.collect import Logs, load_trajectories
from negfail_nb.pocket import generate_logs
from negfail_nb.prefix import Rendered, render
from negfail_nb.profiles import ModelSettings, PrefixSettings, Profile, get_profile
from negfail_nb.quality import Report, assess
from negfail_nb.steps import text
from negfail_nb.trajectory import Problem, Trajectory, UnreadableLog, read_trajectories, write_trajectories

if TYPE_CHECKING:
    import pandas as pd

    from negfail_nb.train import Arm, TrainedRun

logger = logging.getLogger("negfail_nb")

STAGES = ("collect", "quality", "prefix", "train", "evaluate")


@dataclass(frozen=True, slots=True)
class ArmData:
    """What one arm trains on, and the held-out successes under its own inference prompt."""

    train: Rendered
    heldout: Rendered


@dataclass(frozen=True, slots=True)
class Walk:
    """One profile walked in one project folder.

    Attributes
    ----------
    profile
        Settings of all stages.
    home
        The project folder: ``runs/`` and ``figures/`` are made in it, relative paths in settings start from it.
    """

    profile: Profile
    home: Path

    @property
    def figures(self) -> Path:
        """Where the figures of this profile go."""
        return self.home / "figures" / self.profile.name

    def collect(self) -> Logs:
        """01: read the profile's logs, or generate some."""
        run = self.run("collect")
        problems = json.loads(run.path("problems.json").read_text(encoding="utf-8"))
        return Logs(tuple(read_trajectories(run.path("trajectories.jsonl"))), tuple(Problem(*p) for p in problems))

    def quality(self) -> Report:
        """02: say why runs failed, filter, split by question."""
        return Report.load(self.run("quality").folder)

    def prefix(self) -> dict[str, ArmData]:
        """03: label and tokenise each arm's data; the tokenizer is trained here where the model has none."""
        from negfail_nb.train import load_tokenizer

        run = self.run("prefix")
        tokenizer = load_tokenizer(replace(self.profile.model, name=str(run.path("tokenizer"))))
        return {
            arm: ArmData(*(Rendered.load(run.path(arm) / part, tokenizer) for part in ("train", "heldout")))
            for arm in self.profile.train.arms
        }

    def train(self) -> dict[str, TrainedRun]:
        """04: fine-tune one model an arm, from the same start. An interrupted arm goes on from its last checkpoint."""
        from negfail_nb.train import TrainedRun

        return {arm: TrainedRun.open(self.run(f"train-{arm}").path("model")) for arm in self.profile.train.arms}

    def evaluate(self) -> pd.DataFrame:
        """05: perplexity on held-out successes, each arm under its own prompt, with intervals over questions."""
        import pandas as pd

        return pd.read_csv(self.run("evaluate").path("comparison.csv"))

    def run(self, stage: str) -> runs.Run:
        """Return the finished run of a stage under this profile's settings; compute it first where it is not there.

        Parameters
        ----------
        stage
            One of ``STAGES``; training has one an arm, such as ``"train-nat"``.

        Raises
        ------
        ValueError
            For a stage that does not exist.
        """
        name, _, arm = stage.partition("-")
        if name not in STAGES:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
        settings, inputs = self._plan(name, arm)
        run = runs.start(f"{self.profile.name}/{stage}", settings, inputs, self.home / "runs")
        if not run.done:
            began = time.perf_counter()
            results = getattr(self, f"_make_{name}")(run, *([arm] if arm else []))
            run.finish(results, round(time.perf_counter() - began, 2))
        return run

    def folders(self, stage: str) -> list[Path]:
        """Return the run folders of a stage; training has one an arm."""
        names = [f"train-{arm}" for arm in self.profile.train.arms] if stage == "train" else [stage]
        return [self.run(name).folder for name in names]

    def files(self) -> dict[str, Path]:
        """Return the files and folders outside of ``runs/`` that this profile reads, by the names in its settings."""
        profile = self.profile
        names = (*profile.collect.logs, profile.collect.questions, *profile.quality.evaluation)
        return self._files(*names, profile.prefix.template_file, *self._model_folder())

    def provenance(self, stage: str) -> dict[str, Any]:
        """Return what a figure of a stage came from: profile, settings, fingerprint and results of its run."""
        run = self.run(stage)
        return {"profile": self.profile.name, **run.plan, "results": run.manifest["results"]}

    def _plan(self, stage: str, arm: str) -> tuple[Any, dict[str, Path | runs.Run]]:
        """What a stage depends on: settings and inputs. Whatever is not here may change without computing it anew."""
        profile, train = self.profile, runs.plain(self.profile.train)
        if stage == "collect":
            return profile.collect, self._files(*profile.collect.logs, profile.collect.questions)
        if stage == "quality":
            return profile.quality, {"collect": self.run("collect"), **self._files(*profile.quality.evaluation)}
        if stage == "prefix":
            chosen = {name: train[name] for name in ("arms", "successes", "failures", "seed")}
            settings = {"prefix": profile.prefix, "model": profile.model, "train": chosen}
            files = self._files(profile.prefix.template_file, *self._model_folder())
            return settings, {"quality": self.run("quality"), **files}
        prefix = self.run("prefix")
        if stage == "train":
            # One arm's training does not depend on which other arms there are, nor on how often it is saved.
            alone = {name: value for name, value in train.items() if name not in ("arms", "save_steps")}
            settings = {"train": alone, "model": profile.model, "lora": profile.lora}
            data = {"data": prefix.path(arm) / "train", "tokenizer": prefix.path("tokenizer")}
            return settings, {**data, **self._files(*self._model_folder())}
        trained = {f"train-{arm}": self.run(f"train-{arm}") for arm in profile.train.arms}
        return profile.evaluate, {"prefix": prefix, **trained}

    def _make_collect(self, run: runs.Run) -> dict[str, int]:
        settings = self.profile.collect
        if settings.logs:
            places = [self.home / name for name in settings.logs]
            logs = load_trajectories(places, replace(settings, questions=self._at_home(settings.questions)))
        else:
            logs = Logs(tuple(generate_logs(settings.generate, settings.attempts, settings.seed)), ())
        if not logs:
            reasons = "; ".join(map(str, logs.problems[:5]))
            raise UnreadableLog(f"none of {', '.join(settings.logs)} holds a run that can be read: {reasons}")
        write_trajectories(run.path("trajectories.jsonl"), logs.trajectories)
        runs.write_json(run.path("problems.json"), [[p.file, p.record, p.reason] for p in logs.problems])
        return {"trajectories": len(logs), "problems": len(logs.problems)}

    def _make_quality(self, run: runs.Run) -> dict[str, int]:
        settings, logs = self.profile.quality, self.collect()
        places = tuple(self._at_home(name) for name in settings.evaluation)
        report = assess(logs.trajectories, replace(settings, evaluation=places))
        report.save(run.folder)
        return {"read": len(logs), "kept": len(report.kept)}

    def _make_prefix(self, run: runs.Run) -> dict[str, Any]:
        from negfail_nb.train import load_tokenizer, make_arms

        kept, settings = self.quality().kept, self._prefix_settings()
        tokenizer = load_tokenizer(self._model_settings(), _texts(kept))
        tokenizer.save_pretrained(run.path("tokenizer"))
        arms = make_arms(self.profile.train.arms, settings)
        rendered = {arm.name: self._render_arm(arm, kept, tokenizer, settings) for arm in arms}
        heldout = in_all({name: data.heldout for name, data in rendered.items()})
        for name, data in rendered.items():
            data.train.save(run.path(name) / "train")
            heldout[name].save(run.path(name) / "heldout")
        return {name: {"train": len(data.train), "heldout": len(heldout[name])} for name, data in rendered.items()}

    def _make_train(self, run: runs.Run, arm: str) -> dict[str, Any]:
        from negfail_nb.train import train

        data, profile = self.prefix()[arm].train, self.profile
        logger.info("training the arm %s on %d trajectories", arm, len(data))
        result = train(data, profile.train, self._model_settings(), profile.lora, run.path("model"))
        return {"trajectories": len(data), "steps": result.steps, "tokens": result.tokens}

    def _make_evaluate(self, run: runs.Run) -> dict[str, Any]:
        from negfail_nb.evaluate import compare, perplexity

        data, settings = self.prefix(), self.profile.evaluate
        scores = {arm: perplexity(t.load(), data[arm].heldout, settings) for arm, t in self.train().items()}
        table = compare(scores, settings)
        table.to_csv(run.path("comparison.csv"), index=False)
        return dict(zip(table["arm"], table["perplexity"].round(4), strict=True))

    def _render_arm(self, arm: Arm, kept: Sequence[Trajectory], tokenizer: Any, settings: PrefixSettings) -> ArmData:
        from negfail_nb.train import select

        chosen = select(kept, arm, self.profile.train).trajectories
        heldout = [t for t in kept if t.split == "heldout" and t.success]
        train = render(chosen, arm.template, tokenizer, settings)
        return ArmData(train, render(heldout, arm.template, tokenizer, settings, inference=True))

    def _prefix_settings(self) -> PrefixSettings:
        settings = self.profile.prefix
        ours = self.home / settings.chat_template
        chat = str(ours) if settings.chat_template and ours.is_file() else settings.chat_template
        return replace(settings, template_file=self._at_home(settings.template_file), chat_template=chat)

    def _model_folder(self) -> list[str]:
        """The model's name where it is a folder, seen from the project; hub ids have no content to look into."""
        name = self.profile.model.name
        return [name] if name and (self.home / name).is_dir() else []

    def _model_settings(self) -> ModelSettings:
        folder = self._model_folder()
        return replace(self.profile.model, name=self._at_home(folder[0])) if folder else self.profile.model

    def _files(self, *names: str) -> dict[str, Path]:
        return {name: self.home / name for name in names if name}

    def _at_home(self, name: str) -> str:
        return str(self.home / name) if name else ""


def in_all(rendered: Mapping[str, Rendered]) -> dict[str, Rendered]:
    """Keep the examples that every arm has whole, so that all are scored on the same tokens.

    Prompts differ in length, so what fits into the window under one label may not fit under another. What is left
    out is added to ``skipped``.

    Raises
    ------
    ValueError
        Where nothing is left; the text says what to change.
    """
    whole = [{e.id: int(e.trained.sum()) for e in r.examples if not e.truncated_turns} for r in rendered.values()]
    common = {i for i in whole[0] if all(w.get(i) == whole[0][i] for w in whole)}
    if not common:
        given = max(len(r) + len(r.skipped) for r in rendered.values())
        if not given:
            raise ValueError(
                "no successful run is held out for evaluation; raise quality.heldout, or give more questions"
            )
        raise ValueError(
            f"none of {given} held-out successes is whole under every arm's prompt; raise prefix.max_tokens or "
            f"quality.heldout. Reasons: {_reasons(rendered.values())}"
        )
    kept = {}
    for name, r in rendered.items():
        left = tuple(Problem("", e.id, "not whole under every arm's prompt") for e in r.examples if e.id not in common)
        examples = tuple(e for e in r.examples if e.id in common)
        kept[name] = replace(r, examples=examples, skipped=r.skipped + left)
    return kept


def _reasons(rendered: Iterable[Rendered], most: int = 3) -> str:
    counts = Counter(problem.reason for r in rendered for problem in r.skipped)
    return "; ".join(f"{reason} ({count} times)" for reason, count in counts.most_common(most)) or "all were cut short"


def _texts(trajectories: Sequence[Trajectory]) -> list[str]:
    return [text(m) for t in trajectories if t.split != "heldout" for m in t.messages]


def open_walk(
    profile: str | Profile = "auto", home: str | Path = ".", changes: Mapping[str, Mapping[str, Any]] | None = None
) -> Walk:
    """Return the walk of a profile in a project folder.

    Parameters
    ----------
    profile
        A profile, or the name of one. ``"auto"``: real logs where they lie beside the project, else generated ones.
    home
        The project folder.
    changes
        Settings that differ from the profile's, by stage: ``{"train": {"epochs": 3}}``.
    """
    home = Path(home)
    chosen = profile if isinstance(profile, Profile) else get_profile(profile, home)
    return Walk(chosen.change(**changes) if changes else chosen, home)
