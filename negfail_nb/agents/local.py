"""A model of transformers in this process: many episodes at once, by transformers' ``generate``.

All replies that are waited for at one time are one batch, padded on the left: in effect, one turn
of all episodes at a time. Prompts are rendered token for token as training renders them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from negfail_nb.agents.protocol import EpisodeTooLong, ModelError, Reply, Sampling
from negfail_nb.agents.tools import make_message
from negfail_nb.content import fingerprint
from negfail_nb.environment import release_memory
from negfail_nb.models import find_model, find_weights
from negfail_nb.prefix.chat import Chat, open_chat
from negfail_nb.prefix.trained import MARK, check_chat, read_mark
from negfail_nb.prefix.turns import Refused, conversation
from negfail_nb.settings import ModelSettings
from negfail_nb.training import TrainedRun, load_model, load_tokenizer
from negfail_nb.training.arithmetic import resolve_dtype
from negfail_nb.training.model import device, free_bytes
from negfail_nb.trajectory import Message, Trajectory

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from negfail_nb.agents.engine import Request

MEMORY = 0.5  # share of the free memory that a batch may take
QUIET = 0.01  # seconds in which nobody else asks, before a batch begins


@dataclass(frozen=True)
class _Weights:
    """A model that is loaded on first use; its config and content are known before that."""

    load: Callable[[], PreTrainedModel]
    config: Callable[[], PretrainedConfig | None]
    content: Callable[[], str]
    described: Callable[[], dict[str, str]]


class LocalModel:
    """A model of transformers, under the `Model` protocol of live collection.

    Parameters
    ----------
    model
        Any causal model of transformers, on any device. While entered, it is in evaluation mode.
    tokenizer
        Its tokenizer.
    name
        Goes into the records; empty: where the model was loaded from.
    chat_template
        A file, or one of the package's by name, as in `PrefixSettings`; empty: the tokenizer's own.
    concurrency
        Most replies at once; more wait for their turn, as do those that the free memory does not
        hold.

    Notes
    -----
    A reply depends on its conversation, temperature and seed, not on what else runs at that time
    (up to the rounding of sums, which depends on the sizes of matrices; in bfloat16 it decides
    between two tokens that are about as likely). Temperature 0 is greedy. Penalties and the like
    of the model's ``generation_config`` are not applied.
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
        if isinstance(model, _Weights):
            self._weights = model
        else:
            name = name or model.name_or_path or type(model).__name__
            self._weights = _Weights(
                lambda: model,
                lambda: model.config,
                lambda: weights_hash(model),
                lambda: {"name": name, "origin": "given", "sha256": weights_hash(model)},
            )
        self.name = name
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.concurrency = concurrency
        self._thread: ThreadPoolExecutor | None = None

    @classmethod
    def open(
        cls,
        source: TrainedRun | ModelSettings | str | Path,
        *,
        name: str = "",
        chat_template: str = "",
        dtype: str = "float32",
        concurrency: int = 64,
    ) -> Self:
        """Return a model by its place; weights are loaded on first use, on a GPU if there is one.

        Parameters
        ----------
        source
            A training run, or a model that plays as it is: its settings, hub id or folder.
        name, chat_template, concurrency
            As for `LocalModel`; the default name is that of the run's folder, or of the model.
        dtype
            Name of the torch type of the weights, or ``auto``; a training run has its own.

        Raises
        ------
        ValueError
            If a folder lacks files; as `negfail_nb.training.load_tokenizer`.
        """
        if isinstance(source, TrainedRun):
            weights = _Weights(
                source.load,
                lambda: _config_of(source.weights),
                lambda: source.content,
                lambda: _trained(source),
            )
            tokenizer = source.tokenizer()
            name = name or source.folder.name
        else:
            settings = source
            if not isinstance(settings, ModelSettings):
                settings = ModelSettings(name=str(source))
            tokenizer = load_tokenizer(settings)
            kind = resolve_dtype(dtype)
            found = find_weights(settings.name)
            weights = _Weights(
                lambda: load_model(settings, tokenizer, kind).to(device()),
                lambda: _config_of(Path(found.place)),
                lambda: f"{kind} {found.content}",
                lambda: found.described,
            )
            name = name or settings.name
        return cls(weights, tokenizer, name, chat_template, concurrency=concurrency)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model; its weights are loaded here."""
        return self._weights.load()

    @cached_property
    def config(self) -> PretrainedConfig:
        """The model's config, without loading weights if it can be had without."""
        return self._weights.config() or self.model.config

    @cached_property
    def window(self) -> int | None:
        """Most tokens of prompt and reply together."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    @cached_property
    def content(self) -> str:
        """SHA-256 of what decides the replies: weights (of the hub: a commit), chat template."""
        chat = Path(self.chat_template)
        text = chat.read_text(encoding="utf-8") if chat.is_file() else self.chat_template
        return fingerprint([self._weights.content(), text])

    @property
    def weights(self) -> dict[str, str]:
        """Which weights these are, for manifests: ``name``, ``origin``, ``sha256``."""
        return self._weights.described()

    @cached_property
    def chat(self) -> Chat:
        """The chat template; `ValueError` if it is not the one that the model was trained under."""
        chat = open_chat(self.tokenizer, self.chat_template)
        check_chat(self, chat, self.name)
        return chat

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        """Return the tokens before the next answer, as training renders them.

        Raises
        ------
        ValueError
            If the chat template refuses the conversation; the text names the message.
        """
        messages = (*messages, {"role": "assistant", "content": "answer"})
        turns = {"messages": messages, "tools": tuple(tools)}
        prompt = Trajectory(id="prompt", question_id="", question="", **turns)
        asked = conversation(prompt, str, thoughts="history")  # those that the messages hold
        asked = asked.fold_system() if self.chat.folds_system else asked
        pieces = self.chat.cut([asked])[0]
        if isinstance(pieces, Refused):
            raise pieces
        end = next(i for i, piece in enumerate(pieces) if piece.turn == asked.answers[-1])
        return [token for row in self.chat.pieces_tokenizer.encode(pieces[:end]) for token in row]

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Return the next assistant message; see `Model.reply` and `prompt_ids`."""
        start = time.perf_counter()
        prompt = self.prompt_ids(messages, tools)
        room = sampling.max_tokens if self.window is None else self.window - len(prompt)
        if room < 1:
            raise EpisodeTooLong(
                f"the conversation has {len(prompt)} tokens, and the window of {self.name} "
                f"{self.window}"
            )
        request = await self._generate(prompt, min(room, sampling.max_tokens), sampling)
        text = self._text(request.tokens)
        ends = [at for at in map(text.find, sampling.stop) if at >= 0]
        cut = text[: min(ends, default=len(text))]
        message = make_message(cut, tools, len(messages))
        stopped = len(cut) < len(text) or request.tokens[-1] in self._end_ids
        finish = "stop" if stopped else "length"
        return Reply(
            message=message,
            finish_reason="tool_calls" if "tool_calls" in message else finish,
            prompt_tokens=len(prompt),
            completion_tokens=len(request.tokens),
            seconds=time.perf_counter() - start,
            first_seconds=request.first - start,
        )

    async def _generate(self, prompt: list[int], limit: int, sampling: Sampling) -> Request:
        """Have a request answered; it is withdrawn if nobody waits for it any more."""
        from negfail_nb.agents.engine import Request

        if self._thread is None:
            raise ModelError(f"{self.name} is not running; enter it first: async with model")
        done = asyncio.get_running_loop().create_future()
        # Two conversations under one seed are drawn with different noise; 0 would mix to 0.
        start = secrets.randbits(32) if sampling.seed is None else sampling.seed
        seed = zlib.crc32(array("q", prompt).tobytes(), start) or 1
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
            while seen < len(self._waiting):  # most episodes ask at about the same time
                seen = len(self._waiting)
                await asyncio.sleep(QUIET)
            self._waiting = [request for request in self._waiting if not request.withdrawn]
            if self._waiting:
                self._running = next_batch(self._waiting, self._fits)
                self._waiting = [r for r in self._waiting if r not in self._running]
                await self._answer(self._running)

    async def _answer(self, batch: list[Request]) -> None:
        from negfail_nb.agents.engine import generate

        asked = generate, self.model, batch, self._end_ids, self._text
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, *asked)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must know
            self._refuse(batch, str(error) or type(error).__name__)
        for request in batch:
            request.done.done() or request.done.set_result(request)

    def _refuse(self, requests: Iterable[Request], why: str) -> None:
        said = f"{self.name}: generation has stopped: {why}"
        for request in requests:
            if not request.done.done():
                request.done.set_exception(ModelError(said))

    def _fits(self, rows: int, prompt: int, reply: int) -> bool:
        """Whether so many requests may be one batch, by concurrency, window and free memory."""
        from negfail_nb.agents.engine import batch_bytes

        tokens = prompt + reply
        inside = rows <= self.concurrency and tokens <= (self.window or tokens)
        return inside and batch_bytes(self.model, rows, tokens) <= self._memory

    async def __aenter__(self) -> Self:
        if self._thread is not None:
            raise ModelError(f"{self.name} is running already; enter it once and share it")
        self.chat  # noqa: B018 - a template that cannot be used fails here, not in every episode
        self._was_training = self.model.training
        self._memory = int(MEMORY * free_bytes(self.model.device))
        self.model.eval()
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "negfail-generate")
        self._serving = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *error: object) -> None:
        # What is generated at the moment ends after its next token.
        asked = [*self._running, *self._waiting]
        thread = self._thread
        self._thread = None
        self._serving.cancel()
        for request in asked:
            request.withdrawn = True
        self._refuse(asked, "it was stopped")
        thread.shutdown()
        self.model.train(self._was_training)
        release_memory()

    def _text(self, tokens: Sequence[int]) -> str:
        ends = self._end_ids
        return self.tokenizer.decode([t for t in tokens if t not in ends], skip_special_tokens=True)

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        """Tokens that end a reply: of the chat template, the tokenizer and the model."""
        known = self.model.generation_config.eos_token_id
        known = known if isinstance(known, list) else [known]
        return frozenset({self.chat.end_id, self.tokenizer.eos_token_id, *known} - {None})


def _trained(run: TrainedRun) -> dict[str, str]:
    began = run.base.get("origin", "nothing")
    return {"name": run.folder.name, "origin": f"trained from {began}", "sha256": run.content}


def _config_of(place: Path) -> PretrainedConfig | None:
    """Return the config of a folder or hub id, with the mark of its training, or ``None``."""
    from transformers import AutoConfig

    adapter = place / "adapter_config.json"
    try:
        base = str(place)
        if adapter.is_file():
            base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        if not base:
            return None  # an adapter of a model that was made from nothing
        config = AutoConfig.from_pretrained(find_model(base))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # loading the model will say what is wrong
    if mark := read_mark(place):
        setattr(config, MARK, mark)
    return config


def weights_hash(model: PreTrainedModel) -> str:
    """Return the SHA-256 of a model's weights and their names."""
    import torch

    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
