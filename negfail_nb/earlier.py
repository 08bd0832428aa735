"""What earlier notebooks made, one call each, with the same settings and in the same folders.

A notebook calls the functions of its own stage in the open. What it needs of the stages before
comes from here. Cheap stages (reading, quality control, rendering) are computed again; what takes
long (live collection, training, episodes, the benchmark) is found in its folder, or goes on there.
So are the cheap stages where the logs are large.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from negfail_nb import benchmarking
from negfail_nb.agents import LocalModel
from negfail_nb.benchmarking import (
    AS_ASKED,
    Agent,
    build_index,
    draw,
    estimate,
    load_questions,
    open_pool,
    reading_examples,
    spare_questions,
)
from negfail_nb.evaluation import AgentScores, evaluate
from negfail_nb.logs import Logs, load_trajectories
from negfail_nb.logs.files import LARGE, log_bytes
from negfail_nb.prefix import Rendered, in_all, render
from negfail_nb.quality import Kept, Report, assess
from negfail_nb.sources import make_logs, open_model, open_tasks, open_tuned
from negfail_nb.steps import text
from negfail_nb.stored import Stored
from negfail_nb.training import (
    PREFERENCE_ARMS,
    Arm,
    TrainedRun,
    load_tokenizer,
    make_arms,
    select,
    train,
    train_preference,
)

if TYPE_CHECKING:
    from negfail_nb.agents import Model
    from negfail_nb.benchmarking import Benchmark, Estimate, Index, PassagePool, Questions
    from negfail_nb.project import Project
    from negfail_nb.settings import ReadingSettings

UNTUNED = "untuned"
AS_IT_COMES = "as it comes"
TUNED = "tuned to read"
ENOUGH = 50_000  # runs that a tokenizer learns from
ALONE = 20  # questions that are asked again, one at a time, at most ..
ALONE_SHARE = 0.1  # .. and of so many a tenth: what they cost should not be noticed


@dataclass(frozen=True, slots=True)
class Data:
    """What 03 made: per arm, what is trained and what is held out; and what it made that from."""

    report: Report
    tokenizer: Any
    train: dict[str, Rendered]
    heldout: dict[str, Rendered]


def logs(project: Project) -> Logs:
    """01: the logs of the project, or those that it makes itself.

    Raises
    ------
    negfail_nb.trajectory.UnreadableLog
        If no record of the logs can be read.
    ValueError
        If the project has logs, and a player too.
    """
    if not project.logs:
        return make_logs(project)
    if project.collect.player != "teacher":
        raise ValueError(
            f"collect.player is {project.collect.player!r}, but collect.logs are given too; keep "
            "one of them"
        )
    large = log_bytes(project.logs) > LARGE
    folder = project.folder("logs") if large else None
    return load_trajectories(project.logs, project.collect, folder=folder).checked()


def report(project: Project) -> Report:
    """02: what quality control kept and removed."""
    found = logs(project)
    folder = project.folder("quality") if isinstance(found.trajectories, Stored) else None
    return assess(found, project.quality, folder=folder)


def data(project: Project, arms: Iterable[str] | None = None) -> Data:
    """03: the tokens of each arm. Arms that learn by preference start from the vanilla arm."""
    names = project.train.arms if arms is None else tuple(arms)
    rendered = dict.fromkeys("vanilla" if name in PREFERENCE_ARMS else name for name in names)
    found = report(project)
    tokenizer = load_tokenizer(project.model, texts(found))
    train_on = {}
    heldout = {}
    stored = isinstance(found.kept, Kept)
    for arm in make_arms(tuple(rendered), project.prefix):
        chosen = select(found.train, arm, project.train)
        given = arm.template, tokenizer, project.prefix
        train_on[arm.name] = render(
            chosen, *given, folder=project.folder(f"render-{arm.name}") if stored else None
        )
        heldout[arm.name] = render(
            found.heldout,
            *given,
            inference=True,
            folder=project.folder(f"render-heldout-{arm.name}") if stored else None,
        )
    return Data(found, tokenizer, train_on, in_all(heldout))


def texts(report: Report) -> list[str]:
    """Return what a tokenizer may learn from: the texts of runs that are not held out."""
    runs = islice(report.train, ENOUGH)
    return [text(m) for t in runs for m in t.messages]


def trained(
    project: Project, arms: Iterable[str] | None = None, made: Data | None = None
) -> dict[str, TrainedRun]:
    """04: the model of each arm, trained on what 03 made (made here if it is not given)."""
    names = project.train.arms if arms is None else tuple(arms)
    made = data(project, names) if names and made is None else made
    return {name: train_arm(project, name, made) for name in names}


def train_arm(project: Project, name: str, made: Data) -> TrainedRun:
    """04: train the model of one arm, or open it if it is there."""
    folder = project.folder(f"train-{name}")
    if name not in PREFERENCE_ARMS:
        return train(
            made.train[name], project.train, model=project.model, lora=project.lora, folder=folder
        )
    (arm,) = make_arms([name], project.prefix)
    chosen = select(made.report.train, arm, project.train)
    return train_preference(
        chosen,
        arm,
        train_arm(project, "vanilla", made),
        project.preference,
        project.train,
        project.prefix,
        folder=folder,
    )


def agents(project: Project, arms: Iterable[str] | None = None) -> dict[str, AgentScores]:
    """05: how the untuned model and each arm's agent answer held-out questions.

    Empty if no questions are asked. A model that knows nothing yet is not asked untuned.
    """
    every = ((UNTUNED,) if project.model.name else ()) + project.train.arms
    names = every if arms is None else tuple(arms)
    if not project.evaluate.agent_questions:
        return {}
    models = trained(project, [name for name in names if name != UNTUNED])
    return {name: ask(project, name, models.get(name)) for name in names}


def ask(project: Project, name: str, run: TrainedRun | None) -> AgentScores:
    """05: let one agent answer the held-out questions, once each, under its arm's prompt."""
    settings = project.evaluate
    tasks, tools = open_tasks(
        settings, settings.agent_questions, "heldout", project.live.results, project.data
    )
    return evaluate(
        agent(project, name, run),
        tasks[: settings.agent_questions],
        tools,
        settings,
        project.live,
        template=arm_of(project, name).template,
        folder=project.folder(f"agent-{name}"),
        budget=project.budget,
        thoughts=project.prefix.thoughts,
    )


def arm_of(project: Project, name: str) -> Arm:
    """Return an arm by name; the untuned model is asked as the vanilla arm is."""
    return make_arms(["vanilla" if name == UNTUNED else name], project.prefix)[0]


def agent(project: Project, name: str, run: TrainedRun | None = None) -> LocalModel:
    """Return the agent of an arm, or the model as it was before tuning."""
    return open_model(project) if run is None else open_tuned(project, run, name)


def cost(project: Project) -> Estimate:
    """06: what the benchmark asks at most; nothing is asked."""
    settings = project.benchmark
    questions, pool = _asked(project)
    model = _reader_as_it_comes(project)
    return estimate(
        settings.arms, questions, project.reading, pool, model, project.contexts, project.live
    )


def readers(project: Project) -> dict[str, Model]:
    """06: who reads, by name: the model as it comes and, if ``benchmark.reader_examples`` says so,
    the same tuned to read. What one of them alone is asked for is asked of the last.

    Raises
    ------
    ValueError
        If an endpoint reads, which cannot be tuned from here, or there are not so many examples.
    """
    found: dict[str, Model] = {AS_IT_COMES: _reader_as_it_comes(project)}
    if project.benchmark.reader_examples:
        found[TUNED] = open_tuned(project, train_reader(project), "tuned reader")
    return found


def reader(project: Project) -> Model:
    """06: who reads: the model as it comes, or tuned to read."""
    return list(readers(project).values())[-1]


def train_reader(project: Project) -> TrainedRun:
    """06: tune the model that reads, for one epoch, on questions that the benchmark does not ask;
    or open it if it is there. Sizes, learning rate and adapter are those of training.
    """
    settings = project.benchmark
    if settings.player != "model":
        raise ValueError(
            f"benchmark.reader_examples is {settings.reader_examples}, but benchmark.player is "
            f"{settings.player!r}, which cannot be tuned from here; set reader_examples to 0"
        )
    spare = spare_questions(
        settings.data,
        _questions(project),
        settings.reader_examples,
        similarity=project.quality.leak_similarity,
        seed=settings.seed,
        data=project.data,
    )
    examples = reading_examples(spare, project.reading, settings.seed)
    model = replace(project.model, name=settings.model or project.model.name)
    whole = replace(project.prefix, instruction=False, train_on_errors=True)
    return train(
        render(examples, AS_ASKED, load_tokenizer(model), whole),
        replace(project.train, budget="epochs", epochs=1.0),
        model=model,
        lora=project.lora,
        folder=project.folder("train-reader"),
    )


def benchmark(project: Project) -> Benchmark:
    """06: the answers of every arm of the benchmark, and their scores; of the last reader."""
    questions, pool = _asked(project)
    return _answers(project, reader(project), questions, pool, project.reading, "benchmark")


def benchmarks(project: Project) -> dict[str, Benchmark]:
    """06: the answers of every reader, by its name."""
    questions, pool = _asked(project)
    given = questions, pool, project.reading, "benchmark"
    return {name: _answers(project, one, *given) for name, one in readers(project).items()}


def alone(project: Project, count: int | None = None) -> Benchmark | None:
    """07: some of the benchmark's questions, asked again under every arm, one at a time.

    Under way with others, a question waits for them. These answers, in a folder of their own, tell
    how long it takes alone.

    Parameters
    ----------
    project
        Its contexts, passages and reader are those of the benchmark.
    count
        How many questions; 0: none. ``None``: a tenth of them, 20 at most.
    """
    questions, pool = _asked(project)
    if count is None:
        count = min(ALONE, int(ALONE_SHARE * len(questions)))
    if not count:
        return None
    some = draw(questions, min(count, len(questions)), project.benchmark.seed)
    one = replace(project.reading, concurrency=1)
    return _answers(project, reader(project), some, pool, one, "benchmark-alone")


def _answers(
    project: Project,
    model: Model,
    questions: Questions,
    pool: PassagePool,
    reading: ReadingSettings,
    folder: str,
) -> Benchmark:
    return benchmarking.benchmark(
        model,
        questions,
        project.benchmark.arms,
        reading,
        pool=pool,
        index=_index(project, pool),
        agent=benchmark_agent(project),
        contexts=project.contexts,
        folder=project.folder(folder),
        budget=project.budget,
    )


def _index(project: Project, pool: PassagePool) -> Index:
    folder = project.folder("index")
    return build_index(pool, project.retrieval, folder=folder, endpoint=project.endpoint)


def _reader_as_it_comes(project: Project) -> Model:
    settings = project.benchmark
    return open_model(project, settings.player, settings.model or project.model.name)


def _asked(project: Project) -> tuple[Questions, PassagePool]:
    questions = _questions(project)
    return questions, open_pool(project.benchmark.corpus or questions, project.folder("pool"))


def _questions(project: Project) -> Questions:
    settings = project.benchmark
    given = {"limit": settings.questions, "seed": settings.seed, "data": project.data}
    return load_questions(settings.data, **given)


def benchmark_agent(project: Project) -> Any:
    """06: who plays the arm ``agent``: the tuned agent of the arm that ``benchmark.agent`` names.

    ``None`` if no arm of the benchmark is an agent.
    """
    settings = project.benchmark
    if "agent" not in settings.arms:
        return None
    template = arm_of(project, settings.agent).template
    return Agent(
        model=agent(project, settings.agent, trained(project, [settings.agent])[settings.agent]),
        prompt=lambda question: template.inference(question, "qa"),
        live=replace(project.live, temperatures=(project.reading.temperature,)),
        thoughts=project.prefix.thoughts,
    )
