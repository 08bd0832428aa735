"""The same trajectories as other trainers read them: TRL's SFT, DPO and KTO rows, ShareGPT, OpenAI
fine-tuning lines.

The label goes into the question turn as in `render`. Preference rows (DPO, KTO) carry the prompt of
inference on both sides, for they learn the difference from the pair and not from a label.

Which turns carry loss is written if the format has a place for it: labels, or ``weight`` 0. If it
has none, a run with such a turn is skipped and counted; so it is with steps of failed runs that are
not judged good. What the loss of a run is multiplied by has a place in token rows only. Private
thoughts go where `PrefixSettings` says; shown without loss (``"history"``) is something that only
token rows can say.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from negfail_nb.logs.importers.atif import to_atif
from negfail_nb.prefix.rendering import prepare, problem_of, render, ways_for
from negfail_nb.prefix.templates import Template, find_template
from negfail_nb.prefix.turns import THOUGHT, Conversation, Refused
from negfail_nb.settings import PrefixSettings
from negfail_nb.trajectory import Message, Problem, Trajectory, write_lines

Row = dict[str, Any]
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


class Rows(NamedTuple):
    """Rows of an export, and what gave none, with the reason."""

    rows: tuple[Row, ...]
    skipped: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written, how many rows it has, and what gave none, with the reason."""

    path: Path
    written: int
    skipped: tuple[Problem, ...] = ()

    def __repr__(self) -> str:
        """Return the path and the counts."""
        return f"Exported({str(self.path)!r}, {self.written} rows, {len(self.skipped)} skipped)"


def export(
    trajectories: Iterable[Trajectory],
    kind: str,
    path: str | Path,
    template: Template | str,
    settings: PrefixSettings = PrefixSettings(),
    *,
    heldout: bool = False,
    **options: Any,
) -> Exported:
    """Write the trajectories as JSON lines for another trainer; the file appears whole or not at
    all.

    Parameters
    ----------
    trajectories, template, settings
        As for `render`.
    kind
        ``sft``, ``tokens`` (needs ``tokenizer=``), ``dpo`` (takes ``pairs=``, ``seed=``), ``kto``
        (takes ``seed=``), ``sharegpt``, ``openai`` or ``atif``.
    path
        The file to write.
    heldout
        Write the runs whose questions are held out for evaluation too. By default those (``split``
        is ``"heldout"``) are left out and counted as skipped: what is trained on them cannot be
        evaluated on them.
    **options
        What the kind takes besides.

    Returns
    -------
    Exported
        Path, rows written, and what was skipped, with reasons.

    Raises
    ------
    ValueError
        If there is no such kind, or it has no place for what the template says about the loss.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no export {kind!r}; there are {', '.join(KINDS)}")
    if isinstance(template, str):
        template = find_template(template, settings.template_file)
    _check_place(kind, template)
    given = []
    left_out = []
    for trajectory in trajectories:
        if trajectory.split == "heldout" and not heldout:
            left_out.append(problem_of(trajectory, Refused("held out for evaluation")))
        else:
            given.append(trajectory)
    made = KINDS[kind](given, template, settings, **options)
    return Exported(write_lines(path, made.rows), len(made.rows), (*made.skipped, *left_out))


def _check_place(kind: str, template: Template) -> None:
    """Raise `ValueError` if an export cannot say what a template says about the loss."""
    if template.weighed_by and kind not in ("tokens", "atif"):
        raise ValueError(
            f"{kind} rows have no place for what the loss of a run is multiplied by (template "
            f"{template.name!r}); export tokens, or take a template without weights"
        )
    if template.judged and kind in ("dpo", "kto"):
        raise ValueError(
            f"{kind} rows prefer whole runs and mask no steps of them (template "
            f"{template.name!r}); export tokens, openai or sharegpt, or take the template of nat"
        )


def token_rows(
    trajectories: Sequence[Trajectory], template: Template, settings: PrefixSettings, tokenizer: Any
) -> Rows:
    """Return ``input_ids`` and ``labels`` as `render` makes them; TRL's SFTTrainer takes them as
    they are.

    If the template weighs runs, also ``weights``, one a token, which TRL does not read.
    """
    rendered = render(trajectories, template, tokenizer, settings)
    names = ("input_ids", "labels", *(("weights",) if template.weighed_by else ()))
    rows = (
        {"id": e.id, **{name: getattr(e, name).tolist() for name in names}}
        for e in rendered.examples
    )
    return Rows(tuple(rows), rendered.skipped)


def dpo_rows(
    trajectories: Sequence[Trajectory],
    template: Template,
    settings: PrefixSettings,
    pairs: int = 4,
    seed: int = 0,
) -> Rows:
    """Return TRL's preference rows: ``prompt``, a solved run as ``chosen``, a failed one as
    ``rejected``.

    See `draw_pairs` for ``pairs`` and ``seed``. TRL counts every token of a completion:
    observations, turns of weight 0 and thoughts that are only shown included, for a multi-turn pair
    has no mask there; `negfail_nb.train_preference` masks them.
    """
    made = _completions(trajectories, template, settings)
    runs = []
    for row in sorted(made.rows, key=lambda row: row["id"]):
        prompt = json.dumps([row["prompt"], row.get("tools")], sort_keys=True)
        runs.append((row["question_id"], prompt, row["label"], row))
    pairs_drawn, unpaired = draw_pairs(runs, pairs, seed)
    rows = []
    for solved, failed in pairs_drawn:
        sides = {"chosen": solved["completion"], "rejected": failed["completion"]}
        tools = {"tools": solved["tools"]} if "tools" in solved else {}
        rows.append({"prompt": solved["prompt"], **sides, **tools})
    lacking = (
        Problem("question", question, f"no {lacks} run with the same prompt to pair with")
        for question, lacks in unpaired
    )
    return Rows(tuple(rows), (*made.skipped, *lacking))


def draw_pairs(
    runs: Iterable[tuple[str, str, bool, Any]], most: int, seed: int
) -> tuple[list[tuple[Any, Any]], list[tuple[str, str]]]:
    """Pair solved with failed runs of one question that was put in the same words.

    ``runs`` has for each the question's id, the turns before the answer as text, whether it was
    solved, and the run. At most ``most`` pairs per question and text are drawn by ``seed``, without
    replacement. Returned with the pairs are (question id, ``"failed"`` or ``"solved"``) of those
    that lack runs of that outcome.
    """
    groups: dict[tuple[str, str], tuple[list, list]] = defaultdict(lambda: ([], []))
    for question, prompt, solved, run in runs:
        groups[question, prompt][not solved].append(run)
    pairs = []
    unpaired = []
    for (question, prompt), (chosen, rejected) in sorted(groups.items(), key=lambda item: item[0]):
        count = len(chosen) * len(rejected)
        draw = random.Random(f"{seed}:{question}:{prompt}")
        for number in sorted(draw.sample(range(count), min(most, count))):
            pairs.append((chosen[number // len(rejected)], rejected[number % len(rejected)]))
        if not count:
            unpaired.append((question, "failed" if chosen else "solved"))
    return pairs, unpaired


def kto_rows(
    trajectories: Sequence[Trajectory], template: Template, settings: PrefixSettings, seed: int = 0
) -> Rows:
    """Return TRL's unpaired preference rows: ``prompt``, ``completion``, ``label`` (whether the run
    succeeded).

    Rows are shuffled by ``seed``: KTOTrainer takes a file in its order, and logs are often sorted
    by outcome. As in `dpo_rows`, there is no mask within a completion.
    """
    made = _completions(trajectories, template, settings)
    left_out = ("id", "question_id")
    rows = [{k: v for k, v in row.items() if k not in left_out} for row in made.rows]
    random.Random(seed).shuffle(rows)
    return Rows(tuple(rows), made.skipped)


def _completions(
    trajectories: Sequence[Trajectory], template: Template, settings: PrefixSettings
) -> Rows:
    def row(c: Conversation, trajectory: Trajectory) -> Row:
        if not c.answers:
            raise Refused("no assistant message behind the question")
        first = c.answers[0]
        return {
            "id": trajectory.id,
            "question_id": trajectory.question_id,
            "prompt": list(c.messages[:first]),
            "completion": list(c.messages[first:]),
            "label": bool(trajectory.success),
            **_tools(c),
        }

    known = [t for t in trajectories if t.success is not None]
    made = _rows(known, template, settings, row, inference=True)
    refusal = Refused("whether it succeeded is unknown, so it is neither preferred nor rejected")
    unknown = (problem_of(t, refusal) for t in trajectories if t.success is None)
    return Rows(made.rows, (*made.skipped, *unknown))


def _sft_row(c: Conversation, _: Trajectory) -> Row:
    """TRL's conversational SFT row: ``messages``, and ``tools`` if there are any.

    Only whole roles can be masked from these (``assistant_only_loss``, if TRL knows the chat
    template). Turns without loss at the end of a run are cut off; a run with one before the last
    answer that carries loss is skipped. The kinds tokens, openai and sharegpt mask single turns.
    """
    last = max(c.trained, default=-1)
    masked = [i for i in c.answers if i not in c.trained and i < last]
    if masked or last < 0:
        one = f"message {c.original(masked[0])} carries no loss" if masked else ""
        raise Refused(
            f"{one or 'no turn carries loss'}, which sft rows cannot say; export tokens, openai or "
            "sharegpt instead"
        )
    return {"messages": list(c.messages[: last + 1]), **_tools(c)}


def _sharegpt_row(c: Conversation, _: Trajectory) -> Row:
    """``conversations`` of ``from`` (human, gpt, observation, function_call) and ``value``.

    Turns of the model without loss have ``weight`` 0 (axolotl reads it with
    ``message_field_training: weight``), the others have none. A thought stands before its value, in
    ``<think>`` tags.
    """
    turns = []
    for index, message in enumerate(c.messages):
        masked = message["role"] == "assistant" and index not in c.trained
        turns += [turn | ({"weight": 0} if masked else {}) for turn in _sharegpt(message)]
    tools = {"tools": json.dumps(c.tools)} if c.tools else {}
    return {"id": c.id, "conversations": turns, **tools}


def _openai_row(c: Conversation, _: Trajectory) -> Row:
    """OpenAI's fine-tuning line: ``messages``, assistant turns without loss with ``weight`` 0."""
    messages = []
    for index, message in enumerate(c.messages):
        trained = {"weight": int(index in c.trained)} if message["role"] == "assistant" else {}
        messages.append({**_api(message), **trained})
    return {"messages": messages, **_tools(c)}


def _by_run(row: Callable[[Conversation, Trajectory], Row]) -> Callable[..., Rows]:
    """An export that makes one row per run; it cannot say that a thought is shown without loss."""

    def rows(
        trajectories: Sequence[Trajectory], template: Template, settings: PrefixSettings
    ) -> Rows:
        def checked(c: Conversation, trajectory: Trajectory) -> Row:
            thinking = [i for i in sorted(c.trained) if c.messages[i].get(THOUGHT)]
            if thinking and settings.thoughts == "history":
                raise Refused(
                    f"message {c.original(thinking[0])}: its thought is shown without loss, which "
                    'only token rows can say; export tokens, or set prefix.thoughts="loss"'
                )
            return row(c, trajectory)

        return _rows(trajectories, template, settings, checked)

    return rows


def _rows(
    trajectories: Sequence[Trajectory],
    template: Template,
    settings: PrefixSettings,
    row: Callable[[Conversation, Trajectory], Row],
    inference: bool = False,
) -> Rows:
    rows = []
    skipped = []
    ways = ways_for(trajectories, template, inference)
    for trajectory in trajectories:
        try:
            turns, _ = prepare(trajectory, template, settings, inference, ways)
            rows.append(row(turns, trajectory))
        except Refused as refusal:
            skipped.append(problem_of(trajectory, refusal))
    return Rows(tuple(rows), tuple(skipped))


def _tools(c: Conversation) -> Row:
    return {"tools": list(c.tools)} if c.tools else {}


def _sharegpt(message: Message) -> list[Row]:
    thought = message.get(THOUGHT, "").strip()
    value = message["content"]
    value = f"<think>\n{thought}\n</think>\n\n{value}" if thought else value
    calls = [call.get("function", call) for call in message.get("tool_calls", ())]
    turns = []
    if value or not calls:
        turns.append({"from": SHAREGPT.get(message["role"], message["role"]), "value": value})
    for call in calls:
        called = json.dumps({"name": call["name"], "arguments": call["arguments"]})
        turns.append({"from": "function_call", "value": called})
    return turns


def _api(message: Message) -> Message:
    """The message as the API takes it: arguments of calls are JSON in a string."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        given = function["arguments"]
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        calls.append({**call, "function": {**function, "arguments": text}})
    return {**message, "tool_calls": calls}


# ATIF, the agent trajectory interchange format, has the runs as they are, outcome under ``extra``.
KINDS: Mapping[str, Callable[..., Rows]] = {
    "sft": _by_run(_sft_row),
    "tokens": token_rows,
    "dpo": dpo_rows,
    "kto": kto_rows,
    "sharegpt": _by_run(_sharegpt_row),
    "openai": _by_run(_openai_row),
    "atif": lambda trajectories, *_: Rows(tuple(map(to_atif, trajectories))),
}
