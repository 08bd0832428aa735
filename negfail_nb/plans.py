"""What each stage of a walk depends on: settings and inputs, one function a stage, and which
function computes it.

Whatever is not in a plan, nor in the source of that function (see `negfail_nb.source`), may change
without the stage being computed anew. So it is with the budget: a larger one goes on with what a
smaller one left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb import runs, stages
from negfail_nb.settings import LiveSettings
from negfail_nb.stages import UNTUNED
from negfail_nb.training import PREFERENCE_ARMS

if TYPE_CHECKING:
    from negfail_nb.walk import Walk

Plan = tuple[Any, dict[str, Path | runs.Run]]


def maker(walk: Walk, stage: str, arm: str) -> str:
    """Return the name of the function of `negfail_nb.stages` that computes a stage."""
    settings = walk.profile.collect
    if stage == "collect":
        scripted = "generate" if settings.player in stages.SCRIPTED else "play_live"
        return "read_logs" if settings.logs else scripted
    if stage == "train":
        return "prefer" if arm in PREFERENCE_ARMS else "fit"
    return f"make_{stage}"


def _collect(walk: Walk, _: str) -> Plan:
    settings, profile = walk.profile.collect, walk.profile
    files = walk.named(*settings.logs, settings.questions, settings.corpus)
    if settings.logs:
        return settings, files
    if settings.player in stages.SCRIPTED:
        return {"collect": settings, "results": profile.live.results}, files
    played = {"collect": settings, "live": _lasting(profile.live), "prefix": _asking(walk)}
    files |= _chat_file(walk)
    if settings.player == "endpoint":
        return {**played, "endpoint": profile.endpoint.model}, files
    return {**played, "model": profile.model}, {**files, **walk.model_files()}


def _quality(walk: Walk, _: str) -> Plan:
    settings = walk.profile.quality
    return settings, {"collect": walk.run("collect"), **walk.named(*settings.evaluation)}


def _prefix(walk: Walk, _: str) -> Plan:
    profile = walk.profile
    chosen = _chosen(profile.train, "arms", "successes", "failures", "seed")
    settings = {"prefix": profile.prefix, "model": profile.model, "train": chosen}
    files = {**walk.named(profile.prefix.template_file), **_chat_file(walk), **walk.model_files()}
    return settings, {"quality": walk.run("quality"), **files}


def _train(walk: Walk, arm: str) -> Plan:
    profile, prefix = walk.profile, walk.run("prefix")
    if arm in PREFERENCE_ARMS:
        chosen = _chosen(profile.train, "successes", "failures", "seed", "dtype")
        settings = {"preference": profile.preference, "prefix": profile.prefix, "train": chosen}
        return settings, {
            "quality": walk.run("quality"),
            "train-vanilla": walk.run("train-vanilla"),
        }
    # One arm's training does not depend on which other arms there are, nor on how often it is
    # saved.
    alone = _without(profile.train, "arms", "save_steps")
    data = {"data": prefix.path(arm) / "train", "tokenizer": prefix.path("tokenizer")}
    return {"train": alone, "model": profile.model, "lora": profile.lora}, {
        **data,
        **walk.model_files(),
    }


def _evaluate(walk: Walk, _: str) -> Plan:
    prefix = walk.run("prefix")
    trained = {f"train-{arm}": walk.run(f"train-{arm}") for arm in walk.profile.train.arms}
    # What agents are asked is not among it: more questions for them leave the perplexities as they
    # are.
    names = ("max_questions", "batch_tokens", "resamples", "confidence", "seed")
    return _chosen(walk.profile.evaluate, *names), {"prefix": prefix, **trained}


def _agent(walk: Walk, arm: str) -> Plan:
    """What an arm's agent depends on: its weights, its prompt, the questions and the protocol."""
    profile, asked = walk.profile, walk.profile.evaluate
    names = ("agent_questions", "questions", "corpus", "temperature", "max_questions", "seed")
    settings = {
        "evaluate": _chosen(asked, *names),
        "live": _lasting(profile.live),
        "prompt": walk.template(arm).inference("{}", "qa"),
        "prefix": _asking(walk),
    }
    files = {**walk.named(asked.questions, asked.corpus), **_chat_file(walk)}
    if arm == UNTUNED:
        return {**settings, "model": profile.model}, {**files, **walk.model_files()}
    return settings, {**files, "model": walk.run(f"train-{arm}")}


def _benchmark(walk: Walk, _: str) -> Plan:
    """What the answers depend on: questions, passages, contexts, and who reads."""
    profile, asked = walk.profile, walk.profile.benchmark
    settings = {
        "benchmark": asked,
        "reading": _without(profile.reading, "concurrency"),
        "contexts": profile.contexts,
        "retrieval": profile.retrieval,
        "reader": profile.endpoint.model if asked.player == "endpoint" else "",
        "live": _lasting(profile.live),
        "prefix": _asking(walk),
    }
    files = {
        **walk.named(asked.corpus),
        **_chat_file(walk),
        **walk.model_files(asked.model or profile.model.name),
    }
    if (walk.home / asked.data).is_file():
        files |= walk.named(asked.data)
    if "agent" in asked.arms:
        files["agent"] = walk.run(f"train-{asked.agent}")
    return settings, files


def _claims(walk: Walk, _: str) -> Plan:
    from negfail_nb.claims.opening import plan_claims

    settings, files = plan_claims(walk.profile, walk.home, walk.figures)
    return settings, {**files, **(walk.model_files() if any(settings["players"]) else {})}


PLANS: Mapping[str, Callable[[Walk, str], Plan]] = {
    "collect": _collect,
    "quality": _quality,
    "prefix": _prefix,
    "train": _train,
    "evaluate": _evaluate,
    "agent": _agent,
    "benchmark": _benchmark,
    "claims": _claims,
}


def _asking(walk: Walk) -> dict[str, Any]:
    """How a model here is asked: the form of its chats, and whether it is shown its thoughts."""
    return _chosen(walk.profile.prefix, "chat_template", "thoughts")


def _chat_file(walk: Walk) -> dict[str, Path]:
    """The chat template, where it is a file of the project: its content counts, not only its name."""
    name = walk.profile.prefix.chat_template
    return walk.named(name) if name and (walk.home / name).is_file() else {}


def _lasting(live: LiveSettings) -> dict[str, Any]:
    """The settings that decide what is played, and not how fast."""
    return _without(live, "concurrency")


def _chosen(settings: Any, *names: str) -> dict[str, Any]:
    """Some of a stage's settings, as plain values."""
    values = runs.plain(settings)
    return {name: values[name] for name in names}


def _without(settings: Any, *names: str) -> dict[str, Any]:
    """All of a stage's settings but some, as plain values."""
    return {name: value for name, value in runs.plain(settings).items() if name not in names}
