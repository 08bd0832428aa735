"""Room 04: how much memory training takes, said beforehand."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from test_train import SETTINGS, TOKENIZER, Data
from transformers import LlamaConfig, LlamaForCausalLM

from negfail_nb.settings import LoraSettings, ModelSettings
from negfail_nb.training import fit, layout, planning, ranks, train
from negfail_nb.training.fit import adapter_config
from negfail_nb.training.memory import activations, memory, size_of
from negfail_nb.training.model import outline

SCALE = "NEGFAIL_NB_SCALE"
slow = pytest.mark.skipif(not os.environ.get(SCALE), reason=f"{SCALE} is not set")
SMALL = ModelSettings(layers=2, width=32, heads=2, vocabulary=300, positions=128)
LARGE = ModelSettings(layers=8, width=768, heads=12, vocabulary=300, positions=2048)
SHORT = replace(SMALL, positions=2048)
LORA = LoraSettings(rank=8)
# What glibc keeps of freed memory, to use it again, is not what training needs.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
MALLOC |= {"MALLOC_ARENA_MAX": "1"}
WHOLE = LoraSettings()


def test_memory_is_that_of_parameters_and_what_adam_keeps_of_them():
    size = size_of(outline(SMALL, TOKENIZER))
    layer = 4 * 32 * 32 + 3 * 32 * 96 + 2 * 32
    assert size.parameters == size.trained == len(TOKENIZER) * 32 + 2 * layer + 32
    assert (size.layers, size.hidden, size.query, size.keys, size.inner) == (2, 32, 32, 32, 96)
    assert size.largest == max(layer, len(TOKENIZER) * 32) and not size.adapted
    alone, both, split = (
        memory(size, 64, 64, "float32", n, sharded) for n, sharded in ((1, 0), (2, 0), (2, 1))
    )
    assert alone.weights == alone.gradients == 4 * size.parameters
    assert alone.optimiser == 8 * size.parameters
    assert alone.total == alone.weights + alone.gradients + alone.optimiser + alone.activations
    assert both.gradients == 2 * alone.gradients and both.weights == alone.weights
    assert split.optimiser == alone.optimiser / 2 and split.activations == alone.activations
    assert split.weights == alone.weights / 2 + 4 * 4 * size.largest
    assert split.gradients == alone.gradients / 2 + 2 * 4 * size.largest


def test_memory_of_an_adapter_is_that_of_its_base():
    size = size_of(outline(SMALL, TOKENIZER), adapter_config(LORA))
    assert size.trained == 2 * 8 * (4 * (32 + 32) + 3 * (32 + 96)) and size.adapted
    base = size.parameters - size.trained
    assert memory(size, 64, 64, "bfloat16").weights == 2 * base + 4 * size.trained
    rounded = (base - size.ends) / 2 + 2 * size.ends + 4 * size.trained
    assert size.ends == len(TOKENIZER) * 32
    assert memory(size, 64, 64, "bfloat16", base_bits=4).weights == rounded
    assert memory(size, 64, 64, "float32").optimiser == 8 * size.trained


def test_activations_that_are_computed_again_are_those_of_one_layer_and_the_inputs_of_all():
    size = size_of(outline(LARGE, TOKENIZER))
    kept, again = (activations(size, 1000, 0, "float32", r) for r in (False, True))
    assert again == kept / size.layers + size.layers * 1000 * 768 * 4
    assert activations(size, 1000, 10, "float32", True) > again


def test_the_model_is_split_where_it_does_not_fit_and_the_log_says_so(monkeypatch, caplog):
    caplog.set_level("INFO", "negfail_nb")
    config = LlamaConfig(num_hidden_layers=2, hidden_size=512, intermediate_size=1024)
    import torch

    with torch.device("meta"):
        network = LlamaForCausalLM(config)
    for free, split in ((4e9, False), (1.6e9, True)):
        monkeypatch.setattr(layout, "free_bytes", lambda device, free=free: free)
        laid = layout.lay_out(network, None, SETTINGS, 128, 2)
        assert laid.sharded is split and laid.processes == 2
    assert "each has all of it" in caplog.text and "FSDP2 splits the model" in caplog.text
    assert layout.lay_out(network, None, replace(SETTINGS, recompute="on"), 128, 2).recompute


@slow
@pytest.mark.parametrize(
    ("processes", "lora", "shard", "recompute"),
    [
        (2, WHOLE, False, "off"),
        (2, WHOLE, False, "on"),
        (2, WHOLE, True, "off"),
        (2, LORA, False, "off"),
        (2, LORA, True, "on"),
    ],
)
def test_memory_is_what_processes_take(processes, lora, shard, recompute, tmp_path, monkeypatch):
    for name, value in MALLOC.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(planning, "ROW_TOKENS", 1024)
    monkeypatch.setattr(fit, "ROW_TOKENS", 1024)
    monkeypatch.setattr(layout, "devices", lambda: 4)
    data = Data(lengths=(1020,) * 8)
    settings = two_rows(processes, recompute)
    peaks = {}
    for model in (SHORT, LARGE):
        with Peak(tmp_path / f"{model.width}") as peak:
            train(data, settings, model, lora, folder=peak.folder, shard=shard)
        peaks[model.width] = peak.bytes
    size = size_of(outline(LARGE, TOKENIZER), adapter_config(lora))
    row = planning.plan(data, settings).row_tokens
    said = memory(size, row, row, "float32", processes, bool(shard), recompute == "on")
    measured = peaks[768] - peaks[32]
    assert said.total == pytest.approx(measured, rel=0.15)


ALONE = """
import sys
import psutil
import test_train_memory as tests

tests.planning.ROW_TOKENS = 1024
data, settings = tests.Data(lengths=(1020,) * 8), tests.two_rows(1, sys.argv[2])
tests.train(data, settings, tests.SHORT, folder=sys.argv[1] + "/small")
before = psutil.Process().memory_info().rss
open("/proc/self/clear_refs", "w").write("5")
tests.train(data, settings, tests.LARGE, folder=sys.argv[1] + "/large")
print(tests.high_water("self") - before)
"""


@slow
@pytest.mark.parametrize("recompute", ["off", "on"])
def test_memory_is_what_one_process_takes(recompute, tmp_path):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), recompute],
        env=os.environ | MALLOC | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
    )
    size = size_of(outline(LARGE, TOKENIZER))
    said = memory(size, 1024, 1024, "float32", recompute=recompute == "on")
    assert said.total == pytest.approx(int(done.stdout.split()[-1]), rel=0.15)


def two_rows(processes, recompute):
    """Settings of two steps, each of two rows on each process."""
    given = {"processes": processes, "recompute": recompute, "steps": 2, "save_steps": 100}
    return replace(SETTINGS, batch_tokens=2 * 1024 * processes, **given)


class Peak:
    """The most memory that a rank which trains in a folder has had, bytes."""

    def __init__(self, folder):
        self.folder = folder
        self.bytes = 0
        self.over = threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()

    def watch(self):
        place = str(self.folder / ranks.FOLDER)
        while not self.over.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                try:
                    if place in process.cmdline() and "torch.distributed.run" not in str(
                        process.cmdline()
                    ):
                        self.bytes = max(self.bytes, high_water(process.pid))
                except (psutil.Error, OSError):
                    continue
            time.sleep(0)


def high_water(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as stream:
        lines = [line for line in stream if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) * 1024 if lines else 0
