"""The arms: which trajectories each uses, and how their outcome is told to the model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from negfail_nb.prefix.templates import Template, find_template, nat_k, steps_of, weighed
from negfail_nb.settings import PrefixSettings, TrainSettings
from negfail_nb.stored import take
from negfail_nb.trajectory import Trajectory

log = logging.getLogger("negfail_nb")

# Trained on the likelihood of runs, as in the paper; on preferences between runs, from the vanilla
# arm on; and on parts of failed runs.
ARMS = ("vanilla", "nut", "nat", "nat-k")
PREFERENCE_ARMS = ("dpo", "kto")
PARTIAL_ARMS = ("nat-steps", "weighted")
ALL_ARMS = (*ARMS, *PREFERENCE_ARMS, *PARTIAL_ARMS)


@dataclass(frozen=True, slots=True)
class Arm:
    """A way of training on the logs (arXiv 2402.11651, section 4).

    Attributes
    ----------
    name
        ``vanilla``: successes only. ``nut``: failures too, without a label. ``nat``: failures too,
        labelled. ``nat-k``: failures in classes by their score. ``dpo``: successes preferred to
        failures of the same question. ``kto``: successes desirable, failures undesirable, unpaired.
        These two go on from the vanilla arm's model. ``nat-steps``: failures too, under the label
        of successes, with loss on the steps that are judged good only. ``weighted``: failures too,
        without a label, their loss times their quality score.
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
        """Whether `train_preference` trains it, not `train`."""
        return self.name in PREFERENCE_ARMS


def make_arms(
    names: Sequence[str] = ARMS, settings: PrefixSettings = PrefixSettings()
) -> tuple[Arm, ...]:
    """Return the named arms with their templates.

    Raises
    ------
    ValueError
        If an arm or the template of the settings does not exist; the text lists those that do.
    """
    unknown = sorted(set(names) - set(ALL_ARMS))
    if unknown:
        raise ValueError(f"no arm {', '.join(map(repr, unknown))}; there are {', '.join(ALL_ARMS)}")
    labelled = find_template(settings.template, settings.template_file)
    unlabelled = find_template("none")
    templates = {
        "nat": labelled,
        "nat-k": nat_k(settings.edges, settings.score),
        "nat-steps": steps_of(labelled),
        "weighted": weighed(unlabelled),
    }
    return tuple(Arm(n, n != "vanilla", templates.get(n, unlabelled)) for n in names)


def select(
    trajectories: Iterable[Trajectory], arm: Arm, settings: TrainSettings = TrainSettings()
) -> Sequence[Trajectory]:
    """Choose the trajectories of an arm, in the order given; which ones depends on the seed only.

    All arms get the same successes. Failures are nested: a larger number adds to those of a smaller
    one. If any record has a split, only those of ``"train"`` count. Fewer than asked for is no
    error: all are used, and the log says so. Records without an outcome are left out.

    Raises
    ------
    ValueError
        If there are no successes, or no failures for an arm that needs some.
    """
    records = trajectories if isinstance(trajectories, Sequence) else list(trajectories)
    told = records.about() if hasattr(records, "about") else map(_about, records)
    about = list(told)
    pool = [i for i, (_, split, _) in enumerate(about) if split == "train"]
    if not any(split for _, split, _ in about):
        pool = list(range(len(about)))
    solved, failed = ([i for i in pool if about[i][2] is outcome] for outcome in (True, False))
    if not solved or (arm.uses_failures and not failed):
        lacking, advice = (
            ("failed", "Leave this arm out of train.arms, or add failed runs.")
            if solved
            else ("successful", "Add solved runs, or check success and split.")
        )
        raise ValueError(
            f"arm {arm.name} needs {lacking} trajectories and there are none: {len(about)} "
            f"records given, {len(pool)} of them for training, {len(solved)} successful, "
            f"{len(failed)} failed, {len(pool) - len(solved) - len(failed)} without an outcome. "
            + advice
        )
    wanted = [(solved, settings.successes, "successes")]
    if arm.uses_failures:
        wanted.append((failed, settings.failures, "failures"))
    chosen: set[int] = set()
    for stream, (group, count, name) in enumerate(wanted):
        # The first of one permutation per outcome, so that a larger number adds to a smaller one.
        ordered = sorted(group, key=lambda i: about[i][0])
        order = np.random.default_rng((settings.seed, stream)).permutation(len(ordered))
        chosen.update(ordered[i] for i in order[: count or None])
        if count > len(group):
            log.warning("arm %s: %d %s asked for, all %d used", arm.name, count, name, len(group))
    return take(records, sorted(chosen))


def _about(trajectory: Trajectory) -> tuple[str, str, bool | None]:
    return trajectory.id, trajectory.split, trajectory.success
