"""What tests of studies share: a study of seconds, and what an agent said in it."""

import json

from negfail_nb.conditions import Condition
from negfail_nb.settings import ModelSettings
from negfail_nb.training import load_model, make_tokenizer

FEW = {"train": {"successes": 4, "failures": 4}}
CONDITIONS = [
    Condition("arms", "vanilla", "vanilla", FEW),
    Condition("arms", "nat", "nat", FEW),
    Condition("wordings", "target-aware", "nat", FEW),
]


def small_study(folder):
    """Settings of a very small study, on a model of random weights in a folder."""
    words = ["Question: Thought: Action: search[who] finish[it] Observation:"] * 3
    tokenizer = make_tokenizer(words, 400)
    shape = ModelSettings(layers=1, width=32, heads=2, vocabulary=400, positions=4096)
    load_model(shape, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "collect": {"generate": 24},
        "live": {"attempts": 3, "results": 1, "max_tokens": 8, "max_calls": 1},
        "model": {"name": str(folder)},
        "train": {"budget": "steps", "steps": 1, "batch_tokens": 1024},
        "evaluate": {"agent_questions": 4, "resamples": 100},
    }


def episodes(home):
    """The bytes of each cell's episodes, by the name of its run without the time; what an episode
    took is left out.
    """
    found = {}
    for path in (home / "runs" / "pocket").glob("agent-*/*/episodes.jsonl"):
        name = f"{path.parents[1].name}/{path.parent.name.rpartition('-')[2]}"
        assert name not in found, f"{name} is there twice"
        assert (path.parent / "manifest.json").is_file(), f"{name} is a half folder"
        found[name] = b"".join(map(_without_seconds, path.read_bytes().splitlines(True)))
    return found


def _without_seconds(line):
    record = json.loads(line)
    seconds = json.dumps(record["usage"].pop("seconds")).encode()
    assert line.count(b'"seconds":' + seconds) + line.count(b'"seconds": ' + seconds) == 1
    return line.replace(seconds, b"?", 1)
