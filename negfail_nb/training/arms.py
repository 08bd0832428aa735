"""The arms: which trajectories each uses, and how their outcome is told to the model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from negfail_nb.settings import PrefixSettings, TrainSettings
from negfail_nb.trajectory import Trajectory

if TYPE_CHECKING:
    from negfail_nb.prefix.templates import Template

log = logging.getLogger("negfail_nb")

# Trained on the likelihood of runs, as in the paper; and on preferences between runs, from the
# vanilla arm on.
ARMS = ("vanilla", "nut", "nat", "nat-k")
PREFERENCE_ARMS = ("dpo", "kto")
ALL_ARMS = (*ARMS, *PREFERENCE_ARMS)


@dataclass(frozen=True, slots=True)
class Arm:
    """A way of training on the logs (arXiv 2402.11651, section 4).

    Attributes
    ----------
    name
        ``vanilla``: successes only. ``nut``: failures too, without a label. ``nat``: failures too,
        labelled. ``nat-k``: failures in classes by their score. ``dpo``: successes preferred to
        failures of the same question. ``kto``: successes desirable, failures undesirable, unpaired.
        These two go on from the vanilla arm's model.
    uses_failures
        Whether failed trajectories are trained on.
    template
        The label template, for training and for inference.
    """

    name: str
    uses_failures: bool
    template: Template

    @property
    def prefers(self) -> bool:
        """Whether it is trained on preferences (`train_preference`) and not on likelihood
        (`train`).
        """
        return self.name in PREFERENCE_ARMS


@dataclass(frozen=True, slots=True)
class Selection:
    """The trajectories that an arm trains on.

    Attributes
    ----------
    arm
        Name of the arm.
    trajectories
        In the order given.
    successes, failures
        How many of each there are.
    note
        What was asked for and is not there; empty where all is.
    """

    arm: str
    trajectories: tuple[Trajectory, ...]
    successes: int
    failures: int
    note: str = ""

    def __len__(self) -> int:
        return len(self.trajectories)


def make_arms(
    names: Sequence[str] = ARMS, settings: PrefixSettings = PrefixSettings()
) -> tuple[Arm, ...]:
    """Return the named arms with their templates.

    Raises
    ------
    ValueError
        Where an arm or the template of the settings does not exist; the text lists those that do.
    """
    from negfail_nb.prefix.templates import find_template, nat_k

    unknown = sorted(set(names) - set(ALL_ARMS))
    if unknown:
        raise ValueError(f"no arm {', '.join(map(repr, unknown))}; there are {', '.join(ALL_ARMS)}")
    unlabelled, label = (
        find_template("none"),
        find_template(settings.template, settings.template_file),
    )
    made = {
        "vanilla": Arm("vanilla", False, unlabelled),
        "nut": Arm("nut", True, unlabelled),
        "nat": Arm("nat", True, label),
        "nat-k": Arm("nat-k", True, nat_k(settings.edges, settings.score)),
        "dpo": Arm("dpo", True, unlabelled),
        "kto": Arm("kto", True, unlabelled),
    }
    return tuple(made[name] for name in names)


def select(
    trajectories: Iterable[Trajectory], arm: Arm, settings: TrainSettings = TrainSettings()
) -> Selection:
    """Choose the trajectories of an arm; the choice depends on the seed, not on the order of the
    records.

    All arms get the same successes. Failures are nested: a larger number adds to those of a smaller
    one. Where any record has a split, only those of ``"train"`` count. Fewer than asked for is no
    error: all are used, and the note says so. Records without an outcome are left out.

    Raises
    ------
    ValueError
        Where there are no successes, or no failures for an arm that needs some.
    """
    records = list(trajectories)
    pool = [t for t in records if t.split == "train"] if any(t.split for t in records) else records
    solved, failed = [t for t in pool if t.success is True], [t for t in pool if t.success is False]
    _check(arm, len(records), len(pool), len(solved), len(failed))
    wanted = (
        (solved, settings.successes, "successes"),
        (failed, settings.failures if arm.uses_failures else -1, "failures"),
    )
    chosen, notes = set(), []
    for stream, (group, count, name) in enumerate(wanted):
        chosen.update(id(t) for t in _first(group, count, (settings.seed, stream)))
        if count > len(group):
            notes.append(f"{count} {name} asked for, all {len(group)} used")
            log.warning("arm %s: %s", arm.name, notes[-1])
    kept = tuple(t for t in pool if id(t) in chosen)
    successes = sum(t.success is True for t in kept)
    return Selection(arm.name, kept, successes, len(kept) - successes, "; ".join(notes))


def _first(group: list[Trajectory], count: int, seed: tuple[int, int]) -> list[Trajectory]:
    """The first ``count`` of one permutation; 0: all; -1: none."""
    import numpy as np

    if count < 0:
        return []
    ordered = sorted(group, key=lambda t: t.id)
    order = np.random.default_rng(seed).permutation(len(ordered))
    return [ordered[i] for i in (order[:count] if count else order)]


def _check(arm: Arm, records: int, pool: int, solved: int, failed: int) -> None:
    if solved and (failed or not arm.uses_failures):
        return
    lacking = "failed" if solved else "successful"
    raise ValueError(
        f"arm {arm.name} needs {lacking} trajectories and there are none: {records} records given, {pool} of them for "
        f"training, {solved} successful, {failed} failed, {pool - solved - failed} without an outcome. "
        + (
            "Leave this arm out of train.arms, or add failed runs."
            if solved
            else "Add solved runs, or check success and split."
        )
    )
