"""Error of the analytic model on fixed-batch 70B rows when it was fitted on 8B rows, the ideal
roofline beside it.

``NEGFAIL_NB_LLM_ANALYSIS=DIR`` names a virtual environment with llm-analysis 0.2.2, which then
stands beside it, too::

    python -m venv DIR && DIR/bin/pip install --no-deps llm-analysis==0.2.2
    DIR/bin/pip install fire transformers

The measure is of NVIDIA's GPUs. AMD's rows stand beside it: an engine of 2024 that was no faster on
eight MI300X than on one for 8B, which no constant efficiency describes. What is fitted never sees a
row of the held-out side; the model's form and its priors were chosen on 8B rows and on profiled
layers of 8B, some round numbers of 2026-11-30 also with rows of a 70B under load in view.
"""

import json
import logging

import numpy as np
from _data import PUBLISHED
from _llm import VARIABLE, llm_analysis, quantiles, spread

__all__ = ["VARIABLE", "llm_analysis", "measures"]
NAMES = ("roofline_heldout_median", "roofline_heldout_p90")


def summed(errors):
    """Return median and p90 of what `llm_analysis` returns."""
    if "skipped" in errors:
        return errors
    known = {name: row[~np.isnan(row)] for name, row in errors.items()}
    return {
        name: spread(row) | {"unpredicted": len(errors[name]) - len(row)}
        for name, row in known.items()
    }


def one_table(measurements):
    """Return every split: our errors on its held-out rows, and those of the ideal roofline and of
    llm-analysis.
    """
    from _heldout import error_table, splits

    lines = error_table(measurements).round(3).to_dict("records")
    found = {split.name: split.held_out for split in splits(measurements)}
    # llm-analysis tells the time of a whole batch, and of no other thing.
    timed = {
        name: rows
        for name, rows in found.items()
        if rows and all(m.metric == "e2e_seconds" for m in rows)
    }
    wanted = [line for line in lines if line["split"] in timed]
    errors = llm_analysis([row for line in wanted for row in timed[line["split"]]])
    start = 0
    for line in wanted if "skipped" not in errors else ():
        end = start + len(timed[line["split"]])
        theirs = errors["suggested"][start:end]
        middle, high = quantiles(theirs[~np.isnan(theirs)])
        line |= {"llm_analysis_median": middle, "llm_analysis_p90": high}
        start = end
    return lines


def held_out_errors(splits, efficiencies=None):
    """Return absolute errors on the held-out rows of some splits, and the rows that they are of."""
    from _heldout import compare

    from negfail_nb.speed.calibration import calibrate

    errors, rows = [], []
    for split in splits:
        error = compare(split.held_out, efficiencies or calibrate(split.fitted))["error"].abs()
        errors += error.dropna().tolist()
        rows += [m for m, known in zip(split.held_out, error.notna(), strict=True) if known]
    return np.array(errors), rows


def intervals(errors, draws=2000):
    """Return 95 % bootstrap intervals of median and p90 over rows."""
    picked = np.random.default_rng(0).choice(errors, (draws, len(errors)))
    return [
        np.quantile(np.quantile(picked, q, axis=1), (0.025, 0.975)).round(4).tolist()
        for q in (0.5, 0.9)
    ]


def _nvidia(splits):
    """Return the splits of fixed batches of a 70B that are of NVIDIA's GPUs."""
    of_model = [split for split in splits if split.kind == "model" and split.held_out]
    return [split for split in of_model if not split.held_out[0].hardware.name.startswith("mi")]


def measures(measurements):
    """Yield both measures, of rows that fit into memory at once; the others stand beside."""
    from _heldout import fits, splits

    from negfail_nb.speed.efficiencies import Efficiencies

    waiting = held_out_errors(_nvidia(splits(measurements)))[0]
    left = len(measurements)
    measurements = [m for m in measurements if fits(m)]
    left -= len(measurements)
    held_out = [split for split in splits(measurements) if split.kind == "model" and split.held_out]
    nvidia = _nvidia(held_out)
    errors, rows = held_out_errors(nvidia)
    beside = {
        "defaults_unfitted": spread(held_out_errors(nvidia, Efficiencies())[0]),
        "ideal_roofline": spread(held_out_errors(nvidia, Efficiencies.ideal())[0]),
        "llm_analysis": summed(llm_analysis(rows)),
        "with_amd": spread(held_out_errors(held_out)[0]),
        "with_rows_that_wait": spread(waiting),
        "rows_that_wait": left,
    }
    table = one_table(measurements)
    for name, value, (low, high) in zip(NAMES, quantiles(errors), intervals(errors), strict=True):
        entry = {
            "value": value,
            "unit": "absolute relative error",
            "peer": "ideal roofline and llm-analysis 0.2.2",
        }
        entry |= {"low": low, "high": high, "n": len(errors), **beside}
        yield name, entry | ({"splits": table} if name == NAMES[0] else {})


def main():
    """Print one JSON object."""
    if not PUBLISHED.is_file():
        print(
            json.dumps(
                {
                    name: {"skipped": f"the published rows are not at {PUBLISHED.name}"}
                    for name in NAMES
                }
            )
        )
        return
    from negfail_nb.speed.measurements import read_measurements

    logging.disable(logging.WARNING)
    print(json.dumps(dict(measures(read_measurements(PUBLISHED)))))


if __name__ == "__main__":
    main()
