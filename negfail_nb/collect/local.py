"""A model of transformers in this process: many episodes at once, by transformers' own continuous batching.

All replies that are asked for at one time share each forward pass, and what a conversation repeats from its last call,
or shares with others (the instruction), is read once. Prompts are rendered token for token as training renders them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import zlib
from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from negfail_nb.collect.calls import make_message
from negfail_nb.collect.protocol import EpisodeTooLong, ModelError, Reply, Sampling
from negfail_nb.trajectory import Message, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.generation import ContinuousBatchingConfig
    from transformers.generation.continuous_batching.requests import GenerationOutput

    from negfail_nb.prefix.chat import Chat

PAGE = 32  # tokens of a page of the cache: prefixes are shared in whole pages
BATCH_TOKENS = 2048  # of one forward pass, at most
MEMORY = 0.25  # share of the free memory that the cache, and what the engine counts beside it, may take
PATIENCE = 1.0  # seconds between two looks at whether the engine still runs


class LocalModel:
    """A model of transformers, under the `Model` protocol of live collection.

    Parameters
    ----------
    model
        Any causal model of transformers, on any device. While it is entered, its attention is the engine's, and it is
        in evaluation mode; both are put back afterwards.
    tokenizer
        Its tokenizer.
    name
        Goes into the records; empty: where the model was loaded from.
    chat_template
        A file, or one of the package's by name, as in `PrefixSettings`; empty: the tokenizer's own.
    concurrency
        Replies at once, at most; more wait for their turn.

    Notes
    -----
    A reply depends on its conversation, temperature and seed, not on what else runs at that time (up to the rounding of
    sums, which depends on the sizes of matrices). Temperature 0 is greedy. The engine knows no stop strings: a reply
    runs to an end token or to ``max_tokens``, and is cut afterwards; ``completion_tokens`` counts what was generated.
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
        self.model, self.tokenizer, self.chat_template, self.concurrency = model, tokenizer, chat_template, concurrency
        self.name = name or model.name_or_path or type(model).__name__
        self.window: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._engine: Any = None

    @cached_property
    def chat(self) -> Chat:
        """The tokenizer's chat template, as training uses it."""
        from negfail_nb.prefix.chat import open_chat
        from negfail_nb.prefix.trained import check_chat

        chat = open_chat(self.tokenizer, self.chat_template)
        check_chat(self.model, chat, self.name)
        return chat

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Return the tokens before the next answer, as training renders them.

        Raises
        ------
        ValueError
            Where the chat template refuses the conversation; the text names the message.
        """
        from negfail_nb.prefix.turns import Refused, conversation

        messages = (*messages, {"role": "assistant", "content": "answer"})
        asked = conversation(
            Trajectory(id="prompt", question_id="", question="", messages=messages, tools=tuple(tools)),
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
            Where the engine has stopped, or the model was not entered.
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
        output = await self._generate(prompt, min(room, sampling.max_tokens), sampling)
        times = output.timestamps or []
        tokens, ends = output.generated_tokens, self._end_ids
        text = self.tokenizer.decode([t for t in tokens if t not in ends], skip_special_tokens=True)
        cut = _before(text, sampling.stop)
        stopped = len(cut) < len(text) or tokens[-1:] and tokens[-1] in ends
        message = make_message(cut, tools, len(messages))
        reason = "tool_calls" if "tool_calls" in message else "stop" if stopped else "length"
        return Reply(
            message=message,
            finish_reason=reason,
            prompt_tokens=len(prompt),
            completion_tokens=len(tokens),
            seconds=time.perf_counter() - start,
            first_seconds=times[0] - start if times else None,  # the engine's clock is this one
        )

    async def _generate(self, prompt: list[int], limit: int, sampling: Sampling) -> GenerationOutput:
        """Hand a request to the engine's thread and wait for its result; withdraw it where nobody waits any more."""
        if self._engine is None:
            raise ModelError(f"{self.name} is not running; enter it first: async with model")
        done: asyncio.Future[GenerationOutput] = asyncio.get_running_loop().create_future()
        request = secrets.token_hex(8)
        self._engine.register_result_handler(request, lambda output: done.done() or done.set_result(output))
        greedy = sampling.temperature == 0
        accepted = self._engine.add_request(
            prompt,
            request,
            limit,
            record_timestamps=True,
            eos_token_id=sorted(self._end_ids),
            temperature=1.0 if greedy else float(sampling.temperature),
            seed=0 if greedy else _request_seed(prompt, sampling.seed),
        )
        try:
            while accepted and not done.done() and self._engine.is_running():
                await asyncio.wait([done], timeout=PATIENCE)
        except asyncio.CancelledError:
            self._engine.cancel_request(request)
            raise
        return self._result(done)

    def _result(self, done: asyncio.Future[GenerationOutput]) -> GenerationOutput:
        status = self._engine.background_thread_status
        if not done.done() or status.can_accept_new_requests():
            why = status.fatal_error or (done.done() and done.result().error) or "it was stopped"
            raise ModelError(f"{self.name}: generation has stopped: {why}")
        if done.result().error:
            raise RuntimeError(f"{self.name}: {done.result().error}")
        return done.result()

    async def __aenter__(self) -> Self:
        """Start the engine's thread.

        Raises
        ------
        ModelError
            Where it is running already, the engine cannot run this model, or its cache does not fit the memory.
        ValueError
            Where the tokenizer has no chat template that training could use.
        """
        if self._engine is not None:
            raise ModelError(f"{self.name} is running already; enter it once and share it")
        self.chat  # noqa: B018 (a template that cannot be used is found here, not in every episode)
        self._before = self.model.config._attn_implementation, self.model.training, self.window
        try:  # not in a thread: a start that is cancelled half-way would leave the engine's thread behind
            self._engine = self._start()
        except (MemoryError, RuntimeError, ValueError) as error:
            self._restore()
            raise ModelError(f"{self.name} cannot run by continuous batching: {error}") from error
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop the thread (after the forward pass that it is in), free the cache, put the model back as it was."""
        engine, self._engine = self._engine, None
        try:
            engine.stop(block=True, hard_stop=True)
            engine.destroy()
        finally:
            self._restore()

    def _start(self) -> Any:
        from transformers import GenerationConfig

        from negfail_nb.collect.dense import DenseCache
        from negfail_nb.collect.engine import DENSE, register_paged_sdpa, request_processors

        own = self._own_attention
        if own or self.model.config._attn_implementation == "packed_sdpa":  # the manager accepts those that it knows
            self.model.set_attn_implementation("sdpa")
        # Greedy for the engine: what is drawn is decided by the processors, request by request.
        generation = GenerationConfig(do_sample=False, eos_token_id=sorted(self._end_ids))
        engine = self.model.init_continuous_batching(generation, self._config())
        engine.logit_processor = request_processors()
        if own:
            self.model.set_attn_implementation(register_paged_sdpa())
        engine.warmup()
        cache = engine.batch_processor.cache
        held = cache.num_sectors * cache.tokens_per_sector
        self.window = min(self.window or held, held)
        setattr(cache, DENSE, DenseCache(held))
        engine.start()
        return engine

    def _restore(self) -> None:
        attention, training, self.window = self._before
        self.model.set_attn_implementation(attention)
        self.model.train(training)

    @cached_property
    def _own_attention(self) -> bool:
        """Whether `paged_sdpa` runs this model: on a CPU, where all layers have full attention."""
        from transformers.generation.continuous_batching.cache import group_layers_by_attn_type

        groups = group_layers_by_attn_type(self.model.config.get_text_config())
        return self.model.device.type == "cpu" and list(groups) == ["full_attention"]

    def _config(self) -> ContinuousBatchingConfig:
        """Return the engine's settings; on GPUs it sizes its cache itself."""
        from transformers.generation import ContinuousBatchingConfig

        # Switching to flash attention would download its kernels; a model that was loaded with it keeps it.
        shared = {"max_requests_per_batch": self.concurrency, "auto_switch_to_flash": False}
        if self.model.device.type != "cpu":
            return ContinuousBatchingConfig(**shared)
        from transformers.generation.continuous_batching.utils import get_device_and_memory_breakdown

        _, total, *taken = get_device_and_memory_breakdown()  # knows the limits of containers, as psutil does not
        tokens = int(MEMORY * (total - max(taken))) // self._token_bytes()
        tokens = min(tokens, self.concurrency * self.window if self.window else tokens)
        return ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=max(1, tokens // PAGE), max_batch_tokens=BATCH_TOKENS, **shared
        )

    def _token_bytes(self) -> int:
        """Bytes that the engine counts for one token of its cache: keys, values, their copies, a column of a mask."""
        config, size = self.model.config.get_text_config(), self.model.dtype.itemsize
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        kept = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads)
        return size * (width * (kept + 3 * heads) + BATCH_TOKENS) + 8

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        """Tokens that end a reply: the chat template's, and those of the tokenizer and of the model's settings."""
        known = self.model.generation_config.eos_token_id
        known = known if isinstance(known, list) else [known]
        return frozenset(i for i in (self.chat.end_id, self.tokenizer.eos_token_id, *known) if i is not None)


def _request_seed(prompt: Sequence[int], seed: int | None) -> int:
    """Return a number above 0, so that two conversations under one seed are not drawn with the same noise."""
    return zlib.crc32(array("q", prompt).tobytes(), secrets.randbits(32) if seed is None else seed) or 1


def _before(text: str, stop: Iterable[str]) -> str:
    """Return the text up to the first of the stop strings."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]
