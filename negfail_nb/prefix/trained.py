"""What a model was trained under stays with it: chat template, end token, and the tokens that its
ids stand for.

A model that learnt its turns under one template and is asked under another answers badly, and
nothing says so. So a trained model carries a mark in its ``config`` (an adapter: in a file beside
it), and the template and the end token are saved with its tokenizer and its generation settings,
for any program that loads them.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

from negfail_nb.prefix.chat import Chat
from negfail_nb.prefix.chat_text import own_template
from negfail_nb.prefix.tokens import vocabulary_hash

MARK = "trained_under"
FILE = "trained_under.json"
OWN = "the tokenizer's own"
Mark = dict[str, str]


def mark_of(tokenizer: Any, template: str = "", name: str = "", end_token: str = "") -> Mark:
    """Return what identifies a template, an end token and a tokenizer's tokens, as plain JSON.

    ``template`` and ``name`` are the chat template's text and the name it was set by; empty: the
    tokenizer's own. An empty ``end_token`` is the tokenizer's end of text.
    """
    text = template or own_template(tokenizer)
    return {
        "chat_template": name or OWN,
        "chat_template_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "end_token": end_token or tokenizer.eos_token or "",
        "vocabulary_sha256": vocabulary_hash(tokenizer),
    }


def mark_of_data(data: Any) -> Mark:
    """Return the mark of rendered data."""
    given = (getattr(data, name, "") for name in ("chat_template", "chat_name", "end_token"))
    return mark_of(data.tokenizer, *given)


def chat_tokenizer(tokenizer: Any, template: str, end_token: str) -> Any:
    """Return a copy of a tokenizer with the chat template that data was rendered under, and its end
    token as ``eos``.

    The end token is left alone if the template would then write something else.
    """
    made = copy.deepcopy(tokenizer)
    if template and own_template(made) != template:
        made.chat_template = template
    if end_token and made.eos_token != end_token:
        asked = {"role": "user", "content": "question"}
        turns = [asked, {"role": "assistant", "content": "answer"}]
        before = made.apply_chat_template(turns, tokenize=False)
        old = made.eos_token
        made.eos_token = end_token
        if made.apply_chat_template(turns, tokenize=False) != before:
            made.eos_token = old
    return made


def remember(model: Any, tokenizer: Any, mark: Mark) -> None:
    """Put the mark into a model's ``config``, and the end token first among those that end its
    generation.
    """
    setattr(model.config, MARK, mark)
    if model.generation_config is None:
        return
    end = tokenizer.convert_tokens_to_ids(mark["end_token"]) if mark["end_token"] else None
    known = getattr(model.generation_config, "eos_token_id", None)
    known = known if isinstance(known, list) else [known]
    ends = list(dict.fromkeys(i for i in (end, *known) if i is not None))
    if ends:
        model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]


def write_mark(folder: Path, mark: Mark) -> None:
    """Write the mark beside weights; those of an adapter have no ``config``."""
    text = json.dumps(mark, ensure_ascii=False, indent=1) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def read_mark(folder: Path) -> Mark | None:
    """Return what `write_mark` wrote, or ``None`` for weights without a mark."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_same(known: Mark | None, used: Mark, model: str, doing: str) -> None:
    """Raise `ValueError` if a model was trained under another template or tokenizer than is used.

    ``known`` is what it was trained under, ``None`` if nobody knows. The error calls the model
    ``model``, and what it is used for ``doing``.
    """
    if not known:
        return
    if known["vocabulary_sha256"] != used["vocabulary_sha256"]:
        raise ValueError(
            f"{model} was trained with other tokens than those of the tokenizer that is used for "
            f"{doing}; use the tokenizer that was saved with it (run.tokenizer())"
        )
    if known["chat_template_sha256"] != used["chat_template_sha256"]:
        raise ValueError(
            f"{model} was trained under the chat template {known['chat_template']!r}, and {doing} "
            f"uses {used['chat_template']!r}, which is another text; use the tokenizer that was "
            "saved with the model and leave chat_template empty, or train again"
        )


def check_chat(model: Any, chat: Chat, name: str) -> None:
    """Raise `ValueError` if a chat is not the one that a model was trained under."""
    if known := getattr(model.config, MARK, None):
        used = mark_of(chat.tokenizer, chat.template, chat.set_name)
        check_same(known, used, name, "asking it")


def check_data(model: Any, data: Any, doing: str) -> None:
    """Raise `ValueError` if data was rendered under another template than the model's."""
    if getattr(model.config, MARK, None):
        check_mark(model, mark_of_data(data), doing)


def check_mark(model: Any, mark: Mark, doing: str) -> None:
    """Raise `ValueError` if a model was trained under another mark than this one."""
    if known := getattr(model.config, MARK, None):
        name = f"model {model.name_or_path or 'without a name'}"
        check_same(known, mark, name, doing)
