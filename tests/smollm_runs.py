"""Runs of SmolLM2 for tests: small sums with the calculator, and a model that is tuned on them."""

from negfail_nb.prefix import render
from negfail_nb.settings import LoraSettings, ModelSettings, TrainSettings
from negfail_nb.training import load_tokenizer, train
from negfail_nb.trajectory import Trajectory

THOUGHT = "Thought: I add them."


def sums(count=12):
    """Return runs that add two numbers by the calculator, each of about 100 tokens."""
    return [_sum(i, 3 + 7 * i % 31, 2 + 5 * i % 17) for i in range(count)]


def _sum(i, first, second):
    question = f"Ann has {first} books and buys {second} more. How many has she?"
    turns = (
        ("user", question),
        ("assistant", f"{THOUGHT}\nAction: calculate[{first} + {second}]"),
        ("user", f"Observation: {first + second}"),
        ("assistant", f"Thought: That is it.\nAction: finish[{first + second}]"),
    )
    messages = tuple({"role": role, "content": content} for role, content in turns)
    return Trajectory(
        id=f"r{i}", question_id=f"q{i}", question=question, messages=messages, success=True
    )


def tuned(smollm, folder, dtype, rank, steps=5):
    """Tune the model on sums: all weights, or an adapter of a rank."""
    model = ModelSettings(name=str(smollm))
    data = render(sums(), "none", load_tokenizer(model))
    rate = 1e-3 if rank else 2e-4
    how = TrainSettings(
        budget="steps", steps=steps, batch_tokens=256, learning_rate=rate, dtype=dtype
    )
    return train(data, how, model, LoraSettings(rank=rank), folder)
