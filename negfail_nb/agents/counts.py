"""Whether a server cut a prompt: our count of its tokens against the server's.

Ollama cuts what is longer than ``num_ctx``, llama.cpp with context shift what does not fit, proxies
what they like, and all of them answer 200. The reply then answers another question.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from negfail_nb.steps import text
from negfail_nb.trajectory import Message

CUT = 0.9  # of a prompt's certain tokens; templates add to them, and never take a tenth away
FAR = 0.5  # of the counted tokens, until a count of the server agreed: tokenizers differ
SLACK = 32  # tokens that may be missing besides, in a short prompt
SMALLEST = 16  # tokens; a server that reports fewer counts what it had not cached
WINDOW = 256  # tokens; no window is smaller, so a server that reports fewer counts differently
FALLS = 0.98  # of the prompt before it, to which a longer one may not fall
APART = 0.05  # difference of the two counts that is worth a warning
_ADVICE = "it cut the prompt. Raise the server's window (num_ctx, --ctx-size, --max-model-len)"
# Scripts without spaces between words.
_UNSPACED = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")

logger = logging.getLogger("negfail_nb")


class PromptCounts:
    """Counts prompts and compares with what a server reports.

    A prompt has at least as many tokens as words: a server that reports a tenth less has cut it,
    whatever its tokenizer. With the model's own tokenizer the same holds for the counted tokens,
    once a count of the server agreed; before that, for half of them.

    Parameters
    ----------
    tokenizer
        The model's own, or ``None``.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self._tokenizer = tokenizer
        self._said = False
        self._agreed = False

    def size(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Return words and tokens of a prompt's texts, without the template around them.

        Without a tokenizer there are 0 tokens.
        """
        texts = [text(message) for message in messages]
        words = sum(len(said.split()) + len(_UNSPACED.findall(said)) // 3 for said in texts)
        if self._tokenizer is None:
            return words, 0
        return words, sum(map(len, self._tokenizer(texts, add_special_tokens=False)["input_ids"]))

    def cut(self, messages: Sequence[Message], read: int | None, before: int | None = None) -> str:
        """Return why a prompt was cut, or an empty text.

        Parameters
        ----------
        messages
            What was sent.
        read
            Tokens of the prompt, cached ones included, as the server reports; ``None``: it does
            not.
        before
            What it read of the conversation's last prompt, with which this one begins.
        """
        if read is None:
            return ""
        if why := self.compare(self.size(messages), read):
            return why
        if before is None or read >= FALLS * before - 8:
            return ""
        # A prompt that grew has fewer tokens than before. Does the server count only what is new,
        # a reply and what answers it?
        new = sum(len(text(message)) for message in messages[-2:])
        if read < new / 3 + SLACK:
            return ""
        return (
            f"the server read {read} tokens, and {before} of the shorter conversation before it: "
            f"{_ADVICE}"
        )

    def compare(self, size: tuple[int, int], read: int | None) -> str:
        """Return why a prompt of so many words and tokens was cut, or an empty text."""
        if read is None or read < SMALLEST:
            return ""
        words, tokens = size
        self._agreed = self._agreed or 0 < tokens <= read
        if read + SLACK < CUT * words:
            return f"the server read {read} tokens of a prompt that has at least {words}: {_ADVICE}"
        if read >= WINDOW and read + SLACK < (CUT if self._agreed else FAR) * tokens:
            return f"the server read {read} tokens of a prompt that has {tokens}: {_ADVICE}"
        # Warn once if the counts differ by more than a template makes.
        if tokens and not self._said and abs(read - tokens) > APART * tokens + SLACK:
            self._said = True
            logger.warning(
                "the server counts %d tokens where the tokenizer counts %d (%+.0f %%); is it the "
                "model's own?",
                *(read, tokens, 100 * (read / tokens - 1)),
            )
        return ""
