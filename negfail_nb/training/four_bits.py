"""QLoRA: the frozen base in 4 bits (arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from negfail_nb.settings import LoraSettings, ModelSettings
from negfail_nb.training.model import device

BITS = 4.25  # of a weight, with the scales of its blocks


def check_four_bits(lora: LoraSettings, model: ModelSettings) -> None:
    """Raise `ValueError` if the base is to be held in 4 bits and cannot be; the text says why."""
    if not lora.four_bits:
        return
    if why := _why_not(lora, model):
        raise ValueError(f"lora.four_bits is true, but {why}")


def _why_not(lora: LoraSettings, model: ModelSettings) -> str:
    if not lora.rank:
        return "lora.rank is 0: weights in 4 bits cannot be trained; set a rank, such as 32"
    if not model.name:
        return "model.name is empty: a model that is made from nothing has no weights to round"
    if device().type != "cuda":
        return "there is no CUDA here, and bitsandbytes trains on CUDA only; set it to false"
    if find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed; pip install bitsandbytes"
    return ""


def four_bit_loading() -> dict[str, Any]:
    """Return what ``from_pretrained`` takes: the paper's type of number, doubly quantised.

    It is stored as bfloat16, so that FSDP2 can split it.
    """
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,
    )
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return {"quantization_config": config, "device_map": {"": rank}}
