"""What a card was measured to take (`negfail_nb.speed.gpu`), as rows that can be fitted and
predicted.

A slice is a model of its own, with few layers: the analytic model predicts it as it stands, and
numbers fitted on slices hold for the whole. No engine is in them: a scheduler's time, sampling and
batching have to be measured on a server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.speed.architecture import Architecture
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import Hardware, get_hardware
from negfail_nb.speed.published import Measurement
from negfail_nb.speed.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Card", "card_table", "read_card"]

SCHEMA = "negfail_nb.card/1"
ENGINE = "slice on one card"
_WIDE = 2**31 - 1  # a slice has no window of its own


@dataclass(frozen=True, slots=True)
class Card:
    """A measured card.

    Attributes
    ----------
    hardware
        The card of the table where the table has it, else one of the rates that it was measured to
        reach; its memory is free for the slice.
    measurements
        Of slices and of the whole small model, each as the model that it was: fit efficiencies to
        these.
    whole
        Of whole models by layer count, as points beside a predicted line.
    rows
        As they were measured, those left out included.
    finished
        Whether the run came to its end.
    """

    hardware: Hardware
    measurements: tuple[Measurement, ...]
    whole: tuple[Measurement, ...]
    rows: tuple[Mapping[str, Any], ...]
    finished: bool

    def __repr__(self) -> str:
        left = len(self.rows) - len(self.measurements)
        return (
            f"Card({self.hardware.name}, {len(self.measurements)} cells measured, {left} left out)"
        )


def read_card(source: str | Path | Mapping[str, Any]) -> Card:
    """Read the JSON of ``python -m negfail_nb.speed.gpu``, or what `measure_card` returned.

    Raises
    ------
    ValueError
        Where it is none, or of another schema.
    """
    name, found = (
        ("the card", source) if isinstance(source, Mapping) else (str(source), _read(Path(source)))
    )
    if found.get("schema") != SCHEMA:
        raise ValueError(
            f"{name}: schema is {found.get('schema')!r}; this version reads {SCHEMA!r}, so measure again"
        )
    try:
        hardware = _hardware(found)
        rows = [row for row in found["rows"] if "seconds" in row]
        slices = tuple(_measurement(row, found, hardware, whole=False) for row in rows)
        whole = tuple(_measurement(row, found, hardware, whole=True) for row in rows)
        return Card(hardware, slices, whole, tuple(found["rows"]), bool(found["finished"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{name} lacks what a measured card has ({error!r}); measure it again"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a JSON file that can be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} holds no JSON object; give what python -m negfail_nb.speed.gpu wrote"
        )
    return found


def _hardware(found: Mapping[str, Any]) -> Hardware:
    """The table's card, else one of the measured rates; all of its memory is there for a slice."""
    card, rates = found["card"], found["rates"]
    try:
        known = get_hardware(card["name"])
    except ValueError:
        known = Hardware(
            name=card["name"],
            bf16_tflops=rates["bf16_tflops"],
            fp8_tflops=rates.get("fp8_tflops", 0.0),
            memory_gbs=rates["copy_gbs"],
            source="measured: square matrices, and a copy",
        )
    return replace(known, memory_gib=float(card["memory_gib"]), usable=1.0, reserve_gib=0.0)


def _measurement(
    row: Mapping[str, Any], found: Mapping[str, Any], hardware: Hardware, whole: bool
) -> Measurement:
    shape = Architecture(**found["shapes"][row["model"]])
    if not whole:
        some = {"layers": row["layers"], "name": f"{shape.name}, {row['layers']} layers"}
        shape = replace(shape, window=_WIDE, **some if row["layers"] < shape.layers else {})
    metric, tokens, output = "ttft_seconds", row["tokens"], 1
    if row["phase"] == "decode":  # one step, with the new token at the end of the context
        metric, tokens, output = "tpot_seconds", row["tokens"] - 1, 2
    work = Workload(
        input_tokens=max(1, tokens),
        output_tokens=output,
        batch=row["batch"],
        weights=row["precision"],
    )
    seconds = row["whole_seconds"] if whole else row["seconds"]
    engine = f"{ENGINE}, x {row['of_layers']} layers" if whole else ENGINE
    return Measurement(shape, hardware, work, metric, seconds, engine, "measured here")


def card_table(card: Card, efficiencies: Mapping[str, Efficiencies]) -> pd.DataFrame:
    """Return what was measured, and what is predicted for it.

    Parameters
    ----------
    card
        Of `read_card`.
    efficiencies
        By name, such as ``{"before": Efficiencies(), "fitted": calibrate(card.measurements)}``.

    Returns
    -------
    pandas.DataFrame
        One row a cell and ``source`` (``"measured"``, or a name of ``efficiencies``): ``model``,
        ``layers``, ``weights``, ``phase``, ``tokens``, ``batch``, ``asked``, ``seconds``, ``low``,
        ``high`` (quartiles of it), and ``error``, relative and signed.
    """
    import pandas as pd

    from negfail_nb.speed.calibration import predicted

    lines = []
    for row, measurement in zip(
        (row for row in card.rows if "seconds" in row), card.measurements, strict=True
    ):
        about = {
            name: row[name] for name in ("model", "layers", "phase", "tokens", "batch", "asked")
        }
        about["weights"] = row["precision"]
        lines.append(
            about
            | {"source": "measured"}
            | {name: row[name] for name in ("seconds", "low", "high")}
        )
        for name, reached in efficiencies.items():
            seconds = predicted(measurement, reached)
            lines.append(
                about
                | {"source": name, "seconds": seconds, "error": seconds / measurement.value - 1}
            )
    columns = [
        "model",
        "layers",
        "weights",
        "phase",
        "tokens",
        "batch",
        "asked",
        "source",
        "seconds",
        "low",
        "high",
        "error",
    ]
    return pd.DataFrame(lines, columns=columns)
