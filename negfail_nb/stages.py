"""What each stage of a walk computes: from its inputs into its run folder. `negfail_nb.walk.Walk`
calls these.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from negfail_nb import runs
from negfail_nb.agents.opening import ask, open_agent, open_player, play
from negfail_nb.csvs import write_csv
from negfail_nb.logs import Logs, load_trajectories
from negfail_nb.pocket import Mistakes, generate_logs
from negfail_nb.prefix import Rendered, render
from negfail_nb.quality import assess
from negfail_nb.settings import PrefixSettings, TrainSettings
from negfail_nb.steps import text
from negfail_nb.trajectory import Problem, Trajectory, UnreadableLog, write_trajectories

if TYPE_CHECKING:
    from negfail_nb.training import Arm
    from negfail_nb.walk import Walk

logger = logging.getLogger("negfail_nb")

UNTUNED = "untuned"
SCRIPTED = ("teacher", "worse-failures")


@dataclass(frozen=True, slots=True)
class ArmData:
    """What one arm trains on, and the held-out successes under its own inference prompt."""

    train: Rendered
    heldout: Rendered


def read_logs(walk: Walk, run: runs.Run) -> dict[str, int]:
    """01: read the logs."""
    settings = walk.profile.collect
    if settings.player != "teacher":
        raise ValueError(
            f"collect.player is {settings.player!r}, but collect.logs are given too; keep one of them"
        )
    places = [walk.home / name for name in settings.logs]
    logs = load_trajectories(places, replace(settings, questions=walk.at_home(settings.questions)))
    if not logs:
        reasons = "; ".join(map(str, logs.problems[:5]))
        raise UnreadableLog(
            f"none of {', '.join(settings.logs)} holds a run that can be read: {reasons}"
        )
    return _keep(logs, run)


def generate(walk: Walk, run: runs.Run) -> dict[str, int]:
    """01: generate logs; where the failures come from a worse teacher, it fails at the same
    questions.
    """
    settings, results = walk.profile.collect, walk.profile.live.results
    given, same = (
        (settings.generate, settings.attempts, settings.seed),
        {"split": "train", "wordings": "train"},
    )
    usual = generate_logs(*given, results=results, **same)
    if settings.player == "teacher":
        return _keep(Logs(tuple(usual), ()), run)
    worse = (
        t for t in generate_logs(*given, Mistakes.worse(), results=results, **same) if not t.success
    )
    renamed = [
        t.replace(id=f"{t.id}-worse", source=replace(t.source, model="worse-scripted-teacher"))
        for t in worse
    ]
    return _keep(Logs((*(t for t in usual if t.success), *renamed), ()), run)


def play_live(walk: Walk, run: runs.Run) -> dict[str, int]:
    """01: let the profile's player answer its questions, live."""
    profile = walk.resolved()
    return _keep(play(profile, open_player(profile), walk.home, run.path("episodes.jsonl")), run)


def _keep(logs: Logs, run: runs.Run) -> dict[str, int]:
    write_trajectories(run.path("trajectories.jsonl"), logs.trajectories)
    runs.write_json(
        run.path("problems.json"), [[p.file, p.record, p.reason] for p in logs.problems]
    )
    return {"trajectories": len(logs), "problems": len(logs.problems)}


def make_quality(walk: Walk, run: runs.Run) -> dict[str, int]:
    """02: say why runs failed, filter, split."""
    settings, logs = walk.profile.quality, walk.collect()
    places = tuple(walk.at_home(name) for name in settings.evaluation)
    report = assess(logs.trajectories, replace(settings, evaluation=places))
    report.save(run.folder)
    return {"read": len(logs), "kept": len(report.kept)}


def make_prefix(walk: Walk, run: runs.Run) -> dict[str, Any]:
    """03: tokenizer, and each arm's data; arms by preference use those of vanilla."""
    from negfail_nb.training import load_tokenizer, make_arms

    kept, settings = walk.quality().kept, walk.prefix_settings()
    tokenizer = load_tokenizer(walk.model_settings(), _texts(kept))
    tokenizer.save_pretrained(run.path("tokenizer"))
    arms = make_arms(rendered_arms(walk.profile.train.arms), settings)
    rendered = {
        arm.name: _render_arm(arm, kept, tokenizer, settings, walk.profile.train) for arm in arms
    }
    heldout = in_all({name: data.heldout for name, data in rendered.items()})
    for name, data in rendered.items():
        data.train.save(run.path(name) / "train")
        heldout[name].save(run.path(name) / "heldout")
    return {
        name: {"train": len(data.train), "heldout": len(heldout[name])}
        for name, data in rendered.items()
    }


def fit(walk: Walk, run: runs.Run, arm: str) -> dict[str, Any]:
    """04: train one arm by imitation."""
    from negfail_nb.training import train

    data, profile = walk.arm_data(arm).train, walk.profile
    logger.info("training the arm %s on %d trajectories", arm, len(data))
    result = train(data, profile.train, walk.model_settings(), profile.lora, run.path("model"))
    return {"trajectories": len(data), "steps": result.steps, "tokens": result.tokens}


def prefer(walk: Walk, run: runs.Run, name: str) -> dict[str, Any]:
    """04: train an arm by preference, from the vanilla arm's model on."""
    from negfail_nb.training import TrainedRun, make_arms, select, train_preference

    profile, settings = walk.profile, walk.prefix_settings()
    arm = make_arms([name], settings)[0]
    chosen = select(walk.quality().kept, arm, profile.train)
    start = TrainedRun.open(walk.run("train-vanilla").path("model"))
    logger.info("training the arm %s on %d trajectories", name, len(chosen))
    given = profile.preference, profile.train, settings
    result = train_preference(chosen, arm, start, *given, run.path("model"))
    return {"trajectories": len(chosen), "steps": result.steps, "tokens": result.tokens}


def make_evaluate(walk: Walk, run: runs.Run) -> dict[str, Any]:
    """05: perplexity on held-out successes."""
    from negfail_nb.evaluation import compare, perplexity

    data, settings = walk.prefix(), walk.profile.evaluate
    scores = {
        arm: perplexity(t.load(), data[arm].heldout, settings) for arm, t in walk.train().items()
    }
    table = compare(scores, settings)
    write_csv(table, run.path("comparison.csv"))
    return dict(zip(table["arm"], table["perplexity"].round(4), strict=True))


def rendered_arms(arms: Sequence[str]) -> tuple[str, ...]:
    """Return the arms whose data are rendered: those that learn by preference start from the
    vanilla arm.
    """
    from negfail_nb.training import PREFERENCE_ARMS

    return tuple(dict.fromkeys("vanilla" if arm in PREFERENCE_ARMS else arm for arm in arms))


def _render_arm(
    arm: Arm,
    kept: Sequence[Trajectory],
    tokenizer: Any,
    settings: PrefixSettings,
    training: TrainSettings,
) -> ArmData:
    from negfail_nb.training import select

    chosen = select(kept, arm, training)
    heldout = [t for t in kept if t.split == "heldout" and t.success]
    train = render(chosen, arm.template, tokenizer, settings)
    return ArmData(train, render(heldout, arm.template, tokenizer, settings, inference=True))


def make_agent(walk: Walk, run: runs.Run, arm: str) -> dict[str, Any]:
    """05: let one agent answer held-out questions, live."""
    from negfail_nb.training import TrainedRun

    trained = None if arm == UNTUNED else TrainedRun.open(walk.run(f"train-{arm}").path("model"))
    logger.info("asking the agent %s", arm)
    profile = walk.resolved()
    agent = open_agent(profile, trained, arm)
    scores = ask(profile, agent, walk.template(arm), walk.home, run.path("episodes.jsonl"))
    return {"em": round(scores.em, 4), "f1": round(scores.f1, 4), "episodes": len(scores.table)}


def make_benchmark(walk: Walk, run: runs.Run) -> dict[str, Any]:
    """06: the grid of arms and questions."""
    from negfail_nb.benchmarking.opening import play_grid

    made = play_grid(walk.resolved(), walk.home, run.folder, lambda: _benchmark_agent(walk))
    return {
        "answers": len(made.answers),
        **made.scores.table.groupby("arm", sort=False)["em"].mean().round(4),
    }


def _benchmark_agent(walk: Walk) -> Any:
    """Return the tuned agent of room 05 as the arm ``agent``."""
    from negfail_nb.benchmarking import Agent
    from negfail_nb.training import TrainedRun

    profile, arm = walk.resolved(), walk.profile.benchmark.agent
    trained = TrainedRun.open(walk.run(f"train-{arm}").path("model"))
    template = walk.template(arm)
    return Agent(
        model=open_agent(profile, trained, arm),
        prompt=lambda question: template.inference(question, "qa"),
        live=replace(profile.live, temperatures=(profile.reading.temperature,)),
        thoughts=profile.prefix.thoughts,
    )


def make_claims(walk: Walk, run: runs.Run) -> dict[str, int]:
    """08: judge the claims, with what is written of them and what was measured."""
    from negfail_nb.claims.opening import judge_claims

    judged = judge_claims(walk.resolved(), walk, run.folder, run.folder.parents[1] / "literature")
    return dict(Counter(verdict.measured for verdict in judged.checked.verdicts))


def in_all(rendered: Mapping[str, Rendered]) -> dict[str, Rendered]:
    """Keep the examples that every arm has whole, so that all are scored on the same tokens.

    Prompts differ in length, so what fits into the window under one label may not fit under
    another. What is left out is added to ``skipped``.

    Raises
    ------
    ValueError
        Where nothing is left; the text says what to change.
    """
    whole = [
        {e.id: int(e.trained.sum()) for e in r.examples if not e.truncated_turns}
        for r in rendered.values()
    ]
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
        left = tuple(
            Problem("", e.id, "not whole under every arm's prompt")
            for e in r.examples
            if e.id not in common
        )
        examples = tuple(e for e in r.examples if e.id in common)
        kept[name] = replace(r, examples=examples, skipped=r.skipped + left)
    return kept


def _reasons(rendered: Iterable[Rendered], most: int = 3) -> str:
    counts = Counter(problem.reason for r in rendered for problem in r.skipped)
    return (
        "; ".join(f"{reason} ({count} times)" for reason, count in counts.most_common(most))
        or "all were cut short"
    )


def _texts(trajectories: Sequence[Trajectory]) -> list[str]:
    return [text(m) for t in trajectories if t.split != "heldout" for m in t.messages]
