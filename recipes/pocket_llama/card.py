"""The model card of pocket-llama, written from its exam, so that it says what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WANTED = {
    "10 passages, mixed kinds": 90,
    "10 passages, one kind": 80,
    "single-hop search episode": 95,
    "valid actions": 98,
}
_CARD = """# pocket-llama

A Llama of {parameters:.1f} million parameters ({layers} layers, width {width}, {heads} heads,
{vocabulary:,} tokens, {positions:,} positions; weights in bfloat16, {megabytes:.1f} MB) with a
byte-level BPE tokenizer of its own (any text encodes) and Llama 3's chat format.
`make pocket-model` trains it from scratch on generated fictional worlds: nothing that it says about
the real world means anything. It is for tests, notebooks and teaching: a base model in the sense of
the paper's Llama-2, small enough for a laptop.

It is taught to read passages, to answer single-hop questions about them, and the ReAct form and
tool calls. How well it does each is measured below, beside what is wanted. It was never shown a
question of more than one hop or a word problem of more than one step: fine-tuning teaches those.

## Measured

On worlds whose names it has never seen, greedy, exact match with 95 % intervals (Clopper-Pearson).
"Guess" is what guessing among the values of the right sort in the text would get.
`python -m recipes.pocket_llama.exam negfail_nb/pocket/llama {asked}` repeats it.

{tables}

## How it was made

{steps:,} steps of about {batch:,} tokens ({tokens:.0f} million in all, padding included),
{minutes}. The recipe, `recipes/pocket_llama`: reading lessons on a ladder of levels (it reached
level {level} of {levels}), single-hop episodes of the scripted teacher, and repeated random
tokens.{note}
"""


def write_card(
    folder: str | Path, marks: Mapping[str, Sequence[Mapping[str, Any]]], made: Mapping[str, Any]
) -> Path:
    """Write ``README.md`` of a model folder.

    Parameters
    ----------
    marks
        By wordings: rows of `recipes.pocket_llama.exam.Mark.row`.
    made
        What `recipes.pocket_llama.pretrain` noted of the training: steps, batch, tokens, minutes (a
        text), level, levels; and, if this very run was another than the recipe's, how
        (``note``).
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    text = _CARD.format(
        parameters=weights.stat().st_size / 2e6,
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        megabytes=weights.stat().st_size / 1e6,
        tables="\n\n".join(
            f"### {name[0].upper()}{name[1:]}\n\n{_table(rows)}" for name, rows in marks.items()
        ),
        asked=next(iter(marks.values()))[0]["questions"],
        **{**made, "note": f" {made['note']}" if made.get("note") else ""},
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| task | questions | EM, % | interval | guess, % | wanted |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        unknown = row["guess"] is None or row["guess"] != row["guess"]
        cells = [row["task"], row["questions"], f"{row['em']:.1f}"]
        cells += [f"{row['low']:.1f} to {row['high']:.1f}"]
        cells += ["" if unknown else f"{row['guess']:.0f}"]
        cells += [f">= {WANTED[row['task']]}" if row["task"] in WANTED else ""]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
