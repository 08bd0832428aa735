"""How long the notebooks of a project will take on this machine, before they begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from negfail_nb import earlier
from negfail_nb.models import find_model
from negfail_nb.prefix import render
from negfail_nb.sources import plays_live, warm_start
from negfail_nb.training import load_tokenizer
from negfail_nb.training.arithmetic import multiply_rates, resolve_dtype
from negfail_nb.training.model import empty_model

if TYPE_CHECKING:
    import pandas as pd

    from negfail_nb.project import Project

SAMPLE = 100  # runs whose tokens are counted
# Operations for each parameter and token: forward, and forward with backward.
READ, TRAIN = 2, 6
# What is left of the rate of a matrix product, measured on two cores with SmolLM2-135M; a token
# that is written costs as much as so many that are read.
EFFICIENCY = 0.7
WRITTEN = 3.0
CALLS = 2.0  # replies of a usual episode
# Seconds that even a very small model takes: a notebook that starts, reads and draws, a step of
# training, one token for all that are asked at once.
NOTEBOOK, STEP, TOKEN = 10.0, 0.05, 0.03


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model computes: parameters, layers, and the width of a layer."""

    parameters: int
    layers: int
    width: int

    def operations(self, tokens: float, length: float = 0) -> float:
        """Operations of reading ``tokens`` in prompts of ``length``: weights, and attention."""
        return tokens * (READ * self.parameters + 2 * self.layers * self.width * length)


def outlook(project: Project) -> pd.DataFrame:
    """Return what each notebook will read, write and train, and about how long it takes here.

    One row a notebook that takes long: ``notebook``, ``what``, ``tokens`` and ``seconds``. The
    rate is measured in a second; expect half as long to twice as long. Notebooks that only read,
    draw or ask a server have no row, and what is done already counts again.

    Raises
    ------
    ValueError
        If the project's model is not on this machine yet; as `warm_start`.
    """
    import pandas as pd

    rows = [*_learning(project), *_reading(project)]
    table = pd.DataFrame(rows, columns=["notebook", "what", "tokens", "operations", "least"])
    table["seconds"] = table.pop("operations") / _rate(project) + table.pop("least")
    return table


Row = tuple[str, str, float, float, float]


def cell_seconds(cells: Sequence[tuple[Project, str]]) -> float | None:
    """Return about how long a cell of a study takes here, in the mean: training an arm, and what
    its agent answers. ``None`` where no model is named.

    The projects differ in their settings of training; the tokens of a run are those of the first.
    """
    project = cells[0][0]
    if not project.model.name:
        return None
    shape = _shape(project.model.name)
    size, own = _run_tokens(project)
    rows = []
    for one, arm in cells:
        tokens = _arm_tokens(one, arm, size)
        rows.append(_training("04", arm, tokens, shape, one.train.batch_tokens))
        count = one.evaluate.agent_questions
        at_once = min(one.live.concurrency, count or 1)
        rows.append(_episodes("05", count, size, own, shape, at_once))
    least = sum(row[4] - NOTEBOOK for row in rows)
    return (sum(row[3] for row in rows) / _rate(project) + least) / len(cells)


def _rate(project: Project) -> float:
    """Operations per second of this machine, in the type that training takes."""
    return 1e9 * EFFICIENCY * multiply_rates()[resolve_dtype(project.train.dtype)]


def _training(number: str, what: str, tokens: float, shape: Shape, batch: int) -> Row:
    operations = TRAIN * shape.parameters * tokens
    return number, what, tokens, operations, NOTEBOOK + STEP * tokens / batch


def _learning(project: Project) -> list[Row]:
    """Rows of 01, 04 and 05: a warm start, episodes, and one model per arm."""
    if not project.model.name:
        return []
    shape = _shape(project.model.name)
    size, own = _run_tokens(project)
    collect, train, asked = project.collect, project.train, project.evaluate
    rows = []
    if plays_live(project) and collect.player == "model":
        tokens = collect.demonstrations * size * train.epochs
        rows.append(_training("01", "warm start", tokens, shape, train.batch_tokens))
        played = collect.generate * project.live.attempts
        rows.append(_episodes("01", played, size, own, shape, project.live.concurrency))
    tokens = sum(_arm_tokens(project, arm, size) for arm in train.arms)
    title = f"training {len(train.arms)} arms"
    rows.append(_training("04", title, tokens, shape, train.batch_tokens))
    count = asked.agent_questions * (len(train.arms) + 1)
    at_once = min(project.live.concurrency, asked.agent_questions or 1)
    return [*rows, _episodes("05", count, size, own, shape, at_once)]


def _episodes(number: str, count: int, size: float, own: float, shape: Shape, at_once: int) -> Row:
    """A row of episodes: each call reads what was said before it, and writes its share."""
    tokens = count * (CALLS * size + own)
    operations = shape.operations(count * (CALLS * size + WRITTEN * own))
    least = NOTEBOOK + TOKEN * own * CALLS * count / at_once
    return number, f"{count:,} episodes", tokens, operations, least


def _arm_tokens(project: Project, arm: str, size: float) -> float:
    train = project.train
    if train.budget == "steps":
        return train.steps * train.batch_tokens
    return train.epochs * size * (train.successes + (arm != "vanilla") * train.failures)


def _run_tokens(project: Project) -> tuple[float, float]:
    """Mean tokens of a run, and of those the agent's own."""
    live = plays_live(project)
    if live and not project.collect.demonstrations:
        return 400.0, 100.0  # nothing is known of them yet
    runs = warm_start(project).demonstrations if live else earlier.logs(project)
    tokenizer = load_tokenizer(project.model)
    table = render(list(islice(runs, SAMPLE)), "none", tokenizer, project.prefix).table()
    return float(table["tokens"].mean()), float(table["trained"].mean())


def _reading(project: Project) -> list[Row]:
    """Rows of 06: a tuned reader, and the answers of every reader and arm."""
    settings = project.benchmark
    if settings.player != "model":
        return []
    shape = _shape(settings.model or project.model.name)
    table = earlier.cost(project).table
    length = table["prompt_tokens"] / table["requests"].clip(lower=1)
    tokens = float(table["prompt_tokens"].sum())
    operations = sum(map(shape.operations, table["prompt_tokens"], length))
    operations += shape.operations(WRITTEN * float(table["completion_tokens"].sum()) / 2)
    rows = []
    if settings.reader_examples:
        learnt = settings.reader_examples * project.reading.passages * 140.0
        batch = project.train.batch_tokens
        rows.append(_training("06", "tuning the reader", learnt, shape, batch))
    count = 2 if settings.reader_examples else 1
    title = f"{count * int(table['requests'].sum()):,} answers"
    written = float(table["completion_tokens"].sum()) / 2  # few are as long as allowed
    least = NOTEBOOK + TOKEN * count * written / project.reading.concurrency
    return [*rows, ("06", title, count * tokens, count * operations, least)]


def _shape(name: str) -> Shape:
    model = empty_model(find_model(name))
    config = model.config.get_text_config()
    return Shape(model.num_parameters(), config.num_hidden_layers, config.hidden_size)
