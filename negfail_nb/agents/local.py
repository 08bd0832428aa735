"""A model of transformers in this process: many episodes at once, by transformers' own
``generate``.

All replies that are waited for at one time are one batch, padded on the left: in effect, one turn
of all episodes at a time. Prompts are rendered token for token as training renders them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import zlib
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from negfail_nb.agents.calls import make_message
from negfail_nb.agents.protocol import EpisodeTooLong, ModelError, Reply, Sampling
from negfail_nb.trajectory import Message, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from negfail_nb.agents.engine import Request
    from negfail_nb.prefix.chat import Chat

MEMORY = 0.5  # share of the free memory that a batch may take
QUIET = 0.01  # seconds in which nobody else asks, before a batch begins


class LocalModel:
    """A model of transformers, under the `Model` protocol of live collection.

    Parameters
    ----------
    model
        Any causal model of transformers, on any device. While it is entered, it is in evaluation
        mode.
    tokenizer
        Its tokenizer.
    name
        Goes into the records; empty: where the model was loaded from.
    chat_template
        A file, or one of the package's by name, as in `PrefixSettings`; empty: the tokenizer's own.
    concurrency
        Replies at once, at most; more wait for their turn, as do those that the free memory does
        not hold.

    Notes
    -----
    A reply depends on its conversation, temperature and seed, not on what else runs at that time
    (up to the rounding of sums, which depends on the sizes of matrices; in bfloat16 it decides
    where two tokens are about as likely). Temperature 0 is greedy. Penalties and the like of the
    model's ``generation_config`` are not applied.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "",
        chat_template: str = "",
        *,
        concurrency: int = 64,
    ) -> None:
        self.model, self.tokenizer, self.chat_template, self.concurrency = (
            model,
            tokenizer,
            chat_template,
            concurrency,
        )
        self.name = name or model.name_or_path or type(model).__name__
        self.window: int | None = getattr(
            model.config.get_text_config(), "max_position_embeddings", None
        )
        self._thread: ThreadPoolExecutor | None = None

    @cached_property
    def chat(self) -> Chat:
        """The tokenizer's chat template, as training uses it."""
        from negfail_nb.prefix.chat import open_chat
        from negfail_nb.prefix.trained import check_chat

        chat = open_chat(self.tokenizer, self.chat_template)
        check_chat(self.model, chat, self.name)
        return chat

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        """Return the tokens before the next answer, as training renders them.

        Raises
        ------
        ValueError
            Where the chat template refuses the conversation; the text names the message.
        """
        from negfail_nb.prefix.turns import Refused, conversation

        messages = (*messages, {"role": "assistant", "content": "answer"})
        asked = conversation(
            Trajectory(
                id="prompt", question_id="", question="", messages=messages, tools=tuple(tools)
            ),
            str,
            thoughts="history",  # those that the messages hold
        )
        asked = asked.fold_system() if self.chat.folds_system else asked
        pieces = self.chat.cut([asked])[0]
        if isinstance(pieces, Refused):
            raise pieces
        end = next(i for i, piece in enumerate(pieces) if piece.turn == asked.answers[-1])
        return [token for row in self.chat.pieces_tokenizer.encode(pieces[:end]) for token in row]

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Return the next assistant message of a conversation.

        Raises
        ------
        ModelError
            Where the model was not entered, was left meanwhile, or broke.
        EpisodeTooLong
            Where the conversation leaves no token of the window for a reply.
        ValueError
            Where the chat template refuses the conversation.
        """
        start = time.perf_counter()
        prompt = self.prompt_ids(messages, tools)
        room = sampling.max_tokens if self.window is None else self.window - len(prompt)
        if room < 1:
            raise EpisodeTooLong(
                f"the conversation has {len(prompt)} tokens, and the window of {self.name} {self.window}"
            )
        request = await self._generate(prompt, min(room, sampling.max_tokens), sampling)
        text = self._text(request.tokens)
        cut = _before(text, sampling.stop)
        message = make_message(cut, tools, len(messages))
        stopped = len(cut) < len(text) or request.tokens[-1] in self._end_ids
        return Reply(
            message=message,
            finish_reason="tool_calls"
            if "tool_calls" in message
            else "stop"
            if stopped
            else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(request.tokens),
            seconds=time.perf_counter() - start,
            first_seconds=request.first - start,
        )

    async def _generate(self, prompt: list[int], limit: int, sampling: Sampling) -> Request:
        """Have a request answered; withdraw it where nobody waits any more."""
        from negfail_nb.agents.engine import Request

        if self._thread is None:
            raise ModelError(f"{self.name} is not running; enter it first: async with model")
        done = asyncio.get_running_loop().create_future()
        seed = _request_seed(prompt, sampling.seed)
        request = Request(prompt, limit, float(sampling.temperature), seed, sampling.stop, done)
        self._waiting.append(request)
        self._arrived.set()
        try:
            return await done
        finally:
            request.withdrawn = True

    async def _serve(self) -> None:
        """Answer what waits, batch by batch."""
        from negfail_nb.agents.engine import next_batch

        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            seen = 0
            while seen < len(self._waiting):  # the other episodes mostly ask at about the same time
                seen = len(self._waiting)
                await asyncio.sleep(QUIET)
            self._waiting = [request for request in self._waiting if not request.withdrawn]
            if self._waiting:
                self._running = next_batch(self._waiting, self._fits)
                self._waiting = [
                    request for request in self._waiting if request not in self._running
                ]
                await self._answer(self._running)

    async def _answer(self, batch: list[Request]) -> None:
        from negfail_nb.agents.engine import generate

        asked = generate, self.model, batch, self._end_ids, self._text
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, *asked)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._refuse(batch, str(error) or type(error).__name__)
        for request in batch:
            request.done.done() or request.done.set_result(request)

    def _refuse(self, requests: Iterable[Request], why: str) -> None:
        for request in requests:
            if not request.done.done():
                request.done.set_exception(
                    ModelError(f"{self.name}: generation has stopped: {why}")
                )

    def _fits(self, rows: int, prompt: int, reply: int) -> bool:
        """Whether so many requests may be one batch: no more than may run at once, in the window
        and the memory.
        """
        from negfail_nb.agents.engine import batch_bytes

        tokens = prompt + reply
        inside = rows <= self.concurrency and tokens <= (self.window or tokens)
        return inside and batch_bytes(self.model, rows, tokens) <= self._memory

    async def __aenter__(self) -> Self:
        """Start what answers.

        Raises
        ------
        ModelError
            Where it is running already.
        ValueError
            Where the tokenizer has no chat template that training could use.
        """
        from negfail_nb.agents.engine import free_bytes

        if self._thread is not None:
            raise ModelError(f"{self.name} is running already; enter it once and share it")
        self.chat  # noqa: B018 (a template that cannot be used is found here, not in every episode)
        self._was_training, self._memory = (
            self.model.training,
            int(MEMORY * free_bytes(self.model.device)),
        )
        self.model.eval()
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._arrived, self._thread = asyncio.Event(), ThreadPoolExecutor(1, "negfail-generate")
        self._serving = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop (after the forward pass that is under way), and put the model back as it was."""
        asked, thread, self._thread = [*self._running, *self._waiting], self._thread, None
        self._serving.cancel()
        for request in asked:
            request.withdrawn = True
        self._refuse(asked, "it was stopped")
        thread.shutdown()
        self.model.train(self._was_training)

    def _text(self, tokens: Sequence[int]) -> str:
        """Return what a reply says."""
        ends = self._end_ids
        return self.tokenizer.decode([t for t in tokens if t not in ends], skip_special_tokens=True)

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        """Tokens that end a reply: the chat template's, and those of the tokenizer and of the
        model's settings.
        """
        known = self.model.generation_config.eos_token_id
        known = known if isinstance(known, list) else [known]
        return frozenset(
            i for i in (self.chat.end_id, self.tokenizer.eos_token_id, *known) if i is not None
        )


def _request_seed(prompt: Sequence[int], seed: int | None) -> int:
    """Return a number above 0, so that two conversations under one seed are not drawn with the same
    noise.
    """
    return (
        zlib.crc32(array("q", prompt).tobytes(), secrets.randbits(32) if seed is None else seed)
        or 1
    )


def _before(text: str, stop: Iterable[str]) -> str:
    """Return the text up to the first of the stop strings."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]
