"""Published times to the first token of a 70B against the length of the prompt, beside what is
predicted: none of them is fitted.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from negfail_nb.speed.architecture import get_architecture
from negfail_nb.speed.bands import band
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import get_hardware
from negfail_nb.speed.roofline import DoesNotFit, Workload, predict

if TYPE_CHECKING:
    import pandas as pd

POINTS = 9  # of a predicted line
METRIC = "ttft_seconds"


def published_ladders(efficiencies: Efficiencies = Efficiencies()) -> pd.DataFrame:
    """Return published times to the first token, and predicted ones with their 95 % band.

    Parameters
    ----------
    efficiencies
        As `predict` takes them.

    Returns
    -------
    pandas.DataFrame
        ``ladder`` (GPUs and engine), ``source`` (``"measured"`` or ``"predicted"``), ``tokens`` of
        the prompt, ``seconds``, ``low`` and ``high`` of predictions, ``error`` of the prediction at
        a measured length (relative, signed), ``note``: where it is published, what is assumed, or
        why there is no prediction.
    """
    import pandas as pd

    text = files("negfail_nb.speed").joinpath("published.toml").read_text(encoding="utf-8")
    known = tomllib.loads(text).items()
    rows = [row for name, found in known for row in _rows(name, found, efficiencies)]
    columns = "ladder source tokens seconds low high error note".split()
    return pd.DataFrame(rows, columns=columns)


def _rows(
    name: str, found: Mapping[str, Any], efficiencies: Efficiencies
) -> Iterator[dict[str, Any]]:
    tokens = np.array(found["tokens"], dtype=float)
    speeds = found.get("prompt_tokens_per_second")
    seconds = tokens / speeds if speeds else np.array(found["seconds"])
    note = "; ".join(filter(None, (found["source"], found.get("assumed"))))
    if "gpu" not in found:
        note += "; this hardware is not modelled"
    for length, time in zip(tokens, seconds, strict=True):
        said = _predicted(found, int(length), efficiencies)
        about = {"ladder": name, "source": "measured", "tokens": int(length), "seconds": time}
        yield about | {"error": said / time - 1, "note": note}
    ends = np.geomspace(tokens.min(), tokens.max(), POINTS).round().astype(int)
    for length in ends if "gpu" in found else ():
        said = _predicted(found, int(length), efficiencies)
        low, high = band(said, METRIC, get_hardware(found["gpu"]), efficiencies)
        about = {"ladder": name, "source": "predicted", "tokens": int(length), "seconds": said}
        yield about | {"low": low, "high": high, "note": note}


def _predicted(found: Mapping[str, Any], tokens: int, efficiencies: Efficiencies) -> float:
    """Return the predicted seconds, or NaN where the hardware is not modelled."""
    if "gpu" not in found:
        return math.nan
    work = Workload(
        input_tokens=min(tokens, get_architecture(found["model"]).window - 1),
        output_tokens=1,
        tensor_parallel=found["gpus"],
        weights=found["weights"],
        kv=found["kv"],
        batching="continuous",
        queued=found["server"],
    )
    try:
        return predict(found["model"], found["gpu"], work, efficiencies).ttft_seconds
    except DoesNotFit:
        return math.nan
