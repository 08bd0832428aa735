"""For benchmarks on real questions: where HotpotQA lies, and how many questions the published
replica draws.
"""

from pathlib import Path

DATA = (
    Path(__file__).parents[1].parent / "shared" / "data" / "hotpotqa" / "dev_distractor_1287.jsonl"
)
COUNT = 1000
