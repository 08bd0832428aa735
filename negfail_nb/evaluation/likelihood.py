"""How well each arm models held-out successes, under its own prompt, with intervals over questions.

The measure is the loss per assistant token, as in the paper's figure of perplexities (arXiv
2402.11651, figure 4). Attempts at one question resemble each other, so questions are resampled,
never single attempts or tokens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from negfail_nb.intervals import choose_baseline, choose_questions, interval
from negfail_nb.prefix.trained import check_data
from negfail_nb.settings import EvaluateSettings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger("negfail_nb")

LOGITS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a model predicts the assistant tokens of some trajectories.

    Attributes
    ----------
    table
        One row an example: ``id``, ``question_id``, ``nll`` (sum over its assistant tokens of ``-ln
        p``, in nats), ``tokens`` (how many those are).
    """

    table: pd.DataFrame

    @property
    def loss(self) -> float:
        """Nats an assistant token: ``sum(nll) / sum(tokens)``."""
        return float(self.table["nll"].sum() / self.table["tokens"].sum())

    @property
    def perplexity(self) -> float:
        """``exp(loss)``."""
        return math.exp(self.loss)

    def __repr__(self) -> str:
        t = self.table
        return (
            f"Perplexity(perplexity={self.perplexity:.4g}, loss={self.loss:.4f}, "
            f"questions={t['question_id'].nunique()}, examples={len(t)}, tokens={t['tokens'].sum()})"
        )


def perplexity(
    model: PreTrainedModel, data: Any, settings: EvaluateSettings = EvaluateSettings()
) -> Perplexity:
    """Measure the loss of a model on rendered trajectories, under the prompt that they were
    rendered with.

    Parameters
    ----------
    model
        Any causal model, adapted or not; it is put into evaluation mode and left there. The work is
        done on its device, and the model is not moved: `TrainedRun.load` puts it on the accelerator
        where there is one.
    data
        What `negfail_nb.render` returned: ``data.dataset()`` with ``input_ids``, ``labels`` (-100:
        not in the loss), ``id`` and ``question_id``.
    settings
        ``max_questions`` chooses the same questions for every arm; ``batch_tokens`` bounds the
        memory.

    Raises
    ------
    ValueError
        Where there is no example with a trained token, an example is longer than the model's
        context, or the data was rendered under another chat template, or with another tokenizer,
        than the model was trained with.
    """
    import pandas as pd
    import torch
    from tqdm.auto import tqdm

    check_data(model, data, "this evaluation")
    examples = _examples(data, settings)
    _check_examples(examples, model)
    model.eval()
    with (
        torch.inference_mode(),
        tqdm(total=len(examples), desc="perplexity", unit="example") as bar,
    ):
        for batch in _batches(examples, settings.batch_tokens):
            for example, nll in zip(batch, _nll(model, batch), strict=True):
                example["nll"] = nll
            bar.update(len(batch))
    return Perplexity(pd.DataFrame(examples)[["id", "question_id", "nll", "tokens"]])


def compare(
    scores: Mapping[str, Perplexity],
    settings: EvaluateSettings = EvaluateSettings(),
    baseline: str | None = None,
) -> pd.DataFrame:
    """Put arms beside each other, with intervals, and their differences to one of them.

    The loss of an arm is ``sum(nll) / sum(tokens)`` over all examples. For the interval, as many
    questions as there are are drawn with replacement, with all their examples, ``resamples`` times;
    the interval holds the middle ``confidence`` of the losses (`scipy.stats.bootstrap`, percentile
    method). Differences use the same draws for both arms, so what makes a question hard for both
    cancels out.

    Parameters
    ----------
    scores
        Arms by name, measured on the same examples.
    settings
        Resamples, confidence, seed.
    baseline
        The arm that differences are taken to; ``None``: the first.

    Returns
    -------
    pandas.DataFrame
        One row an arm: ``arm``, ``loss``, ``perplexity`` and ``difference`` (loss minus the
        baseline's; below 0 is better), each with ``_low`` and ``_high``; ``questions``,
        ``examples``, ``tokens``; ``note``. With one question intervals are NaN, and the note says
        why.

    Raises
    ------
    ValueError
        Where there are no arms, the baseline is not among them, or they were measured on different
        examples or tokens; the text names arms and examples.
    """
    import numpy as np
    import pandas as pd

    baseline = choose_baseline(scores, baseline)
    _check_examples_agree(scores, baseline)
    reference = _by_question(scores[baseline])
    note = "" if len(reference) > 1 else "one question only: no interval"
    if note:
        log.warning("intervals are over questions, and there is %s", note)
    rows = []
    for name, score in scores.items():
        sums = _by_question(score).loc[reference.index]
        low, high = _interval(sums["nll"], sums["tokens"], settings)
        difference = sums["nll"] - reference["nll"]
        least, most = (
            (0.0, 0.0)
            if name == baseline and not note
            else _interval(difference, sums["tokens"], settings)
        )
        rows.append(
            {
                "arm": name,
                "loss": score.loss,
                "loss_low": low,
                "loss_high": high,
                "perplexity": score.perplexity,
                "perplexity_low": np.exp(low),
                "perplexity_high": np.exp(high),
                "difference": float(difference.sum() / sums["tokens"].sum()),
                "difference_low": least,
                "difference_high": most,
                "questions": len(sums),
                "examples": len(score.table),
                "tokens": int(sums["tokens"].sum()),
                "note": note,
            }
        )
    return pd.DataFrame(rows)


def _interval(nll: pd.Series, tokens: pd.Series, settings: EvaluateSettings) -> tuple[float, float]:
    """Interval of ``sum(nll) / sum(tokens)`` over resampled questions; NaN for fewer than two."""

    def ratio(nll: np.ndarray, tokens: np.ndarray, axis: int) -> np.ndarray:
        return nll.sum(axis=axis) / tokens.sum(axis=axis)

    return interval(ratio, (nll.to_numpy(), tokens.to_numpy()), settings)


def _by_question(score: Perplexity) -> pd.DataFrame:
    return score.table.groupby("question_id")[["nll", "tokens"]].sum().sort_index()


def _check_examples_agree(scores: Mapping[str, Perplexity], baseline: str) -> None:
    expected = scores[baseline].table.set_index("id").sort_index()
    for name, score in scores.items():
        found = score.table.set_index("id").sort_index()
        differing = expected.index.symmetric_difference(found.index)
        if len(differing):
            raise ValueError(
                f"arms {baseline} and {name} were measured on different examples; {len(differing)} are not in both: "
                f"{', '.join(map(str, differing[:5]))}. Evaluate both on the same held-out trajectories."
            )
        uneven = expected.index[(expected["tokens"] != found["tokens"]).to_numpy()]
        if len(uneven):
            raise ValueError(
                f"arms {baseline} and {name} count different tokens in {len(uneven)} examples: "
                f"{', '.join(f'{i} ({expected.tokens[i]} and {found.tokens[i]})' for i in uneven[:5])}. "
                "Render with one tokenizer, and with prefix.max_tokens high enough that no turn is cut."
            )


def _examples(data: Any, settings: EvaluateSettings) -> list[dict[str, Any]]:
    """Examples of the chosen questions, with the number of tokens in the loss; the first token
    never counts.
    """
    import numpy as np

    columns = data.dataset().select_columns(["id", "question_id", "input_ids", "labels"])
    examples = [
        dict(e, tokens=int(np.count_nonzero(np.asarray(e["labels"][1:]) != -100))) for e in columns
    ]
    chosen = choose_questions((e["question_id"] for e in examples), settings)
    return [e for e in examples if e["question_id"] in chosen]


def _check_examples(examples: list[dict[str, Any]], model: PreTrainedModel) -> None:
    empty = [e["id"] for e in examples if not e["tokens"]]
    if empty or not examples:
        raise ValueError(
            f"{len(empty)} of {len(examples)} held-out examples have no assistant token "
            f"({', '.join(map(str, empty[:3]))}); perplexity needs held-out successes with at least one"
        )
    longest = max(examples, key=lambda e: len(e["input_ids"]))
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and len(longest["input_ids"]) > positions:
        raise ValueError(
            f"example {longest['id']} has {len(longest['input_ids']):,} tokens, the model takes {positions:,}; "
            "render with a smaller prefix.max_tokens"
        )


def _batches(examples: list[dict[str, Any]], batch_tokens: int) -> Iterator[list[dict[str, Any]]]:
    """Examples of like length together, longest first; a padded batch has at most ``batch_tokens``,
    or one example.
    """
    batch: list[dict[str, Any]] = []
    for example in sorted(examples, key=lambda e: len(e["input_ids"]), reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]["input_ids"]) > batch_tokens:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def _nll(model: PreTrainedModel, batch: list[dict[str, Any]]) -> list[float]:
    """Sum of ``-ln p`` over the trained tokens of each example.

    Padding stands at the right, where a causal model does not look, so no attention mask is needed
    (and without one the fast kernel runs). ``use_cache=False`` saves the memory of keys and values
    that nobody reads.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    def padded(column: str, value: int) -> torch.Tensor:
        rows = [torch.as_tensor(e[column]) for e in batch]
        return pad_sequence(rows, batch_first=True, padding_value=value).to(model.device)

    logits = model(input_ids=padded("input_ids", 0), use_cache=False).logits[:, :-1]
    targets = padded("labels", -100)[:, 1:].to(logits.device)
    rows, places = (targets != -100).nonzero(as_tuple=True)
    losses = torch.zeros(len(batch), dtype=torch.float64, device=logits.device)
    for r, p in zip(rows.split(LOGITS_AT_ONCE), places.split(LOGITS_AT_ONCE), strict=True):
        # bfloat16 logits are summed in float32, tokens in float64: thousands of terms must not
        # drift
        nll = cross_entropy(logits[r, p].float(), targets[r, p], reduction="none")
        losses.index_add_(0, r, nll.double())
    return losses.tolist()
