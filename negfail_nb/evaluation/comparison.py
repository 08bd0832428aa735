"""Arms compared as agents: intervals over questions, paired differences, spread over seeds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from negfail_nb.evaluation.agent import AgentScores
from negfail_nb.intervals import choose_baseline, mcnemar, mean_columns, sign_flip
from negfail_nb.settings import EvaluateSettings

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("negfail_nb")

EPISODE = ("seed", "question_id", "attempt")
# The columns of `compare_agents`, also if there is no arm.
_MEASURES = ("em", "em_difference", "f1", "f1_difference")
COMPARED = (
    "arm",
    *(f"{name}{end}" for name in _MEASURES for end in ("", "_low", "_high")),
    *("p", "test", "seeds", "em_sd", "em_least", "em_most", "success", "action_error_rate"),
    *("calls", "prompt_tokens", "completion_tokens", "seconds", "questions", "episodes", "note"),
)


def join_seeds(scores: Iterable[AgentScores]) -> AgentScores:
    """Join the scores of several training runs of one arm.

    Raises
    ------
    ValueError
        If there are none, an episode is there twice, or the runs were measured on different
        questions.
    """
    import pandas as pd

    tables = [score.table for score in scores]
    if not tables:
        raise ValueError("no scores to join: 0 were given")
    table = pd.concat(tables, ignore_index=True)
    twice = table[table.duplicated(list(EPISODE))]
    if len(twice):
        seed, question, attempt = twice[list(EPISODE)].iloc[0]
        raise ValueError(
            f"{len(twice)} episodes are there twice, first seed {seed}, question {question}, "
            f"attempt {attempt}; give each training run its own seed: "
            "agent_scores(trajectories, seed=1)"
        )
    joined = AgentScores(table)
    _check_seeds("these", joined)
    return joined


def seed_table(scores: Mapping[str, AgentScores]) -> pd.DataFrame:
    """Return one row per arm and seed: ``arm``, ``seed``, ``em``, ``f1`` as in `AgentScores`."""
    import pandas as pd

    rows = [
        {"arm": arm, "seed": seed, "em": one.em, "f1": one.f1}
        for arm, score in scores.items()
        for seed, part in score.table.groupby("seed")
        for one in (AgentScores(part),)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "em", "f1"])


def compare_agents(
    scores: Mapping[str, AgentScores],
    settings: EvaluateSettings = EvaluateSettings(),
    baseline: str | None = None,
) -> pd.DataFrame:
    """Compare arms with intervals, and test their differences to one of them.

    Questions are resampled with replacement, each with all its episodes of all seeds (percentile
    bootstrap). So intervals cover which questions were asked, for these very training runs. They do
    not cover another training seed; ``em_sd`` shows that spread, and needs several seeds.

    Differences use the same draws for both arms. The test is McNemar's exact one if every arm has
    one episode per question. With several seeds or attempts a question is not simply right or
    wrong, so it is the sign-flip test on differences in mean EM, which equals McNemar's if both
    apply. p-values are not corrected for the number of arms.

    Parameters
    ----------
    scores
        Arms by name, measured on the same questions.
    settings
        Resamples, confidence, seed.
    baseline
        The arm that differences are taken to; ``None``: the first.

    Returns
    -------
    pandas.DataFrame
        One row per arm: ``arm``; ``em`` and ``f1``, and their ``_difference`` (minus the
        baseline's; above 0 is better), each with ``_low`` and ``_high``; ``p`` and ``test`` of the
        difference in EM; ``seeds`` and, over them, ``em_sd``, ``em_least``, ``em_most``;
        ``success``, ``action_error_rate``, costs per episode; ``questions``, ``episodes``;
        ``note`` if an interval says less than it seems to.

    Raises
    ------
    ValueError
        If there are no arms, the baseline is not among them, or arms or seeds were measured on
        different questions.
    """
    import pandas as pd

    baseline = choose_baseline(scores, baseline)
    _check_questions(scores, baseline)
    return pd.DataFrame([_compared(name, scores, baseline, settings) for name in scores])


def _compared(
    name: str, scores: Mapping[str, AgentScores], baseline: str, settings: EvaluateSettings
) -> dict[str, Any]:
    score = scores[name]
    ours = scores[name].questions
    theirs = scores[baseline].questions
    row: dict[str, Any] = {"arm": name}
    for measure in ("em", "f1"):
        row |= mean_columns(measure, ours[measure], settings)
        row |= mean_columns(f"{measure}_difference", ours[measure] - theirs[measure], settings)
    p, test = (float("nan"), "") if name == baseline else _test(score, scores[baseline], settings)
    seeds = seed_table({name: score})["em"]
    return row | {
        "p": p,
        "test": test,
        "seeds": len(seeds),
        "em_sd": float(seeds.std()),
        "em_least": float(seeds.min()),
        "em_most": float(seeds.max()),
        "success": score.success,
        "action_error_rate": score.action_error_rate,
        **score.costs.to_dict(),
        "questions": len(ours),
        "episodes": len(score.table),
        "note": _note(name, ours["em"]),
    }


def _test(ours: AgentScores, theirs: AgentScores, settings: EvaluateSettings) -> tuple[float, str]:
    """Return the p-value of the difference in EM, and the name of the test."""
    if all(
        s.table["question_id"].is_unique and s.table["em"].isin((0.0, 1.0)).all()
        for s in (ours, theirs)
    ):
        return mcnemar(ours.questions["em"], theirs.questions["em"]), "McNemar, exact"
    differences = ours.questions["em"] - theirs.questions["em"]
    return sign_flip(differences, settings), "sign flip, over questions"


def _note(name: str, em: pd.Series) -> str:
    if len(em) < 2:
        note = "one question only: no interval"
    elif em.nunique() == 1:
        note = (
            "every question has the same EM: the interval has no width, and says less than it "
            "seems to"
        )
    else:
        return ""
    log.warning("arm %s: %s", name, note)
    return note


def _check_questions(scores: Mapping[str, AgentScores], baseline: str) -> None:
    expected = set(scores[baseline].table["question_id"])
    for name, score in scores.items():
        _check_seeds(name, score)
        differing = sorted(expected ^ set(score.table["question_id"]))
        if differing:
            raise ValueError(
                f"arms {baseline} and {name} were measured on different questions; "
                f"{len(differing)} are not in both: {', '.join(differing[:5])}. Evaluate both on "
                "the same ones."
            )


def _check_seeds(name: str, score: AgentScores) -> None:
    """Refuse a seed that lacks a question: the spread would be one over questions too."""
    asked = score.table.groupby("seed")["question_id"].agg(set)
    every = set(score.table["question_id"])
    for seed, questions in asked.items():
        if questions != every:
            lacking = sorted(every - questions)
            raise ValueError(
                f"{name} runs were measured on different questions: seed {seed} lacks "
                f"{len(lacking)}: {', '.join(lacking[:5])}. Evaluate every seed on the same ones."
            )
