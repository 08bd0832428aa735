"""What preference training reads, as tokens: pairs of a success and a failure (dpo), or labelled
runs (kto); and TRL's trainers for it.

TRL's own tokenisation counts every token behind the prompt as the model's, so an agent would be
rewarded for what its tools said. The losses go by ``completion_mask``, so it is enough to give that
mask ourselves: observations stay in the context and out of the preference.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from negfail_nb.prefix import Example, render
from negfail_nb.prefix.exports import draw_pairs
from negfail_nb.prefix.rendering import prepare
from negfail_nb.settings import PreferenceSettings, PrefixSettings
from negfail_nb.training.arms import Arm
from negfail_nb.trajectory import Trajectory

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

    Left out, and counted in the log, are runs without an outcome, and those longer than
    ``prefix.max_tokens``: a run that is cut may lack the turn that decided its outcome. ``seed`` is
    that of the choice of pairs and of the order of runs.

    Returns
    -------
    list of dict
        Pairs: ``chosen_ids``, ``chosen_mask``, ``rejected_ids``, ``rejected_mask``,
        ``question_id``; runs: ``ids``, ``mask``, ``label``, ``question_id``. Masks are true on what
        the agent wrote, shapes ``(tokens,)``.

    Raises
    ------
    ValueError
        If the arm is none of the two, or there is nothing to prefer; the text has counts.
    """
    if not arm.prefers:
        raise ValueError(
            f"arm {arm.name} is not trained on preferences; negfail_nb.training.train trains it"
        )
    given = list(trajectories)
    known = {t.id: t for t in given if t.success is not None}
    rendered = render(known.values(), arm.template, tokenizer, prefix, inference=True)
    runs = [run for run in rendered.examples if not run.truncated_turns]
    runs.sort(key=lambda run: run.id)
    solved = {run.id for run in runs if known[run.id].success}
    counts = (
        f"{len(given)} trajectories given, {len(given) - len(known)} without an outcome, "
        f"{len(known) - len(rendered)} not rendered, {len(rendered) - len(runs)} longer than "
        "prefix.max_tokens"
    )
    if arm.name == "dpo":
        prompts = (_prompt(known[run.id], arm, prefix) for run in runs)
        asked = zip(runs, prompts, strict=True)
        groups = [(run.question_id, prompt, run.id in solved, run) for run, prompt in asked]
        rows = [_pair(*pair) for pair in draw_pairs(groups, settings.pairs, seed)[0]]
    else:
        both = 0 < len(solved) < len(runs)
        rows = [_labelled(run, run.id in solved) for run in runs] if both else []
        # Trained on in this order, and ids are often sorted by outcome.
        random.Random(seed).shuffle(rows)
    if not rows:
        raise ValueError(_nothing(arm, counts, runs, solved))
    what = "pairs" if arm.name == "dpo" else "runs"
    log.info("arm %s: %d %s; %s", arm.name, len(rows), what, counts)
    return rows


def tokens_of(rows: Iterable[Row]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ids and mask of each run in the rows; a pair has two."""
    return [
        (row[f"{side}ids"], row[f"{side}mask"])
        for row in rows
        for side in ("chosen_", "rejected_", "")
        if f"{side}ids" in row
    ]


def labels_of(rows: Iterable[Row]) -> list[bool]:
    """Return, for each run in the rows, whether it is preferred."""
    return [
        label for row in rows for label in ([row["label"]] if "label" in row else [True, False])
    ]


def content_of(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of tokens, masks and labels, in order."""
    digest = hashlib.sha256()
    for (ids, mask), label in zip(tokens_of(rows), labels_of(rows), strict=True):
        digest.update(len(ids).to_bytes(8, "little") + ids.astype("<i4").tobytes())
        digest.update(mask.tobytes() + bytes([label]))
    return digest.hexdigest()


def with_mismatched(rows: Sequence[Row], size: int, longest: int) -> list[Row]:
    """Return labelled runs with ``KL_ids`` and ``KL_mask``: the prompt of each, and what was done
    in another.

    KTO measures on these how far the model has moved from where it started. As in TRL, runs are
    shifted by one within each batch of ``size``, so the batches must keep this order. Those above
    ``longest`` tokens are cut.
    """
    made = []
    for place, row in enumerate(rows):
        first = place - place % size
        other = rows[place - 1 if place > first else min(first + size, len(rows)) - 1]
        prompt = int(np.argmax(row["mask"]))
        start = int(np.argmax(other["mask"]))
        ids = np.concatenate([row["ids"][:prompt], other["ids"][start:]])[:longest]
        mask = np.concatenate([np.zeros(prompt, dtype=bool), other["mask"][start:]])[:longest]
        made.append(row | {"KL_ids": ids, "KL_mask": mask})
    return made


def _pair(chosen: Example, rejected: Example) -> Row:
    return {
        "question_id": chosen.question_id,
        "chosen_ids": chosen.input_ids,
        "chosen_mask": chosen.trained,
        "rejected_ids": rejected.input_ids,
        "rejected_mask": rejected.trained,
    }


def _labelled(run: Example, solved: bool) -> Row:
    tokens = {"ids": run.input_ids, "mask": run.trained}
    return {"question_id": run.question_id, **tokens, "label": solved}


def _prompt(trajectory: Trajectory, arm: Arm, prefix: PrefixSettings) -> str:
    """The turns before the first answer, as text: only runs with the same ones can be compared."""
    turns, _ = prepare(trajectory, arm.template, prefix, inference=True)
    tools = list(turns.tools) or None
    return json.dumps([list(turns.messages[: turns.answers[0]]), tools], sort_keys=True)


def _nothing(arm: Arm, counts: str, runs: Sequence[Example], solved: set[str]) -> str:
    left = f"{counts}; left are {len(solved)} successes and {len(runs) - len(solved)} failures"
    if arm.name == "kto":
        return (
            f"arm kto needs successes and failures: {left}. Leave this arm out of train.arms, or "
            "add runs."
        )
    won, lost = (
        {run.question_id for run in runs if (run.id in solved) is outcome}
        for outcome in (True, False)
    )
    both = f"{len(won & lost)} questions have both, but put to the agent in other words"
    return (
        f"arm dpo found no pairs: {left}; {both if won & lost else 'no question has both'}. "
        "Collect more attempts per question, or use kto, which needs no pairs."
    )
