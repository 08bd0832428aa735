"""Logs of any number of runs, written as they are made: varied runs of about 1 KB, several attempts
at each question, questions and attempts that are nearly the same, and questions to be kept apart.
"""

import json
import random
from pathlib import Path

ATTEMPTS = 5
EVALUATION = 400  # questions that must not be trained on; half of them stand in the logs
SYLLABLES = "ka den tis ro mel gu mar tel vor sin qua ber lom pa ni zo fer ul dra hes".split()


def write_logs(folder: Path, count: int, seed: int = 0) -> tuple[list[Path], Path]:
    """Write ``count`` runs into JSON-lines files, 500,000 in each, and evaluation questions;
    return the paths.
    """
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(2, 4))) for _ in range(20_000)]
    folder.mkdir(parents=True, exist_ok=True)
    known: list[str] = []
    paths = []
    runs = _runs(draw, words, count, known)
    for start in range(0, count, 500_000):
        paths.append(folder / f"runs-{start // 500_000:02}.jsonl")
        with paths[-1].open("w", encoding="utf-8") as stream:
            for _ in range(min(500_000, count - start)):
                stream.write(json.dumps(next(runs)) + "\n")
    fresh = [_question(draw, words) for _ in range(EVALUATION - len(known))]
    evaluation = folder / ".evaluation.jsonl"  # hidden, so that it is not read as a log
    lines = (json.dumps({"question": question}) + "\n" for question in known + fresh)
    evaluation.write_text("".join(lines), encoding="utf-8")
    return paths, evaluation


def _question(draw: random.Random, words: list[str]) -> str:
    name = draw.choice(words).capitalize()
    return f"Which {' '.join(draw.choices(words, k=9))} was built by {name} near the river?"


def _runs(draw: random.Random, words: list[str], count: int, known: list[str]):
    question, answer = "", ""
    for number in range(count):
        if number % ATTEMPTS == 0:
            parts = question.split(" ")
            if question and draw.random() < 0.1:  # another wording of the question before
                parts[draw.randrange(1, 10)] = draw.choice(words)
                question = " ".join(parts)
            else:
                question = _question(draw, words)
                answer = " ".join(draw.choices(words, k=2))
            if len(known) < EVALUATION // 2 and draw.random() < 0.05:
                known.append(question)
            turns = []
        if not turns or draw.random() < 0.9:
            turns = _turns(draw, words)
        else:  # nearly the attempt before
            last = turns[-1]
            turns = [*turns[:-1], {**last, "content": f"{last['content']} {draw.choice(words)}"}]
            again = {**turns[0], "content": turns[0]["content"].replace("Thought:", "Thought: so")}
            turns = [again, *turns[1:]]
        solved = draw.random() < 0.4
        said = answer if solved else " ".join(draw.choices(words, k=2))
        final = {"role": "assistant", "content": f"Thought: I know it.\nAction: finish[{said}]"}
        asked = {"role": "user", "content": question}
        yield {
            "id": f"run-{number}",
            "question": question,
            "answer": answer,
            "model": f"model-{number % 3}",
            "success": solved,
            "messages": [asked, *turns, final],
        }


def _turns(draw: random.Random, words: list[str]) -> list[dict]:
    turns = []
    for _ in range(draw.randint(1, 3)):
        thought = " ".join(draw.choices(words, k=draw.randint(8, 16)))
        query = " ".join(draw.choices(words, k=2))
        seen = " ".join(draw.choices(words, k=draw.randint(10, 20)))
        action = f"Thought: {thought}\nAction: search[{query}]"
        turns.append({"role": "assistant", "content": action})
        turns.append({"role": "user", "content": f"Observation: {seen}"})
    return turns
