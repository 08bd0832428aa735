"""Time of making nested contexts to 128K, each passage tokenised once, against tokenising every
context anew.
"""

import json
import logging
import time

from _data import HOTPOTQA

NAME = "context_ladder_speedup"
QUESTIONS, SAMPLE, ROUNDS = (
    1000,
    5,
    3,
)  # each round tokenises the contexts of as many other questions anew
VOCABULARY, ANSWER = 128_000, 96


def seconds(work):
    """Return what the work gave, and its seconds: by the clock, and of the processor."""
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - start, time.process_time() - cpu


def questions_and_pool():
    from negfail_nb.benchmarking.pools import MemoryPool
    from negfail_nb.benchmarking.questions import load_questions

    questions = load_questions(HOTPOTQA)
    return list(questions)[:QUESTIONS], MemoryPool(questions.passages)


def made(questions, pool, tokenizer):
    """Return the contexts, and how many tokens they have; all ids are made once."""
    from negfail_nb.benchmarking.contexts import make_contexts
    from negfail_nb.benchmarking.prompts import open_prompt
    from negfail_nb.settings import ContextSettings

    asked = {"prompt": open_prompt("instructed"), "answer_tokens": ANSWER}
    contexts = make_contexts(questions, pool, tokenizer, ContextSettings(fill="random"), **asked)
    return contexts, sum(len(context.ids) for context in contexts)


def anew(contexts, tokenizer, first):
    """Tokenise the contexts of some questions; return the seconds, and how many have the same ids
    as ours.
    """
    lengths = len(contexts.lengths)
    some = [contexts[i] for i in range(first * lengths, (first + SAMPLE) * lengths)]
    texts = [
        tokenizer.apply_chat_template(c.messages, add_generation_prompt=True, tokenize=False)
        for c in some
    ]
    ids, wall, cpu = seconds(lambda: tokenizer(texts, add_special_tokens=False)["input_ids"])
    return wall, cpu, sum(c.ids.tolist() == row for c, row in zip(some, ids, strict=True))


def main():
    """Print one JSON object."""
    if not HOTPOTQA.is_file():
        print(json.dumps({NAME: {"skipped": f"the HotpotQA questions are not at {HOTPOTQA.name}"}}))
        return
    from negfail_nb.training import make_tokenizer

    logging.disable(logging.WARNING)
    questions, pool = questions_and_pool()
    tokenizer = make_tokenizer((f"{passage.title}: {passage.text}" for passage in pool), VOCABULARY)
    (contexts, tokens), ours, ours_cpu = seconds(lambda: made(questions, pool, tokenizer))
    rounds = [
        anew(contexts, tokenizer, number * len(questions) // ROUNDS) for number in range(ROUNDS)
    ]
    scale = len(questions) / SAMPLE
    ratios = sorted(wall * scale / ours for wall, _, _ in rounds)
    result = {
        "value": round(ratios[len(ratios) // 2], 1),
        "unit": "time of tokenising every context anew / ours",
        "peer": f"transformers tokenizer(texts) of {SAMPLE * ROUNDS} questions, "
        f"scaled to {len(questions)}",
        "low": round(ratios[0], 1),
        "high": round(ratios[-1], 1),
        "n": ROUNDS,
        "seconds": round(ours, 1),
        "cpu_ratio": round(sum(cpu for _, cpu, _ in rounds) / ROUNDS * scale / ours_cpu, 1),
        "cpu_seconds": round(ours_cpu, 1),
        "questions": len(questions),
        "lengths": contexts.lengths,
        "tokens": tokens,
        "vocabulary": len(tokenizer),
        "same_ids": sum(same for _, _, same in rounds),
        "compared": SAMPLE * ROUNDS * len(contexts.lengths),
    }
    print(json.dumps({NAME: result}))


if __name__ == "__main__":
    main()
