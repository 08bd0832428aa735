"""Where the real data of benchmarks lies (``NEGFAIL_NB_DATA``, or ``data`` in the project folder),
and how many questions of HotpotQA the published replica draws.
"""

import os
from pathlib import Path

from negfail_nb.settings import DATA

FOLDER = Path(os.environ.get(DATA) or Path(__file__).parents[1] / "data")
HOTPOTQA = FOLDER / "hotpotqa" / "dev_distractor_1287.jsonl"
MINT = FOLDER / "trajectories" / "mint"
PUBLISHED = FOLDER / "throughput" / "published.csv"
COUNT = 1000
