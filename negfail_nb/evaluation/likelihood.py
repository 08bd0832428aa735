"""How well each arm models held-out successes, under its own prompt.

The measure is the loss per assistant token, as in the paper's figure of perplexities (arXiv
2402.11651, figure 4). Intervals are over questions, never over single attempts or tokens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.agents.local import weights_hash
from negfail_nb.csvs import read_csv, write_csv
from negfail_nb.intervals import choose_baseline, choose_questions, interval
from negfail_nb.prefix import Rendered
from negfail_nb.prefix.trained import check_data
from negfail_nb.runs import Place, Run, make
from negfail_nb.settings import EvaluateSettings
from negfail_nb.source import source_hash
from negfail_nb.training import TrainedRun

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger("negfail_nb")

LOGITS_AT_ONCE = 1024
TABLE = "examples.csv"


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a model predicts the assistant tokens of some trajectories.

    Attributes
    ----------
    table
        One row per example: ``id``, ``question_id``, ``nll`` (sum of ``-ln p`` over its assistant
        tokens, in nats), ``tokens`` (how many those are).
    run
        The run folder that holds it, if it has one.
    """

    table: pd.DataFrame
    run: Run | None = None

    @property
    def loss(self) -> float:
        """Nats per assistant token: ``sum(nll) / sum(tokens)``."""
        return float(self.table["nll"].sum() / self.table["tokens"].sum())

    @property
    def perplexity(self) -> float:
        """``exp(loss)``."""
        return math.exp(self.loss)

    def __repr__(self) -> str:
        t = self.table
        return (
            f"Perplexity(perplexity={self.perplexity:.4g}, loss={self.loss:.4f}, "
            f"questions={t['question_id'].nunique()}, examples={len(t)}, "
            f"tokens={t['tokens'].sum()})"
        )


def perplexity(
    model: PreTrainedModel | TrainedRun,
    data: Rendered,
    settings: EvaluateSettings = EvaluateSettings(),
    *,
    folder: str | Path | Place | None = None,
) -> Perplexity:
    """Measure the loss of a model on rendered trajectories, under the prompt of their rendering.

    Parameters
    ----------
    model
        A training run, which is loaded only if it is needed; or any causal model, adapted or not,
        which is put into evaluation mode and stays on its device.
    data
        What `negfail_nb.render` returned.
    settings
        ``max_questions`` chooses the same questions for every arm; ``batch_tokens`` bounds the
        memory.
    folder
        A run folder, or the `Place` of some, see `negfail_nb.runs.make`. What it has is read, not
        computed again.

    Raises
    ------
    ValueError
        If no example has a trained token, an example is longer than the model's context, or the
        data was rendered under another chat template, or with another tokenizer, than the model was
        trained with.
    """
    if folder is None:
        return Perplexity(_measure(model, data, settings))

    def compute(run: Run) -> dict[str, float]:
        found = Perplexity(_measure(model, data, settings))
        write_csv(found.table, run.path(TABLE))
        return {"loss": found.loss, "perplexity": found.perplexity}

    plan = {name: getattr(settings, name) for name in ("max_questions", "batch_tokens", "seed")}
    inputs: dict[str, Any] = {"data": data}
    if isinstance(model, TrainedRun):
        inputs["model"] = model
    else:
        plan["model"] = weights_hash(model)
    run = make(folder, plan, compute, inputs, source_hash("evaluation.likelihood"))
    texts = {"dtype": {"id": str, "question_id": str}, "keep_default_na": False}
    return Perplexity(read_csv(run.path(TABLE), **texts, float_precision="round_trip"), run)


def _measure(
    model: PreTrainedModel | TrainedRun, data: Rendered, settings: EvaluateSettings
) -> pd.DataFrame:
    import pandas as pd
    import torch
    from tqdm.auto import tqdm

    model = model.load() if isinstance(model, TrainedRun) else model
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
    return pd.DataFrame(examples)[["id", "question_id", "nll", "tokens"]]


def compare(
    scores: Mapping[str, Perplexity],
    settings: EvaluateSettings = EvaluateSettings(),
    baseline: str | None = None,
) -> pd.DataFrame:
    """Compare arms with intervals, and their differences to one of them.

    The loss of an arm is ``sum(nll) / sum(tokens)`` over all examples. Questions are resampled with
    replacement, with all their examples (percentile bootstrap). Differences use the same draws for
    both arms, so what makes a question hard for both cancels out.

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
        One row per arm: ``arm``, ``loss``, ``perplexity`` and ``difference`` (loss minus the
        baseline's; below 0 is better), each with ``_low`` and ``_high``; ``questions``,
        ``examples``, ``tokens``; ``note``, which says why intervals are NaN.

    Raises
    ------
    ValueError
        If there are no arms, the baseline is not among them, or they were measured on different
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
        least = most = 0.0
        if name != baseline or note:
            least, most = _interval(difference, sums["tokens"], settings)
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
                f"arms {baseline} and {name} were measured on different examples; "
                f"{len(differing)} are not in both: {', '.join(map(str, differing[:5]))}. Evaluate "
                "both on the same held-out trajectories."
            )
        uneven = expected.index[(expected["tokens"] != found["tokens"]).to_numpy()]
        if len(uneven):
            some = (f"{i} ({expected.tokens[i]} and {found.tokens[i]})" for i in uneven[:5])
            raise ValueError(
                f"arms {baseline} and {name} count different tokens in {len(uneven)} examples: "
                f"{', '.join(some)}. Render with one tokenizer, and with prefix.max_tokens high "
                "enough that no turn is cut."
            )


def _examples(data: Rendered, settings: EvaluateSettings) -> list[dict[str, Any]]:
    """Return the examples of the chosen questions, with the number of tokens in the loss."""
    import numpy as np

    columns = data.dataset().select_columns(["id", "question_id", "input_ids", "labels"])
    # The first token is predicted from nothing, so it never counts.
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
            f"({', '.join(map(str, empty[:3]))}); perplexity needs held-out successes with at "
            "least one"
        )
    longest = max(examples, key=lambda e: len(e["input_ids"]))
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and len(longest["input_ids"]) > positions:
        raise ValueError(
            f"example {longest['id']} has {len(longest['input_ids']):,} tokens, the model takes "
            f"{positions:,}; render with a smaller prefix.max_tokens"
        )


def _batches(examples: list[dict[str, Any]], batch_tokens: int) -> Iterator[list[dict[str, Any]]]:
    """Yield examples of similar length, longest first, at most ``batch_tokens`` when padded."""
    batch: list[dict[str, Any]] = []
    for example in sorted(examples, key=lambda e: len(e["input_ids"]), reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]["input_ids"]) > batch_tokens:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def _nll(model: PreTrainedModel, batch: list[dict[str, Any]]) -> list[float]:
    """Return the sum of ``-ln p`` over the trained tokens of each example."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    def padded(column: str, value: int) -> torch.Tensor:
        rows = [torch.as_tensor(e[column]) for e in batch]
        return pad_sequence(rows, batch_first=True, padding_value=value).to(model.device)

    # Padding is on the right, where a causal model does not look: without an attention mask the
    # fast kernel runs.
    logits = model(input_ids=padded("input_ids", 0), use_cache=False).logits[:, :-1]
    targets = padded("labels", -100)[:, 1:].to(logits.device)
    rows, places = (targets != -100).nonzero(as_tuple=True)
    losses = torch.zeros(len(batch), dtype=torch.float64, device=logits.device)
    for r, p in zip(rows.split(LOGITS_AT_ONCE), places.split(LOGITS_AT_ONCE), strict=True):
        # Logits are summed in float32 and tokens in float64, so that long sums do not drift.
        nll = cross_entropy(logits[r, p].float(), targets[r, p], reduction="none")
        losses.index_add_(0, r, nll.double())
    return losses.tolist()
