"""How often what a check accepts is what the source says: the rules, and models that read claims.

Two sets of sentences: those of the package that were held out, and 100 claims that were written
before any check had seen them (``claims_blind.toml``: 20 faithful, and 20 each with numbers
swapped, negated, names exchanged, causes reversed). All sentences of a set are the source of its
claims.

The judge is the small model of ``make smollm``. ``NEGFAIL_NB_ENTAILMENT`` names an entailment
cross-encoder (hub id or folder), ``NEGFAIL_NB_JUDGE`` the address of a server and
``NEGFAIL_NB_JUDGE_MODEL`` its model; what is not there is left out, with its reason. The value is
the precision of the default on the 100.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tomllib
from pathlib import Path

from negfail_nb.agents import EndpointModel, LocalModel
from negfail_nb.claims import check_weakness, load_pairs, open_ask
from negfail_nb.claims.judging import TOKENS, Entailment, Quoting
from negfail_nb.models import ModelNotFound, find_model
from negfail_nb.settings import ClaimSettings, EndpointSettings

BLIND = Path(__file__).with_name("claims_blind.toml")
ANSWERS = Path(__file__).parents[1] / "runs" / "claims_precision"  # kept, and not asked again
SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT = "all rules"  # ClaimSettings.checks
COLUMNS = ("precision", "precision_low", "precision_high", "recall", "f_half")


def blind():
    """Return the claims that were written before any check had seen them."""
    return tomllib.loads(BLIND.read_text(encoding="utf-8"))["pairs"]


def judges():
    """Return the models that read claims, and why others are missing."""
    found, missing = {}, {}
    try:
        find_model(SMALL)
        model = LocalModel.open(SMALL, dtype="bfloat16")
        found["judge"] = Quoting(open_ask(model, ANSWERS, TOKENS))
    except ModelNotFound as error:
        missing["judge"] = str(error)[:200]
    if name := os.environ.get("NEGFAIL_NB_ENTAILMENT"):
        found["entailment"] = Entailment(name)
    else:
        missing["entailment"] = "NEGFAIL_NB_ENTAILMENT names no model"
    if url := os.environ.get("NEGFAIL_NB_JUDGE"):
        settings = EndpointSettings(base_url=url, model=os.environ["NEGFAIL_NB_JUDGE_MODEL"])
        found["server"] = Quoting(open_ask(EndpointModel(settings), ANSWERS, TOKENS))
    else:
        missing["server"] = "NEGFAIL_NB_JUDGE names no server"
    return found, missing


def measured(pairs, models):
    """Return precision with interval, recall, F0.5 and how many were accepted, by check."""
    table = check_weakness(pairs, ClaimSettings(), judges=models)
    found = {}
    for row in table.to_dict("records"):
        right = row["recall"] * row["faithful"]
        known = {name: None if math.isnan(row[name]) else row[name] for name in COLUMNS}
        numbers = {name: value and round(value, 3) for name, value in known.items()}
        accepted = round(right / row["precision"]) if right else None
        found[row["check"]] = numbers | {"accepted": accepted, "n": row["faithful"] + row["false"]}
    return found


def main():
    """Print one JSON object."""
    logging.disable(logging.WARNING)
    models, missing = judges()
    sets = {"blind": blind(), "held out": load_pairs(held_out=True)}
    found = {name: measured(pairs, models) for name, pairs in sets.items()}
    default = found["blind"][DEFAULT]
    entry = {
        "value": default["precision"],
        "unit": "of accepted",
        "peer": None,
        "low": default["precision_low"],
        "high": default["precision_high"],
        "n": default["n"],
        "recall": default["recall"],
        "checks": found,
        "not_measured": missing,
    }
    print(json.dumps({"claims_precision": entry}))


if __name__ == "__main__":
    main()
