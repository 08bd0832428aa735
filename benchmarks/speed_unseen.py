"""Error of predicted speeds on sources that were never fitted, and how many lie in their bands.

Each source of the published rows is held out in turn: an engine's version on one page. The others
are fitted, pooled (`negfail_nb.speed.calibrate`), and predict it; errors are over all rows of all
sources. Beside stand the defaults without a fit, the ideal roofline, and llm-analysis 0.2.2 where
it can tell (the time of a batch), if ``NEGFAIL_NB_LLM_ANALYSIS`` names its environment.

Held out is a source from the fit. The defaults, from which each fit starts, were chosen by physics
and round numbers, but with all of these rows in view.

Other engines of the same maker are not held out with a source: the next TensorRT-LLM is predicted
from the last. ``without_amd_2024`` leaves out vLLM of 2024 on AMD's GPUs (332 rows), which was no
faster on eight than on one; they count in the measure itself.

AIConfigurator, whose measured sample is among the rows, was not run: it needs its own database of
each GPU. Its paper (arXiv:2601.06288) was looked up; we found no number of its error there that we
could quote for these rows.
"""

import json
import logging

import numpy as np
from _data import PUBLISHED
from _llm import llm_analysis, spread

KINDS = ("throughput", "tpot", "ttft")
NAMES = tuple(f"speed_unseen_{kind}_{q}" for kind in KINDS for q in ("median", "p90"))
FILES = ("published.csv", "second.csv", "silicon_8b.csv")


def read_all():
    """Return all rows that fit into memory, and how many of the files' are left out, by reason."""
    from _heldout import DoesNotFit, capacity

    from negfail_nb.speed.measurements import read_measurements

    rows, left = [], {}
    for name in FILES:
        found = read_measurements(PUBLISHED.parent / name)
        left |= found.left_out
        for m in found:
            try:
                capacity(m.architecture, m.hardware, m.workload)
                rows.append(m)
            except DoesNotFit as error:
                reason = str(error).partition(":")[0]
                left[reason] = left.get(reason, 0) + 1
    return rows, left


def source(measurement):
    """Return the page of a row, without its commit, and the engine."""
    return f"{measurement.source.partition('@')[0]}, {measurement.engine}"


def unseen(rows):
    """Return errors of the logarithm on each source when it was held out, and half the bands."""
    from negfail_nb.speed.bands import half_width
    from negfail_nb.speed.calibration import calibrate, errors

    sources = np.array([source(m) for m in rows])
    found, half = np.zeros(len(rows)), np.zeros(len(rows))
    for name in sorted(set(sources)):
        held = np.flatnonzero(sources == name)
        fitted = calibrate([rows[n] for n in np.flatnonzero(sources != name)], each=False)
        found[held] = errors([rows[n] for n in held], fitted)
        half[held] = [half_width(rows[n].metric, rows[n].hardware, fitted) for n in held]
    return found, half, sources


def relative(errors):
    return np.abs(np.expm1(errors))


def by_source(rows, errors, sources):
    """Return the errors of each source and kind, for those who want to know where it fails."""
    from negfail_nb.speed.bands import kind_of

    kinds = np.array([kind_of(m.metric) for m in rows])
    table = []
    for name in sorted(set(sources)):
        for kind in KINDS:
            of = (sources == name) & (kinds == kind)
            if of.any():
                table.append({"source": name, "kind": kind} | spread(relative(errors[of])))
    return table


def intervals(errors, sources, quantile, draws=500):
    """Return the 95 % bootstrap interval over sources."""
    names = sorted(set(sources))
    parts = [errors[sources == name] for name in names]
    draw = np.random.default_rng(0)
    picked = draw.integers(len(names), size=(draws, len(names)))
    values = [np.quantile(np.concatenate([parts[n] for n in one]), quantile) for one in picked]
    return np.quantile(values, (0.025, 0.975)).round(4).tolist()


def measures(rows, left):
    """Yield every measure."""
    from negfail_nb.speed.bands import kind_of
    from negfail_nb.speed.calibration import errors as errors_of
    from negfail_nb.speed.efficiencies import Efficiencies

    off, half, sources = unseen(rows)
    kinds = np.array([kind_of(m.metric) for m in rows])
    old = np.array([m.hardware.vendor == "amd" and "2024" in m.engine for m in rows])
    loaded = np.array([m.workload.queued for m in rows])
    others = {
        "defaults_unfitted": relative(errors_of(rows, Efficiencies())),
        "ideal_roofline": relative(errors_of(rows, Efficiencies.ideal())),
    }
    told = _told_by_llm_analysis(rows)
    for kind in KINDS:
        of = kinds == kind
        beside = {name: spread(values[of]) for name, values in others.items()}
        beside["without_amd_2024"] = spread(relative(off[of & ~old]))
        if kind == "throughput":
            beside |= told
        if kind == "ttft":  # the others are of one prompt, or one batch, alone
            beside["under_load"] = spread(relative(off[of & loaded]))
        for name, quantile in (("median", 0.5), ("p90", 0.9)):
            low, high = intervals(relative(off[of]), sources[of], quantile)
            entry = {
                "value": round(float(np.quantile(relative(off[of]), quantile)), 4),
                "unit": "absolute relative error",
                "peer": "ideal roofline",
                "low": low,
                "high": high,
                "n": int(of.sum()),
                **beside,
            }
            yield f"speed_unseen_{kind}_{name}", entry
    inside = np.abs(off) <= half
    yield (
        "speed_unseen_band",
        {
            "value": round(float(inside.mean()), 4),
            "unit": "share of rows in the 95 % band",
            "peer": "",
            "low": round(float(min(inside[kinds == kind].mean() for kind in KINDS)), 4),
            "high": round(float(max(inside[kinds == kind].mean() for kind in KINDS)), 4),
            "n": len(rows),
            "without_amd_2024": round(float(inside[~old].mean()), 4),
            "band_of_the_median_row": round(float(np.exp(np.median(half))), 3),
            "left_out": left,
            "by_source": by_source(rows, off, sources),
        },
    )


def _told_by_llm_analysis(rows):
    """Return its errors on the rows whose batch time it can tell, and ours on none else."""
    timed = [m for m in rows if m.metric == "e2e_seconds" and m.workload.batching == "static"]
    errors = llm_analysis(timed)
    if "skipped" in errors:
        return {"llm_analysis": errors}
    known = {name: values[~np.isnan(values)] for name, values in errors.items()}
    return {"llm_analysis": {name: spread(values) for name, values in known.items()}}


def main():
    """Print one JSON object."""
    if missing := [name for name in FILES if not (PUBLISHED.parent / name).is_file()]:
        skipped = {"skipped": f"the published rows are not at {missing[0]}"}
        print(json.dumps({name: skipped for name in (*NAMES, "speed_unseen_band")}))
        return
    logging.disable(logging.WARNING)
    print(json.dumps(dict(measures(*read_all()))))


if __name__ == "__main__":
    main()
