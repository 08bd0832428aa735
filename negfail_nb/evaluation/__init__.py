"""05 evaluate: how the arms compare on held-out questions, as agents and as models of successful
runs.
"""

from negfail_nb.evaluation.agent import AgentScores, agent_scores, evaluate
from negfail_nb.evaluation.comparison import COMPARED, compare_agents, join_seeds, seed_table
from negfail_nb.evaluation.likelihood import Perplexity, compare, perplexity
from negfail_nb.intervals import choose_questions, interval, mcnemar, mean_interval, sign_flip

__all__ = [
    "COMPARED",
    "AgentScores",
    "Perplexity",
    "agent_scores",
    "choose_questions",
    "compare",
    "compare_agents",
    "evaluate",
    "interval",
    "join_seeds",
    "mcnemar",
    "mean_interval",
    "perplexity",
    "seed_table",
    "sign_flip",
]
