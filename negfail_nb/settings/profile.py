"""Profiles: one of each stage's settings under a name.

Change a setting with ``profile.change(train={"epochs": 3})``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from negfail_nb.settings.checked import Checked
from negfail_nb.settings.learning import (
    BudgetSettings,
    CollectSettings,
    EndpointSettings,
    EvaluateSettings,
    LiveSettings,
    LoraSettings,
    ModelSettings,
    PreferenceSettings,
    PrefixSettings,
    QualitySettings,
    TrainSettings,
)
from negfail_nb.settings.measuring import (
    DEFAULT_ARMS,
    BenchmarkSettings,
    ClaimSettings,
    ContextSettings,
    LiteratureSettings,
    ReadingSettings,
    RetrievalSettings,
)

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
DATA = "NEGFAIL_NB_DATA"  # environment variable: a folder of data, instead of the project's data/


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One of each settings, under a name."""

    name: str
    collect: CollectSettings = CollectSettings()
    live: LiveSettings = LiveSettings()
    endpoint: EndpointSettings = EndpointSettings()
    budget: BudgetSettings = BudgetSettings()
    quality: QualitySettings = QualitySettings()
    prefix: PrefixSettings = PrefixSettings()
    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    train: TrainSettings = TrainSettings()
    preference: PreferenceSettings = PreferenceSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()
    reading: ReadingSettings = ReadingSettings()
    contexts: ContextSettings = ContextSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    literature: LiteratureSettings = LiteratureSettings()
    claims: ClaimSettings = ClaimSettings(encoder="auto")

    def change(self, **stages: Mapping[str, Any]) -> Profile:
        """Return a copy with some settings changed: ``profile.change(train={"epochs": 3})``.

        Raises
        ------
        ValueError
            If a stage or a setting does not exist; the text lists those that do.
        """
        changed = {}
        for stage, values in stages.items():
            if stage == "name" or stage not in {f.name for f in fields(self)}:
                known = ", ".join(f.name for f in fields(self)[1:])
                raise ValueError(f"a profile has no stage {stage!r}; it has {known}")
            if not isinstance(values, Mapping):
                wanted = f'{{"{stage}": {{"setting": value}}}}'
                raise ValueError(f"the changes of {stage} are {values!r}; write them as {wanted}")
            known = [f.name for f in fields(getattr(self, stage))]
            unknown = sorted(set(values) - set(known))
            if unknown:
                raise ValueError(
                    f"{stage} has no setting {', '.join(unknown)}; it has {', '.join(known)}"
                )
            changed[stage] = replace(getattr(self, stage), **values)
        return replace(self, **changed)

    def using(self, *settings: Checked) -> Profile:
        """Return a copy with other settings of some stages, such as those of a form."""
        homeless = [type(s).__name__ for s in settings if not stage_of(s)]
        if homeless:
            raise ValueError(
                f"a profile has no {', '.join(homeless)}; give settings of one of its stages"
            )
        return replace(self, **{stage_of(s): s for s in settings})


def stage_of(settings: Checked) -> str:
    """Return which stage of a profile settings belong to; empty for those of no profile."""
    return next((f.name for f in fields(Profile) if type(f.default) is type(settings)), "")


def profiles(home: str | Path = ".") -> dict[str, Profile]:
    """Return the named profiles.

    ``pocket`` generates its logs and tunes the small model that comes with the package, which then
    plays live; ``smollm`` tunes a small pretrained model on public questions; ``logs`` reads the
    logs in `data_folder` and makes a small model from nothing; ``llama-8b`` and ``llama-70b`` tune
    a real model with LoRA, in bfloat16, on GPUs.
    """
    hub = {"batch_tokens": 65_536, "learning_rate": 2e-4, "dtype": "bfloat16"}
    # The small model reads a few pages, and knows passages and questions without instructions.
    asked = BenchmarkSettings(model="pocket-llama")
    bare = ReadingSettings(prompt="bare", concurrency=8)
    # Not self_route: this model was not taught to say that it cannot answer.
    budgets = ("dos_rag@512", "dos_rag@1024")
    pages = ContextSettings(lengths=(512, 1024, 2048, 4096))
    arms = (*DEFAULT_ARMS, "dos_rag", "self_route")
    served = BenchmarkSettings(data="hotpotqa", player="endpoint", questions=500, arms=arms)
    real = CollectSettings(logs=(data_folder(home).as_posix(),))
    window = PrefixSettings(max_tokens=4096)
    named = (
        Profile(
            name="pocket",
            collect=CollectSettings(generate=200),
            # The model knows the form already; two cores have time for short episodes.
            live=LiveSettings(
                attempts=4, instruction=False, results=1, max_tokens=96, concurrency=64
            ),
            model=ModelSettings(name="pocket-llama"),
            # Small steps seemed to teach a model of this size more (docs/decisions.md).
            train=TrainSettings(successes=100, failures=200, batch_tokens=512, learning_rate=3e-4),
            evaluate=EvaluateSettings(agent_questions=60, temperature=0.0),
            benchmark=replace(asked, arms=(*asked.arms, "retrieve_3_no_model", "agent", *budgets)),
            reading=bare,
            contexts=pages,
        ),
        Profile(
            name="smollm",
            # A warm start on worked solutions, then the model's own attempts at other questions.
            collect=CollectSettings(
                player="model", questions=("svamp/train",), demonstrations=240, generate=340
            ),
            live=LiveSettings(
                attempts=4,
                temperatures=(0.5, 0.7, 1.0, 1.0),
                max_calls=4,
                max_tokens=64,
                instruction=False,
                concurrency=128,
            ),
            quality=QualitySettings(heldout=0.1),
            model=ModelSettings(name=SMOLLM),
            train=TrainSettings(
                arms=("vanilla", "nut", "nat"),
                successes=60,
                failures=240,
                batch_tokens=1024,
                learning_rate=1e-4,
                dtype="auto",
            ),
            evaluate=EvaluateSettings(
                questions=("svamp", "multiarith", "addsub"), agent_questions=300, temperature=0.0
            ),
            benchmark=BenchmarkSettings(
                data="hotpotqa",
                questions=36,
                model=SMOLLM,
                arms=(*DEFAULT_ARMS, "retrieve_3_no_model", "dos_rag@1024"),
                reader_examples=120,
            ),
            reading=ReadingSettings(passages=3, total=9, answer_tokens=48),
            contexts=ContextSettings(lengths=(1024, 2048, 4096, 8192)),
            retrieval=RetrievalSettings(method="linked"),
        ),
        Profile(
            name="logs",
            collect=real,
            quality=QualitySettings(cap_question=12),
            model=ModelSettings(layers=3, width=128, heads=4, vocabulary=4096),
            # A model made from nothing needs many small steps; arms share them to be comparable.
            train=TrainSettings(
                successes=300,
                failures=600,
                budget="steps",
                steps=300,
                batch_tokens=2048,
                learning_rate=2e-3,
            ),
            benchmark=asked,
            reading=bare,
            contexts=pages,
        ),
        Profile(
            name="llama-8b",
            collect=real,
            prefix=window,
            model=ModelSettings(name="meta-llama/Llama-3.1-8B-Instruct"),
            lora=LoraSettings(rank=64, alpha=128),
            train=TrainSettings(**hub),
            benchmark=replace(served, model="meta-llama/Llama-3.1-8B-Instruct"),
            retrieval=RetrievalSettings(method="linked-hybrid"),
        ),
        Profile(
            name="llama-70b",
            collect=real,
            prefix=window,
            model=ModelSettings(name="meta-llama/Llama-3.1-70B-Instruct"),
            lora=LoraSettings(rank=32, alpha=64),
            train=TrainSettings(**hub | {"learning_rate": 1e-4}),
            benchmark=replace(served, model="meta-llama/Llama-3.1-70B-Instruct"),
            retrieval=RetrievalSettings(method="linked-hybrid"),
        ),
    )
    return {profile.name: profile for profile in named}


def get_profile(name: str, home: str | Path = ".") -> Profile:
    """Return a named profile.

    Parameters
    ----------
    name
        One of `profiles`.
    home
        The project folder.

    Raises
    ------
    ValueError
        For an unknown name; the text lists the known ones.
    """
    named = profiles(home)
    if name not in named:
        raise ValueError(f"no profile {name!r}; there are {', '.join(named)}")
    return named[name]


def data_folder(home: str | Path = ".") -> Path:
    """Return the folder of one's own logs: ``data``, or what ``NEGFAIL_NB_DATA`` says.

    Like all paths in settings it is seen from the project folder ``home``. Its subfolder
    ``trajectories`` is taken if there is one: then other data lie beside the logs.
    """
    folder = Path(os.environ.get(DATA) or "data")
    logs = folder / "trajectories"
    return logs if (Path(home) / logs).is_dir() else folder
