"""05: how the arms compare on held-out questions, as agents and as models of successful runs."""

from negfail_nb.evaluation.agent import AgentScores, agent_scores, evaluate
from negfail_nb.evaluation.comparison import COMPARED, compare_agents, join_seeds, seed_table
from negfail_nb.evaluation.likelihood import Perplexity, compare, perplexity

__all__ = [
    "COMPARED",
    "AgentScores",
    "Perplexity",
    "agent_scores",
    "compare",
    "compare_agents",
    "evaluate",
    "join_seeds",
    "perplexity",
    "seed_table",
]
