"""One of several processes that train together: started by torch's launcher, see `ranks`.

It reads what its caller wrote, trains, and tells the caller how far it is. The first rank writes
the result.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from negfail_nb.content import write_json
from negfail_nb.training.layout import Layout
from negfail_nb.training.ranks import RESULTS, ROWS, TASK, TOKENIZER, tell

log = logging.getLogger("negfail_nb")


def main() -> None:
    """Train as one rank."""
    from torch.distributed.elastic.multiprocessing.errors import record

    options = _options()
    if options.with_caller:
        threading.Thread(target=_end_with_caller, daemon=True).start()
    record(_train)(options.place)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path, help="folder that the caller wrote")
    text = "end when the standard input does"
    parser.add_argument("--with-caller", action="store_true", help=text)
    return parser.parse_args()


def _train(place: Path) -> None:
    from datasets import load_from_disk
    from transformers import AutoTokenizer

    first = int(os.environ.get("RANK", "0")) == 0
    log.addHandler(Told() if first else logging.NullHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    task = json.loads((place / TASK).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(place / TOKENIZER, trust_remote_code=False)
    given = task, load_from_disk(str(place / ROWS)), tokenizer, Layout(**task["layout"])
    results = _work(task["kind"])(place.parent, *given)
    if first:
        write_json(place / RESULTS, results)
    _leave()


def _work(kind: str) -> Any:
    if kind == "fit":
        from negfail_nb.training.fit import work_as_rank
    else:
        from negfail_nb.training.preference import work_as_rank
    return work_as_rank


def _leave() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _end_with_caller() -> None:
    """Wait for the end of the standard input: who called is gone, or wants no more of it."""
    while os.read(0, 1):  # not `sys.stdin`, whose lock would be in the way of an ordinary end
        pass
    os._exit(1)


class Told(logging.Handler):
    """Passes log records on to the caller."""

    def emit(self, entry: logging.LogRecord) -> None:
        """Write one line."""
        tell({"level": entry.levelno, "text": entry.getMessage()})


if __name__ == "__main__":
    main()
