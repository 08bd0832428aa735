"""From turns to pieces of text, for any chat template: cut where the loss starts and ends.

The text before an answer is what the template gives for the turns before it with a generation
prompt, which is what a model is given at inference. It is cut there and before the answer's end
token, so that no token lies across a border: one would hide the first character of an answer from
the loss, or show it the observation before. If no token would lie across, the ids are those of
tokenising the whole text at once.

Contents are data. A control token that is spelled out in one ("<|eot_id|>" in a web page) is cut
inside, so that it is tokenised as the plain text it is; so no content can hold a header or an end
token, and the loss goes by position.

What a template writes between that prompt and the answer is nobody's text. If it stands before
every answer, it belongs to the prompt; an empty reasoning block that only the last turn has (Qwen
3) is left out, for the prompt of inference has none and the turn loses it once others follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from negfail_nb.prefix.chat_text import (
    TooSlow,
    chat_template_text,
    check_template,
    own_template,
    package_names,
    within,
)
from negfail_nb.prefix.tokens import ControlTokens, Piece, PieceTokenizer, alternatives
from negfail_nb.prefix.turns import THOUGHT, Conversation, Refused, check_whole
from negfail_nb.trajectory import Message

# Llama 3.2 writes today's date if it is given none; training should not depend on the day.
FIXED = {"date_string": "26 Jul 2024"}
# By end token: the package's template with it.
MADE_FOR = {"<|eot_id|>": "llama-3", "<|im_end|>": "chatml"}
SLOWEST = 5  # seconds for a conversation; usual are thousandths
PROBE = ("first question", "first answer", "second question", "second answer")
PROBE_THOUGHT = "private thought"


@dataclass(frozen=True)
class Chat:
    """A tokenizer with a chat template, and what `open_chat` found out about the two.

    Attributes
    ----------
    template, set_name
        A chat template and the name that it was set by; empty: the tokenizer's own.
    name
        What errors call the two.
    end_token
        The control token that ends an assistant turn.
    header
        What the template writes before every answer, if that holds a control token; else empty.
    control
        The tokens that must not come out of contents.
    folds_system
        The template has no system turn; `Conversation.fold_system` puts its text into the user turn
        behind it.
    fillings
        What the template writes between the prompt and an answer, and whether it does so before
        every answer.
    thought_marks
        What it writes before and behind a thought; ``None`` if it has no place for one behind the
        prompt.
    """

    tokenizer: Any
    template: str
    name: str
    end_token: str = ""
    header: str = ""
    control: ControlTokens = ControlTokens()
    folds_system: bool = False
    fillings: tuple[tuple[str, bool], ...] = ()
    set_name: str = ""
    thought_marks: tuple[str, str] | None = None

    @cached_property
    def text(self) -> str:
        """The chat template itself."""
        return self.template or own_template(self.tokenizer)

    @cached_property
    def end_id(self) -> int:
        """Id of the end token."""
        return self.tokenizer.convert_tokens_to_ids(self.end_token)

    @cached_property
    def advice(self) -> str:
        """What to do if the template leaves something out: one of the package's that fits."""
        if self.template:
            return ""
        known = [name for token, name in MADE_FOR.items() if token in self.tokenizer.get_vocab()]
        name = MADE_FOR.get(self.end_token) or next(iter(known), "react-plain")
        return f'; set prefix.chat_template="{name}"'

    @cached_property
    def pieces_tokenizer(self) -> PieceTokenizer:
        """What turns the pieces into ids."""
        return PieceTokenizer(self.tokenizer)

    def cut(self, conversations: Sequence[Conversation]) -> list[list[Piece] | Refused]:
        """Return the pieces of each conversation's text, or why the template cannot write it."""
        marked = [self.control.mark(c) for c in conversations]
        texts = self._render([(c.messages, c.tools) for c, _ in marked], prompt=False)
        known = [self._starts(c, text) for (c, _), text in zip(marked, texts, strict=True)]
        # If the headers tell, the prompt before the last answer is enough: it holds all earlier
        # turns.
        asked = [
            [(c, i) for i in (c.answers if starts is None else c.answers[-1:])]
            for (c, _), starts in zip(marked, known, strict=True)
        ]
        turns = [(c.messages[:i], c.tools) for answers in asked for c, i in answers]
        prompts = iter(self._render(turns, prompt=True))
        cut: list[list[Piece] | Refused] = []
        for (c, mark), text, starts, answers in zip(marked, texts, known, asked, strict=True):
            before = [(i, next(prompts)) for _, i in answers]
            try:
                ends = self._prompt_ends(c, text, before)
                cut.append(self._cut_one(c, mark, text, ends if starts is None else starts))
            except Refused as refusal:
                cut.append(refusal)
        return cut

    def _starts(self, c: Conversation, text: str | Refused) -> list[int] | None:
        """Where each answer starts, read off the headers; ``None`` if they do not tell.

        A header holds a control token, which no content has unmarked, so no content can hold one.
        """
        if not self.header or isinstance(text, Refused):
            return None
        turns = [i for i, message in enumerate(c.messages) if message["role"] == "assistant"]
        parts = text.split(self.header)
        if len(parts) != len(turns) + 1:
            return None
        ends = accumulate(len(part) + len(self.header) for part in parts[:-1])
        return [end for i, end in zip(turns, ends, strict=True) if i in c.answers]

    def _prompt_ends(
        self, c: Conversation, text: str | Refused, before: Sequence[tuple[int, str | Refused]]
    ) -> list[int]:
        """Where answers start: behind the prompt that the template makes of the turns before it."""
        for rendered in (text, *(prompt for _, prompt in before)):
            if isinstance(rendered, Refused):
                raise rendered
        for answer, prompt in before:
            if not text.startswith(prompt):
                raise Refused(
                    f"message {c.original(answer)}: {self.name} writes the turns before it "
                    "differently once it follows (does it drop earlier reasoning?), so training "
                    "would not see what inference sees"
                )
        return [len(prompt) for _, prompt in before]

    def _cut_one(self, c: Conversation, mark: str, text: str, starts: Sequence[int]) -> list[Piece]:
        check_whole(c, text, self.name, self.advice)
        pieces = []
        position = 0
        turn = -1
        for answer, start, limit in zip(c.answers, starts, [*starts[1:], len(text)], strict=True):
            end = text.find(self.end_token, start, limit)
            if end < 0:
                where = f"message {c.original(answer)}"
                raise Refused(f"{where}: {self.name} puts no {self.end_token!r} behind it")
            start, begin = self._skip_filling(c.messages[answer], text, start)
            said = self._thought_end(c, answer, text, begin, end)
            stop = self._said_end(c, answer, text, said, end)
            pieces += self._split(text, position, start, mark, turn=turn, ends=turn >= 0)
            if said > begin:
                pieces += self._split(text, begin, said, mark, turn=answer, thought=True)
            pieces += self._split(text, said, stop, mark, turn=answer)
            if stop < end:
                pieces.append(Piece(text[stop:end], after=True))
            position = end
            turn = answer
        return pieces + self._split(text, position, len(text), mark, turn=turn, ends=True)

    def _skip_filling(self, message: Message, text: str, start: int) -> tuple[int, int]:
        """Where the prompt before an answer ends, and where the answer begins."""
        for filling, everywhere in () if message.get(THOUGHT) else self.fillings:
            if text.startswith(filling, start):
                return start + len(filling) * everywhere, start + len(filling)
        return start, start

    def _thought_end(self, c: Conversation, answer: int, text: str, begin: int, end: int) -> int:
        """Where the thought ends, with what the template writes around it."""
        thought = c.messages[answer].get(THOUGHT, "").strip()
        if not thought:
            return begin
        opening, closing = self.thought_marks or ("", "")
        around = r"\s*".join(["", re.escape(opening), re.escape(thought), re.escape(closing), ""])
        found = re.compile(around).match(text, begin, end) if self.thought_marks else None
        if not found:
            advice = f"{self.advice}, or" if self.advice else "; set"
            where = f"message {c.original(answer)} (assistant)"
            raise Refused(
                f'{where}: {self.name} leaves out its thought{advice} prefix.thoughts="neither"'
            )
        return found.end()

    def _said_end(self, c: Conversation, answer: int, text: str, said: int, end: int) -> int:
        """Where an answer ends: before the end token, or before the template's own text."""
        message = c.messages[answer]
        written = text[said:end]
        content = message["content"].strip()
        before = len(written) - len(written.lstrip())
        if message.get("tool_calls") or written.strip() == content:
            return end
        if not written.startswith(content, before):
            own = written[: written.find(content)].strip()
            where = f"message {c.original(answer)} (assistant)"
            raise Refused(
                f"{where}: {self.name} puts text of its own before it, {own!r}{self.advice}"
            )
        return said + before + len(content)

    def _split(
        self,
        text: str,
        start: int,
        end: int,
        mark: str,
        turn: int,
        ends: bool = False,
        thought: bool = False,
    ) -> list[Piece]:
        parts = text[start:end].split(mark) if mark else [text[start:end]]
        content = turn >= 0 and not ends
        anchor = self.pieces_tokenizer.anchor(text, start) if content else ""
        first = Piece(parts[0], content, anchor, turn, ends, thought)
        rest = [
            Piece(part, True, "", turn if content else -1, thought=thought) for part in parts[1:]
        ]
        return [first, *rest]

    def _render(
        self, conversations: list[tuple[Sequence[Message], tuple]], prompt: bool
    ) -> list[str | Refused]:
        """The template's text of each; those with tools one by one, for a call takes one set."""
        plain = [list(messages) for messages, tools in conversations if not tools]
        try:
            texts = iter(self._apply(plain, None, prompt) if plain else [])
        except Exception:  # the template refuses one of them: find out which
            texts = iter([self._apply_one(messages, None, prompt) for messages in plain])
        return [
            self._apply_one(list(messages), list(tools), prompt) if tools else next(texts)
            for messages, tools in conversations
        ]

    def _apply_one(
        self, messages: list[Message], tools: list | None, prompt: bool
    ) -> str | Refused:
        try:
            return self._apply([messages], tools, prompt)[0]
        except TooSlow:
            return Refused(f"{self.name} runs for more than {SLOWEST} seconds{self.advice}")
        except Exception as error:  # whatever somebody else's template raises
            return Refused(f"{self.name} refuses it: {error}{self.advice}")

    def _apply(
        self, conversations: list[list[Message]], tools: list | None, prompt: bool
    ) -> list[str]:
        with within(SLOWEST + len(conversations)):
            return self.tokenizer.apply_chat_template(
                conversations,
                tools=tools,
                chat_template=self.template or None,
                add_generation_prompt=prompt,
                tokenize=False,
                **FIXED,
            )


def open_chat(tokenizer: Any, chat_template: str = "") -> Chat:
    """Look into a tokenizer's chat template by rendering a small conversation with it.

    ``chat_template`` is a file, or the name of one of the package's (`llama-3`, `chatml`,
    `react-plain`); empty: the tokenizer's own.

    Raises
    ------
    ValueError
        If there is no template, it is too large or too slow, does not put an end token behind an
        assistant turn, or writes a turn differently once others follow; the text names the
        tokenizer and the template.
    """
    model = tokenizer.name_or_path or type(tokenizer).__name__
    template = chat_template_text(chat_template) if chat_template else ""
    if not template and not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"tokenizer {model!r} has no chat template; set PrefixSettings.chat_template to a "
            f"file, or to one of the package's: {', '.join(package_names())}"
        )
    own = f"the chat template of {model!r}"
    name = f"chat template {chat_template!r}" if chat_template else own
    chat = Chat(tokenizer, template, name, set_name=chat_template)
    check_template(chat.text, name)
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant") * 2, PROBE, strict=True)
    ]
    text = _probe(chat, messages)
    short = _probe(chat, messages[:2])
    known = set(tokenizer.all_special_tokens)
    added = {token for token in tokenizer.added_tokens_encoder if not token.isspace()} | known
    end_token = _end_token(chat, added, text, short)
    _check_prompts(chat, messages, text)
    decoder = tokenizer.added_tokens_decoder.values()
    special = {t.content for t in decoder if t.special} | known | {end_token}
    structure = frozenset(token for token in added if token in text)
    return replace(
        chat,
        end_token=end_token,
        header=_header(chat, messages, text, special),
        control=ControlTokens(frozenset(special), structure),
        folds_system=_no_system(chat),
        fillings=_fillings(chat, messages, text),
        thought_marks=_thought_marks(chat, messages[:1]),
    )


def _probe(chat: Chat, messages: list[Message], prompt: bool = False) -> str:
    text = chat._apply_one(messages, None, prompt)
    if isinstance(text, Refused):
        raise ValueError(
            f"{chat.name} cannot render a plain conversation of user and assistant: {text}"
        )
    return text


def _end_token(chat: Chat, added: set[str], text: str, short: str) -> str:
    """The control token behind an answer: the same if a turn follows and if none does."""
    pattern = re.compile(alternatives(added))
    found = []
    for rendered in (text[: text.find(PROBE[2])], short):
        start = rendered.find(PROBE[1])
        match = pattern.search(rendered, start + len(PROBE[1])) if start >= 0 else None
        found.append(match[0] if match else "")
    if all(found) and found[0] != found[1]:
        raise ValueError(
            f"{chat.name} ends the last assistant turn with {found[1]!r} and those before with "
            f"{found[0]!r}, so training would not see what inference sees"
            f"{chat.advice or '; set another prefix.chat_template'}"
        )
    if not all(found):
        raise ValueError(
            f"{chat.name} puts no end token of the tokenizer behind an assistant turn, so a model "
            "would never learn to stop; set PrefixSettings.chat_template (react-plain needs "
            "nothing but an end-of-sequence token)"
        )
    return found[0]


def _check_prompts(chat: Chat, messages: list[Message], text: str) -> None:
    for turn in (1, 3):
        if not text.startswith(_probe(chat, messages[:turn], prompt=True)):
            raise ValueError(
                f"{chat.name} does not go on from its own generation prompt at message {turn} (a "
                "model that always reasons first?), so training would not see what inference sees; "
                "set PrefixSettings.chat_template"
            )


def _header(chat: Chat, messages: list[Message], text: str, special: set[str]) -> str:
    """What a generation prompt adds, if it holds a control token and is before each answer once."""
    prompt = _probe(chat, messages[:1], prompt=True)
    before = _probe(chat, messages[:1])
    header = prompt.removeprefix(before) if prompt.startswith(before) else ""
    marked = any(token in header for token in special)
    return header if marked and text.count(header) == 2 else ""


def _fillings(chat: Chat, messages: list[Message], text: str) -> tuple[tuple[str, bool], ...]:
    """What stands between the prompt and the answer, in an earlier and in the last turn."""
    found = []
    for turn in (1, 3):
        start = len(_probe(chat, messages[:turn], prompt=True))
        found.append(text[start : text.find(PROBE[turn], start)])
    everywhere = found[0] == found[1]
    return tuple((filling, everywhere) for filling in dict.fromkeys(found) if filling.strip())


def _thought_marks(chat: Chat, asked: list[Message]) -> tuple[str, str] | None:
    """What the template puts around an answer's thought; ``None`` if it leaves thoughts out."""
    answer = {"role": "assistant", "content": PROBE[1], THOUGHT: PROBE_THOUGHT}
    text = chat._apply_one([*asked, answer], None, False)
    prompt = _probe(chat, asked, prompt=True)
    found = not isinstance(text, Refused) and text.startswith(prompt)
    opening, thought, rest = text[len(prompt) :].partition(PROBE_THOUGHT) if found else ("", "", "")
    closing, content, _ = rest.partition(PROBE[1])
    # If the prompt itself opens a thought, turns with and without one would have different prompts.
    shown = thought and content and (opening or not closing)
    return (opening.strip(), closing.strip()) if shown else None


def _no_system(chat: Chat) -> bool:
    system = {"role": "system", "content": "the system turn"}
    text = chat._apply_one([system, {"role": "user", "content": PROBE[0]}], None, True)
    return isinstance(text, Refused) or "the system turn" not in text
