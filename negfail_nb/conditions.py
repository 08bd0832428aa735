"""The paper's studies (arXiv 2402.11651) as conditions, and a later one: all that is trained, in
one list.

They are about math word problems with a calculator, on logs that a model played live; a profile may
take them to other tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ARMS = ("vanilla", "nut", "nat")
PARTIAL = ("vanilla", "nat", "nat-steps", "weighted")
PAPER_EPOCHS = 2.0
SUCCESSES = (60, 120, 250, 500)
FAILURES_A_SUCCESS = (2, 4)
WORDINGS = ("target-aware", "prefix-correct", "prefix-good", "prefix-AB", "random-sentence")
# Of a failed math problem: every action was valid, and it ended with an answer (`quality`).
CLEAN = 0.3


@dataclass(frozen=True, slots=True)
class Condition:
    """One way of training, to be repeated with several seeds.

    Attributes
    ----------
    study
        Which question it belongs to; a condition may belong to several.
    name
        Short and unique within the study.
    arm
        The arm that is trained.
    changes
        Settings that differ from the profile's, by stage.
    against
        The condition of the same study that it is compared with; empty: the study's first.
    """

    study: str
    name: str
    arm: str
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    against: str = ""


def paper_studies(
    successes: int = 120,
    failures: int = 480,
    hottest: float = 1.0,
    numbers: Sequence[int] = SUCCESSES,
) -> list[Condition]:
    """Return the paper's questions as conditions, and one that came after it.

    1. ``arms``: few successes and many failures, as many steps for each arm (tables 2 to 4);
       ``epochs``: the same with two epochs per arm, as in the paper, so arms with failures take
       more steps.
    2. ``failures`` and ``successes``: their numbers (figures 2 and 3).
    3. ``wordings``: five pairs of labels (table 7).
    4. ``quality``: failures of the usual sampler, those of a hotter one, and the hotter ones above
       a quality score. (Table 5 has failures of a weaker model instead.)
    5. ``steps``: parts of failed runs, as many steps of training for each arm: good steps only, and
       runs weighed by their quality (EEF, arXiv 2504.13145; RIFT, arXiv 2601.09253), beside the
       arms `vanilla` and `nat` of ``arms``.

    Action errors (table 6) are measured in every cell. The studies of 2 to 4 take the profile's
    ``train.budget``, so whatever it is, they share cells with ``arms`` or with ``epochs``.

    Parameters
    ----------
    successes, failures
        Of the condition that the studies share.
    hottest
        Temperature of the attempts whose failures are the hotter sampler's. The usual failures are
        all that the profile keeps (``quality.failure_temperatures``).
    numbers
        Of ``successes``, beside its shared one.
    """
    shared = {"successes": successes, "failures": failures}

    def train(**changed: Any) -> dict[str, dict[str, Any]]:
        return {"train": shared | changed}

    counts = sorted({successes, *numbers})
    fails = sorted({failures, *(n * successes for n in FAILURES_A_SUCCESS)})
    few = train(failures=fails[0])  # there are fewer hot failures than failures
    hot = {"failure_temperatures": (hottest, hottest)}
    return [
        *(Condition("arms", arm, arm, train(budget="steps")) for arm in ARMS),
        *(
            Condition("epochs", arm, arm, train(budget="epochs", epochs=PAPER_EPOCHS))
            for arm in ARMS
        ),
        Condition("failures", "vanilla 0", "vanilla", train()),
        *(
            Condition("failures", f"{arm} {count}", arm, train(failures=count))
            for count in fails
            for arm in ("nut", "nat")
        ),
        *(
            Condition(
                "successes", f"{arm} {count}", arm, train(successes=count), f"vanilla {count}"
            )
            for count in counts
            for arm in ARMS
        ),
        *(
            Condition("wordings", name, "nat", train() | {"prefix": {"template": name}})
            for name in WORDINGS
        ),
        Condition("quality", "usual failures", "nat", few),
        Condition("quality", "hotter failures", "nat", few | {"quality": hot}),
        Condition(
            "quality",
            f"hotter, score >= {CLEAN}",
            "nat",
            few | {"quality": hot | {"min_score": CLEAN}},
        ),
        *(Condition("steps", arm, arm, train(budget="steps")) for arm in PARTIAL),
    ]
