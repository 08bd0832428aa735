"""Time of rendering the MINT logs to ids and labels, against plain tokenisation of exactly the same
texts.
"""

import json
import logging
import statistics
import time

from _data import MINT

NAME = "render_vs_tokenise"
CONTROL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
ROUNDS = 5


def trajectories():
    """Return the MINT logs as records."""
    from negfail_nb.trajectory import Trajectory

    found = []
    for task, name in (("math", "gsm8k"), ("qa", "hotpotqa")):
        with (MINT / f"mint_nofb_{name}.jsonl").open(encoding="utf-8") as lines:
            for number, record in enumerate(map(json.loads, lines)):
                shared = {
                    "question": record["question"],
                    "success": record["success"],
                    "task": task,
                }
                shared["question_id"] = f"{name} {record['task_id']}"
                found.append(
                    Trajectory(id=f"{name} {number}", messages=tuple(record["messages"]), **shared)
                )
    return found


def llama_3_like(texts):
    """Return a byte-level BPE tokenizer with Llama 3's rule for words and the package's Llama 3
    chat template.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from negfail_nb.prefix import chat_template_text

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder, made.post_processor = (
        decoders.ByteLevel(),
        processors.ByteLevel(trim_offsets=True),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {
        "vocab_size": 32_000,
        "special_tokens": CONTROL,
        "initial_alphabet": alphabet,
        "show_progress": False,
    }
    made.train_from_iterator(texts, trainers.BpeTrainer(**options))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=CONTROL[0], eos_token=CONTROL[-1]
    )
    tokenizer.chat_template = chat_template_text("llama-3")
    return tokenizer


def seconds(work):
    """Return what the work gave and how long it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main():
    """Print one JSON object."""
    if not MINT.is_dir():
        print(json.dumps({NAME: {"skipped": f"the MINT logs are not at {MINT.name}/"}}))
        return
    from negfail_nb.prefix import render
    from negfail_nb.settings import PrefixSettings

    logging.disable(logging.WARNING)
    logs = trajectories()
    tokenizer = llama_3_like(message["content"] for log in logs[::4] for message in log.messages)
    settings = PrefixSettings(max_tokens=1_048_576)
    rendered = render(logs, "target-aware", tokenizer, settings)
    texts = [tokenizer.decode(example.input_ids) for example in rendered.examples]
    ours, plain = [], []
    for _ in range(ROUNDS):
        again, took = seconds(lambda: render(logs, "target-aware", tokenizer, settings))
        ours.append(took)
        peer, took = seconds(lambda: tokenizer(texts, add_special_tokens=False))
        plain.append(took)
        same = sum(
            a.input_ids.tolist() == b
            for a, b in zip(again.examples, peer["input_ids"], strict=True)
        )
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    result = {
        "value": round(statistics.median(ratios), 3),
        "unit": "time of render / time of tokenizer(texts)",
        "peer": f"transformers tokenizer(texts), {statistics.median(plain):.2f} s",
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "n": ROUNDS,
        "seconds": round(statistics.median(ours), 2),
        "trajectories": len(texts),
        "tokens": sum(len(example.input_ids) for example in rendered.examples),
        "same_ids": same,
    }
    print(json.dumps({NAME: result}))


if __name__ == "__main__":
    main()
