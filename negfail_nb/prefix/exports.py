"""The same trajectories as other trainers read them: TRL's SFT, DPO and KTO rows, ShareGPT, OpenAI
fine-tuning lines.

The label goes into the question turn as in `render`. Preference rows (DPO, KTO) carry the prompt of
inference on both sides, for they learn the difference from the pair and not from a label.

Which turns carry loss is written wherever the format has a place for it: labels, or ``weight`` 0.
Where it has none, a run with such a turn is skipped and counted. Private thoughts go where
`PrefixSettings` says; shown without loss (``"history"``) is something that only token rows can say.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negfail_nb.logs.importers.atif import to_atif
from negfail_nb.prefix.rendering import prepare, problem_of, render
from negfail_nb.prefix.templates import Template, find_template
from negfail_nb.prefix.turns import THOUGHT, Conversation, Refused
from negfail_nb.settings import PrefixSettings
from negfail_nb.trajectory import Message, Problem, Trajectory, write_lines

Row = dict[str, Any]
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of an export, and what gave none, with the reason."""

    rows: tuple[Row, ...]
    skipped: tuple[Problem, ...] = ()

    def __repr__(self) -> str:
        """Return the counts."""
        return f"Rows({len(self.rows)} rows, {len(self.skipped)} skipped)"


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written, how many rows it has, and what gave none, with the reason."""

    path: Path
    written: int
    skipped: tuple[Problem, ...] = ()

    def __repr__(self) -> str:
        """Return the path and the counts."""
        return f"Exported({str(self.path)!r}, {self.written} rows, {len(self.skipped)} skipped)"


def sft_rows(
    trajectories: Sequence[Trajectory], template: Template, settings: PrefixSettings
) -> Rows:
    """Return TRL's conversational SFT rows: ``messages``, and ``tools`` where there are any.

    Only whole roles can be masked from these (``assistant_only_loss``, where TRL knows the chat
    template). Turns without loss at the end of a run are cut off; a run with one before the last
    answer that carries loss is skipped. What masks single turns are `token_rows`, `openai_rows` and
    `sharegpt_rows`.
    """

    def row(c: Conversation, _: Trajectory) -> Row:
        _say_thoughts(c, settings)
        last = max(c.trained, default=-1)
        masked = [i for i in c.answers if i not in c.trained and i < last]
        if masked or last < 0:
            where = (
                f"message {c.original(masked[0])} carries no loss"
                if masked
                else "no turn carries loss"
            )
            raise Refused(
                f"{where}, which sft rows cannot say; export tokens, openai or sharegpt instead"
            )
        return {"messages": list(c.messages[: last + 1]), **_tools(c)}

    return _rows(trajectories, template, settings, row)


def token_rows(
    trajectories: Sequence[Trajectory], template: Template, settings: PrefixSettings, tokenizer: Any
) -> Rows:
    """Return ``input_ids`` and ``labels`` as `render` makes them; TRL's SFTTrainer takes them as
    they are.
    """
    rendered = render(trajectories, template, tokenizer, settings)
    rows = (
        {"id": e.id, "input_ids": e.input_ids.tolist(), "labels": e.labels.tolist()}
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

    Parameters
    ----------
    trajectories, template, settings
        As for `render`; the prompt is that of inference.
    pairs
        At most so many pairs a question, drawn without replacement.
    seed
        Seed of that draw; the order of the trajectories makes no difference.

    Notes
    -----
    TRL counts every token of a completion: observations, turns of weight 0 and thoughts that are
    only shown included, for a multi-turn pair has no mask there; `negfail_nb.train_preference`
    masks them. Runs of a question whose turns before the answer differ (another system turn) are
    not paired.
    """
    made = _rows(_known(trajectories), template, settings, _completion, inference=True)
    groups: dict[tuple[str, str], tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for row in sorted(made.rows, key=lambda row: row["id"]):
        key = (row["question_id"], json.dumps([row["prompt"], row.get("tools")], sort_keys=True))
        groups[key][not row["label"]].append(row)
    rows, unpaired = [], []
    for (question, prompt), (solved, failed) in sorted(groups.items()):
        draw = random.Random(f"{seed}:{question}:{prompt}")
        count = len(solved) * len(failed)
        for number in sorted(draw.sample(range(count), min(pairs, count))):
            rows.append(_pair(solved[number // len(failed)], failed[number % len(failed)]))
        if not count:
            lacks = "failed" if solved else "solved"
            unpaired.append(
                Problem("question", question, f"no {lacks} run with the same prompt to pair with")
            )
    return Rows(tuple(rows), made.skipped + _unknown(trajectories) + tuple(unpaired))


def kto_rows(
    trajectories: Sequence[Trajectory], template: Template, settings: PrefixSettings, seed: int = 0
) -> Rows:
    """Return TRL's unpaired preference rows: ``prompt``, ``completion``, ``label`` (whether the run
    succeeded).

    Rows are shuffled by ``seed``: KTOTrainer takes a file in its order, and logs are often sorted
    by outcome. As in `dpo_rows`, there is no mask within a completion.
    """
    made = _rows(_known(trajectories), template, settings, _completion, inference=True)
    rows = [
        {key: value for key, value in row.items() if key not in ("id", "question_id")}
        for row in made.rows
    ]
    random.Random(seed).shuffle(rows)
    return Rows(tuple(rows), made.skipped + _unknown(trajectories))


def sharegpt_rows(
    trajectories: Sequence[Trajectory], template: Template, settings: PrefixSettings
) -> Rows:
    """Return ShareGPT rows: ``conversations`` of ``from`` (human, gpt, observation, function_call)
    and ``value``.

    Turns of the model without loss have ``weight`` 0 (axolotl reads it with
    ``message_field_training: weight``), the others have none. A thought stands before its value, in
    ``<think>`` tags.
    """

    def row(c: Conversation, _: Trajectory) -> Row:
        _say_thoughts(c, settings)
        turns = []
        for index, message in enumerate(c.messages):
            masked = message["role"] == "assistant" and index not in c.trained
            turns += [turn | ({"weight": 0} if masked else {}) for turn in _sharegpt(message)]
        return {
            "id": c.id,
            "conversations": turns,
            **({"tools": json.dumps(c.tools)} if c.tools else {}),
        }

    return _rows(trajectories, template, settings, row)


def openai_rows(
    trajectories: Sequence[Trajectory], template: Template, settings: PrefixSettings
) -> Rows:
    """Return OpenAI's fine-tuning lines: ``messages``, assistant turns without loss with ``weight``
    0.
    """

    def row(c: Conversation, _: Trajectory) -> Row:
        _say_thoughts(c, settings)
        messages = [
            {**_api(message), "weight": int(index in c.trained)}
            if message["role"] == "assistant"
            else _api(message)
            for index, message in enumerate(c.messages)
        ]
        return {"messages": messages, **_tools(c)}

    return _rows(trajectories, template, settings, row)


def atif_rows(
    trajectories: Sequence[Trajectory], template: Template, settings: PrefixSettings
) -> Rows:
    """Return the runs in ATIF, the agent trajectory interchange format: as they are, outcome under
    ``extra``.
    """
    return Rows(tuple(map(to_atif, trajectories)))


def _say_thoughts(c: Conversation, settings: PrefixSettings) -> None:
    """Refuse a run whose thoughts are shown without loss: these rows cannot say so."""
    thinking = [
        i for i, message in enumerate(c.messages) if i in c.trained and message.get(THOUGHT)
    ]
    if thinking and settings.thoughts == "history":
        where = f"message {c.original(thinking[0])}: its thought is shown without loss"
        raise Refused(
            f'{where}, which only token rows can say; export tokens, or set prefix.thoughts="loss"'
        )


KINDS: Mapping[str, Callable[..., Rows]] = {
    "sft": sft_rows,
    "tokens": token_rows,
    "dpo": dpo_rows,
    "kto": kto_rows,
    "sharegpt": sharegpt_rows,
    "openai": openai_rows,
    "atif": atif_rows,
}


def export(
    trajectories: Sequence[Trajectory],
    kind: str,
    path: str | Path,
    template: Template | str,
    settings: PrefixSettings = PrefixSettings(),  # noqa: B008 (frozen)
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
        Where there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no export {kind!r}; there are {', '.join(KINDS)}")
    if isinstance(template, str):
        template = find_template(template, settings.template_file)
    trajectories = tuple(trajectories)
    left_out = () if heldout else tuple(t for t in trajectories if t.split == "heldout")
    given = tuple(t for t in trajectories if heldout or t.split != "heldout")
    made = KINDS[kind](given, template, settings, **options)
    skipped = made.skipped + tuple(
        problem_of(t, Refused("held out for evaluation")) for t in left_out
    )
    return Exported(write_lines(path, made.rows), len(made.rows), skipped)


def _rows(
    trajectories: Sequence[Trajectory],
    template: Template,
    settings: PrefixSettings,
    row: Callable[[Conversation, Trajectory], Row],
    inference: bool = False,
) -> Rows:
    rows, skipped = [], []
    for trajectory in trajectories:
        try:
            turns, _ = prepare(trajectory, template, settings, inference)
            rows.append(row(turns, trajectory))
        except Refused as refusal:
            skipped.append(problem_of(trajectory, refusal))
    return Rows(tuple(rows), tuple(skipped))


def _known(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    return [trajectory for trajectory in trajectories if trajectory.success is not None]


def _unknown(trajectories: Sequence[Trajectory]) -> tuple[Problem, ...]:
    refusal = Refused("whether it succeeded is unknown, so it is neither preferred nor rejected")
    return tuple(
        problem_of(trajectory, refusal) for trajectory in trajectories if trajectory.success is None
    )


def _completion(c: Conversation, trajectory: Trajectory) -> Row:
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


def _pair(solved: Row, failed: Row) -> Row:
    tools = {"tools": solved["tools"]} if "tools" in solved else {}
    return {
        "prompt": solved["prompt"],
        "chosen": solved["completion"],
        "rejected": failed["completion"],
        **tools,
    }


def _tools(c: Conversation) -> Row:
    return {"tools": list(c.tools)} if c.tools else {}


def _sharegpt(message: Message) -> list[Row]:
    thought = message.get(THOUGHT, "").strip()
    value = (
        f"<think>\n{thought}\n</think>\n\n{message['content']}" if thought else message["content"]
    )
    turns = [{"from": SHAREGPT.get(message["role"], message["role"]), "value": value}]
    calls = [call.get("function", call) for call in message.get("tool_calls", ())]
    if calls and not value:
        turns = []
    return turns + [
        {
            "from": "function_call",
            "value": json.dumps({"name": c["name"], "arguments": c["arguments"]}),
        }
        for c in calls
    ]


def _api(message: Message) -> Message:
    """Return the message as the API takes it: arguments of calls are JSON in a string."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        arguments = function["arguments"]
        text = (
            arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        )
        calls.append({**call, "function": {**function, "arguments": text}})
    return {**message, "tool_calls": calls}
