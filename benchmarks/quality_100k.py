"""Seconds and peak memory of the quality stage on 100,000 trajectories, near-duplicates included.

The trajectories are the MINT logs, or synthetic ones of their size, copied and changed: every other
copy has one other word in its last turn (near-duplicates), the others one word of seven. A child
process builds and assesses them, so that the peak is its own; `before_mb` is what the trajectories
themselves take.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator

from _data import MINT
from _rounds import peak_mb, rounds

from negfail_nb.quality import assess
from negfail_nb.trajectory import Source, Trajectory

COUNT = 100_000
WORDS = [
    f"{a}{b}"
    for a in ("mar", "tel", "vor", "sin", "qua", "ber", "lom")
    for b in ("ka", "den", "tis", "ro", "mel", "gu")
]


def mint() -> Iterator[Trajectory]:
    for path in sorted(MINT.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            row = json.loads(line)
            solution = [m["content"] for m in row["messages"] if "<solution>" in m["content"]]
            yield Trajectory(
                id=f"{path.stem}:{number}",
                question_id=f"{row['dataset']}:{row['task_id']}",
                question=row["question"],
                answer=row["reference"],
                task="math" if row["dataset"] == "gsm8k" else "qa",
                messages=tuple(row["messages"]),
                prediction=solution[-1].split("<solution>")[1].split("</solution>")[0].strip()
                if solution
                else None,
                success=row["success"],
                termination="max_steps" if row["terminate_reason"] == "max_steps" else "finished",
                source=Source(model=row["model"]),
            )


def synthetic(draw: random.Random) -> Iterator[Trajectory]:
    def say(n: int) -> str:
        return " ".join(draw.choices(WORDS, k=n))

    for number in range(4_876):
        messages = [{"role": "user", "content": say(40)}]
        for _ in range(3):
            messages.append(
                {"role": "assistant", "content": f"Thought: {say(80)}\nAction: search[{say(3)}]"}
            )
            messages.append({"role": "user", "content": f"Observation: {say(70)}"})
        yield Trajectory(
            id=f"synthetic:{number}",
            question_id=f"question:{number % 91}",
            question=f"Question {number % 91}: {' '.join(WORDS[: 10 + number % 91 % 20])}?",
            answer=say(2),
            messages=tuple(messages),
            prediction=say(2),
            success=number % 3 == 0,
        )


def changed(trajectory: Trajectory, copy: int, draw: random.Random) -> Trajectory:
    turns = [
        index for index, message in enumerate(trajectory.messages) if message["role"] == "assistant"
    ]
    messages = list(map(dict, trajectory.messages))
    for index in turns[-1:] if copy % 2 == 0 else turns:
        words = messages[index]["content"].split(" ")
        for _ in range(1 if copy % 2 == 0 else 1 + len(words) // 7):
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        messages[index]["content"] = " ".join(words)
    return trajectory.replace(id=f"{trajectory.id}/{copy}", messages=tuple(messages))


def child() -> None:
    draw = random.Random(0)
    originals = list(mint() if MINT.is_dir() else synthetic(draw))
    trajectories = [
        changed(originals[i % len(originals)], i // len(originals), draw) for i in range(COUNT)
    ]
    before = peak_mb()
    start, cpu = time.perf_counter(), time.process_time()
    report = assess(trajectories)
    seconds = time.perf_counter() - start
    cpu = time.process_time() - cpu
    funnel = report.funnel().set_index("filter")["removed"]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": cpu,
                "peak_mb": peak_mb(),
                "before_mb": before,
                "logs": "mint" if MINT.is_dir() else "synthetic",
                "near_duplicates": int(funnel["near_duplicate"]),
                "kept": len(report.kept),
            }
        )
    )


def main() -> None:
    results = rounds(__file__)
    middle = results[len(results) // 2]
    measure = {
        "value": round(middle["seconds"], 2),
        "unit": "s",
        "peer": None,
        "low": round(results[0]["seconds"], 2),
        "high": round(results[-1]["seconds"], 2),
        "n": COUNT,
        "cpu_seconds": round(middle["cpu_seconds"], 2),
        "peak_mb": round(max(result["peak_mb"] for result in results)),
        "before_mb": round(middle["before_mb"]),
        "logs": middle["logs"],
        "near_duplicates": middle["near_duplicates"],
        "kept": middle["kept"],
    }
    print(json.dumps({"quality_100k": measure}))


if __name__ == "__main__":
    child() if sys.argv[1:] == ["child"] else main()
