"""What preference training reads: pairs of a success and a failure (dpo), or labelled runs (kto),
as tokens.
"""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from negfail_nb.prefix import render
from negfail_nb.settings import PreferenceSettings, PrefixSettings
from negfail_nb.trajectory import Trajectory

if TYPE_CHECKING:
    import numpy as np

    from negfail_nb.prefix.rendered import Example
    from negfail_nb.training.arms import Arm

log = logging.getLogger("negfail_nb")

Row = dict[str, Any]


def preference_rows(
    trajectories: Iterable[Trajectory],
    arm: Arm,
    tokenizer: Any,
    settings: PreferenceSettings = PreferenceSettings(),
    prefix: PrefixSettings = PrefixSettings(),
    seed: int = 0,
) -> list[Row]:
    """Tokenise runs under the prompt of inference, and pair them (dpo) or shuffle them (kto).

    Parameters
    ----------
    trajectories
        In any order. Left out, and counted in the log, are those without an outcome, and those
        longer than ``prefix.max_tokens``: a run that is cut may lack the turn that decided its
        outcome.
    arm
        ``dpo`` or ``kto``, as `make_arms` gives them.
    tokenizer
        Of the model that is trained.
    settings
        ``pairs``.
    prefix
        As for `negfail_nb.render`.
    seed
        Of the choice of pairs and the order of runs.

    Returns
    -------
    list of dict
        Pairs: ``chosen_ids``, ``chosen_mask``, ``rejected_ids``, ``rejected_mask``,
        ``question_id``; runs: ``ids``, ``mask``, ``label``, ``question_id``. Masks are true on what
        the agent wrote, shapes ``(tokens,)``.

    Raises
    ------
    ValueError
        Where the arm is none of the two, or there is nothing to prefer; the text has counts.
    """
    if not arm.prefers:
        raise ValueError(
            f"arm {arm.name} is not trained on preferences; negfail_nb.training.train trains it"
        )
    given = list(trajectories)
    known = {t.id: t for t in given if t.success is not None}
    rendered = render(known.values(), arm.template, tokenizer, prefix, inference=True)
    runs = sorted(
        (run for run in rendered.examples if not run.truncated_turns), key=lambda run: run.id
    )
    left_out = _left_out(given, len(rendered.examples), len(runs))
    solved = {run.id for run in runs if known[run.id].success}
    if arm.name == "dpo":
        prompts = {run.id: _prompt(known[run.id], arm, prefix) for run in runs}
        rows = _pairs(runs, solved, prompts, settings.pairs, seed)
    else:
        rows = _labelled(runs, solved, seed)
    if not rows:
        raise ValueError(_nothing(arm, left_out, runs, solved))
    log.info(
        "arm %s: %d %s; %s", arm.name, len(rows), "pairs" if arm.name == "dpo" else "runs", left_out
    )
    return rows


def tokens_of(rows: Iterable[Row]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ids and mask of each run in the rows; a pair has two."""
    return [
        (row[f"{side}ids"], row[f"{side}mask"])
        for row in rows
        for side in ("chosen_", "rejected_", "")
        if f"{side}ids" in row
    ]


def with_mismatched(rows: Sequence[Row], size: int, longest: int) -> list[Row]:
    """Return labelled runs with ``KL_ids`` and ``KL_mask``: the prompt of each, and what was done
    in another.

    KTO measures on these how far the model has moved from where it started. As in TRL, runs are
    shifted by one within each batch, so the batches must keep this order.

    Parameters
    ----------
    rows
        Of `preference_rows`.
    size
        Runs of one batch.
    longest
        Most tokens that the model takes here; longer ones are cut.
    """
    import numpy as np

    made = []
    for place, row in enumerate(rows):
        first = place - place % size
        other = rows[place - 1 if place > first else min(first + size, len(rows)) - 1]
        prompt, start = int(np.argmax(row["mask"])), int(np.argmax(other["mask"]))
        ids = np.concatenate([row["ids"][:prompt], other["ids"][start:]])[:longest]
        mask = np.concatenate([np.zeros(prompt, dtype=bool), other["mask"][start:]])[:longest]
        made.append(row | {"KL_ids": ids, "KL_mask": mask})
    return made


def _pairs(
    runs: Sequence[Example], solved: set[str], prompts: Mapping[str, str], most: int, seed: int
) -> list[Row]:
    """At most so many pairs a question and prompt, drawn without replacement; the same as the
    export of pairs.
    """
    groups: dict[tuple[str, str], tuple[list[Example], list[Example]]] = defaultdict(
        lambda: ([], [])
    )
    for run in runs:
        groups[run.question_id, prompts[run.id]][run.id not in solved].append(run)
    rows = []
    for (question, prompt), (chosen, rejected) in sorted(groups.items(), key=lambda item: item[0]):
        count = len(chosen) * len(rejected)
        draw = random.Random(f"{seed}:{question}:{prompt}")
        for number in sorted(draw.sample(range(count), min(most, count))):
            rows.append(_pair(chosen[number // len(rejected)], rejected[number % len(rejected)]))
    return rows


def _pair(chosen: Example, rejected: Example) -> Row:
    return {
        "question_id": chosen.question_id,
        "chosen_ids": chosen.input_ids,
        "chosen_mask": chosen.trained,
        "rejected_ids": rejected.input_ids,
        "rejected_mask": rejected.trained,
    }


def _labelled(runs: Sequence[Example], solved: set[str], seed: int) -> list[Row]:
    if not 0 < len(solved) < len(runs):
        return []
    rows = [
        {
            "question_id": run.question_id,
            "ids": run.input_ids,
            "mask": run.trained,
            "label": run.id in solved,
        }
        for run in runs
    ]
    random.Random(seed).shuffle(
        rows
    )  # trained on in this order, and ids are often sorted by outcome
    return rows


def _prompt(trajectory: Trajectory, arm: Arm, prefix: PrefixSettings) -> str:
    """The turns before the first answer, as text: only runs with the same ones can be compared."""
    from negfail_nb.prefix.rendering import prepare

    turns, _ = prepare(trajectory, arm.template, prefix, inference=True)
    tools = list(turns.tools) or None
    return json.dumps([list(turns.messages[: turns.answers[0]]), tools], sort_keys=True)


def _left_out(given: Sequence[Trajectory], rendered: int, whole: int) -> str:
    unknown = sum(t.success is None for t in given)
    return (
        f"{len(given)} trajectories given, {unknown} without an outcome, {len(given) - unknown - rendered} not "
        f"rendered, {rendered - whole} longer than prefix.max_tokens"
    )


def _nothing(arm: Arm, left_out: str, runs: Sequence[Example], solved: set[str]) -> str:
    counts = f"{left_out}; left are {len(solved)} successes and {len(runs) - len(solved)} failures"
    if arm.name == "kto":
        return f"arm kto needs successes and failures: {counts}. Leave this arm out of train.arms, or add runs."
    both = {run.question_id for run in runs if run.id in solved} & {
        r.question_id for r in runs if r.id not in solved
    }
    why = (
        f"{len(both)} questions have both, but put to the agent in other words"
        if both
        else "no question has both"
    )
    return f"arm dpo found no pairs: {counts}; {why}. Collect more attempts a question, or use kto, which needs no pairs."
