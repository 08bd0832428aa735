"""The walk from raw logs to compared arms: one method a stage, each reading and writing run folders.

A stage that is done is read from disk, one that is not is computed, with whatever it needs before it. So every notebook
runs by itself, and the command line does the same as the notebooks.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb import runs
from negfail_nb.collect import Logs, load_trajectories
from negfail_nb.pocket import generate_logs
from negfail_nb.prefix import Rendered, render
from negfail_nb.profiles import Profile, get_profile
from negfail_nb.quality import Report, assess
from negfail_nb.steps import text
from negfail_nb.trajectory import Problem, Trajectory, read_trajectories, write_trajectories

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
        The project folder: ``runs/`` and ``figures/`` are made in it, relative log paths start from it.
    """

    profile: Profile
    home: Path

    @property
    def figures(self) -> Path:
        """Where the figures of this profile go."""
        return self.home / "figures" / self.profile.name

    def collect(self) -> Logs:
        """01: read the profile's logs, or generate some."""
        run, began = self._start("collect", self.profile.collect, self._log_files()), time.perf_counter()
        if not run.done:
            logs = self._read_logs()
            write_trajectories(run.path("trajectories.jsonl"), logs.trajectories)
            runs.write_json(run.path("problems.json"), [[p.file, p.record, p.reason] for p in logs.problems])
            run.finish({"trajectories": len(logs), "problems": len(logs.problems)}, time.perf_counter() - began)
        problems = json.loads(run.path("problems.json").read_text(encoding="utf-8"))
        return Logs(tuple(read_trajectories(run.path("trajectories.jsonl"))), tuple(Problem(*p) for p in problems))

    def quality(self) -> Report:
        """02: say why runs failed, filter, split by question."""
        logs = self.collect()
        run, began = self._start("quality", self.profile.quality, {"collect": self.run("collect")}), time.perf_counter()
        if not run.done:
            report = assess(logs.trajectories, self.profile.quality)
            report.save(run.folder)
            run.finish({"kept": len(report.kept), "read": len(logs)}, time.perf_counter() - began)
        return Report.load(run.folder)

    def prefix(self) -> dict[str, ArmData]:
        """03: label and tokenise each arm's data; the tokenizer is trained here where the model has none."""
        from negfail_nb.train import load_tokenizer, make_arms

        report = self.quality()
        run, began = (
            self._start("prefix", self._prefix_settings(), {"quality": self.run("quality")}),
            time.perf_counter(),
        )
        if not run.done:
            tokenizer = load_tokenizer(self.profile.model, _texts(report.kept))
            tokenizer.save_pretrained(run.path("tokenizer"))
            arms = make_arms(self.profile.train.arms, self.profile.prefix)
            rendered = {arm.name: self._render_arm(arm, report.kept, tokenizer) for arm in arms}
            heldout = in_all({name: data.heldout for name, data in rendered.items()})
            for name, data in rendered.items():
                data.train.save(run.path(name) / "train")
                heldout[name].save(run.path(name) / "heldout")
            sizes = {name: {"train": len(d.train), "heldout": len(heldout[name])} for name, d in rendered.items()}
            run.finish(sizes, time.perf_counter() - began)
        tokenizer = load_tokenizer(replace(self.profile.model, name=str(run.path("tokenizer"))))
        return {
            arm: ArmData(*(Rendered.load(run.path(arm) / part, tokenizer) for part in ("train", "heldout")))
            for arm in self.profile.train.arms
        }

    def train(self) -> dict[str, TrainedRun]:
        """04: fine-tune one model an arm, from the same start. An interrupted arm goes on from its last checkpoint."""
        from negfail_nb.train import TrainedRun, train

        trained, data = {}, self.prefix()
        for arm, part in data.items():
            run, began = (
                self._start(f"train-{arm}", self._train_settings(), self._train_inputs(arm)),
                time.perf_counter(),
            )
            if not run.done:
                logger.info("training the arm %s on %d trajectories", arm, len(part.train))
                result = train(part.train, self.profile.train, self.profile.model, self.profile.lora, run.path("model"))
                run.finish({"steps": result.steps, "tokens": result.tokens}, time.perf_counter() - began)
            trained[arm] = TrainedRun.open(run.path("model"))
        return trained

    def evaluate(self) -> pd.DataFrame:
        """05: perplexity on held-out successes, each arm under its own prompt, with intervals over questions."""
        import pandas as pd

        from negfail_nb.evaluate import compare, perplexity

        trained = self.train()
        inputs = {f"train-{arm}": self.run(f"train-{arm}") for arm in trained}
        run, began = self._start("evaluate", self.profile.evaluate, inputs), time.perf_counter()
        if not run.done:
            data, settings = self.prefix(), self.profile.evaluate
            scores = {arm: perplexity(t.load(), data[arm].heldout, settings) for arm, t in trained.items()}
            compare(scores, settings).to_csv(run.path("comparison.csv"), index=False)
            run.finish({}, time.perf_counter() - began)
        return pd.read_csv(run.path("comparison.csv"))

    def run(self, stage: str) -> runs.Run:
        """Return the newest finished run of a stage of this profile."""
        return runs.latest(f"{self.profile.name}/{stage}", self.home / "runs")

    def folders(self, stage: str) -> list[Path]:
        """Return the run folders of a finished stage; training has one an arm."""
        names = [f"train-{arm}" for arm in self.profile.train.arms] if stage == "train" else [stage]
        return [self.run(name).folder for name in names]

    def provenance(self, stage: str) -> dict[str, Any]:
        """Return what a figure of a stage came from: profile, settings, fingerprint and results of its run."""
        run = self.run(stage)
        return {"profile": self.profile.name, **run.plan, "results": run.manifest["results"]}

    def _start(self, stage: str, settings: Any, inputs: Mapping[str, Any]) -> runs.Run:
        return runs.start(f"{self.profile.name}/{stage}", settings, inputs, self.home / "runs")

    def _log_files(self) -> dict[str, Path]:
        settings = self.profile.collect
        names = [*settings.logs, *([settings.questions] if settings.questions else [])]
        return {name: self.home / name for name in names}

    def _read_logs(self) -> Logs:
        settings = self.profile.collect
        if not settings.logs:
            return Logs(tuple(generate_logs(settings.generate, settings.attempts, settings.seed)), ())
        return load_trajectories([self.home / name for name in settings.logs], settings)

    def _prefix_settings(self) -> dict[str, Any]:
        train = runs.plain(self.profile.train)
        chosen = {name: train[name] for name in ("arms", "successes", "failures", "seed")}
        return {"prefix": self.profile.prefix, "model": self.profile.model, "train": chosen}

    def _train_settings(self) -> dict[str, Any]:
        # One arm's training does not depend on which other arms there are.
        train = {name: value for name, value in runs.plain(self.profile.train).items() if name != "arms"}
        return {"train": train, "model": self.profile.model, "lora": self.profile.lora}

    def _train_inputs(self, arm: str) -> dict[str, Path]:
        folder = self.run("prefix").folder
        return {"data": folder / arm / "train", "tokenizer": folder / "tokenizer"}

    def _render_arm(self, arm: Arm, kept: Sequence[Trajectory], tokenizer: Any) -> ArmData:
        from negfail_nb.train import select

        chosen = select(kept, arm, self.profile.train).trajectories
        heldout = [t for t in kept if t.split == "heldout" and t.success]
        train = render(chosen, arm.template, tokenizer, self.profile.prefix)
        return ArmData(train, render(heldout, arm.template, tokenizer, self.profile.prefix, inference=True))


def in_all(rendered: Mapping[str, Rendered]) -> dict[str, Rendered]:
    """Keep the examples that every arm has whole, so that all are scored on the same tokens.

    Prompts differ in length, so what fits into the window under one label may not fit under another. What is left out is
    added to ``skipped``.

    Raises
    ------
    ValueError
        Where nothing is left; the text says what to change.
    """
    whole = [{e.id: int(e.trained.sum()) for e in r.examples if not e.truncated_turns} for r in rendered.values()]
    common = {i for i in whole[0] if all(w.get(i) == whole[0][i] for w in whole)}
    if not common:
        given = max(len(r) + len(r.skipped) for r in rendered.values())
        raise ValueError(
            f"none of {given} held-out successes is whole under every arm's prompt; raise prefix.max_tokens or quality.heldout"
        )
    kept = {}
    for name, r in rendered.items():
        left = tuple(Problem("", e.id, "not whole under every arm's prompt") for e in r.examples if e.id not in common)
        examples = tuple(e for e in r.examples if e.id in common)
        kept[name] = replace(r, examples=examples, skipped=r.skipped + left)
    return kept


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
