"""What people look at: figures, pages, viewers and forms. Reads results and draws; only notebooks
and the command line import it.
"""

from negfail_nb.views.answer import draw_answer, show_answer, show_changes
from negfail_nb.views.benchmark import (
    depth_table,
    paired_table,
    place_table,
    question_table,
    reading_table,
    retrieval_table,
    show_pairs,
    show_places,
    show_reading,
    show_retrieval,
)
from negfail_nb.views.benchmark_figures import (
    draw_accuracy,
    draw_depths,
    draw_groups,
    draw_pairs,
    draw_places,
    draw_retrieval,
)
from negfail_nb.views.benchmark_viewers import browse_answers, browse_contexts, explore_reading
from negfail_nb.views.claims import (
    claims_table,
    draw_verdicts,
    draw_weakness,
    show_candidates,
    show_weakness,
)
from negfail_nb.views.claims_pages import browse_claims
from negfail_nb.views.collect import browse, draw_outcomes, outcome_table, watch_live
from negfail_nb.views.evaluate import (
    agent_table,
    compare_episodes,
    draw_agents,
    draw_arms,
    show_agents,
    show_arms,
)
from negfail_nb.views.forms import form
from negfail_nb.views.load import draw_load, load_table
from negfail_nb.views.pages import page
from negfail_nb.views.papers import redraw, save_figure
from negfail_nb.views.prefix import (
    browse_masks,
    draw_lengths,
    label_table,
    length_table,
    rendered_table,
)
from negfail_nb.views.published import draw_published, published_table
from negfail_nb.views.quality import draw_funnel, draw_kinds, draw_scores
from negfail_nb.views.speed import draw_gpu, draw_speed, explore_speed
from negfail_nb.views.speed_published import draw_ladders
from negfail_nb.views.studies import draw_study, explore_studies, show_study, study_table
from negfail_nb.views.tradeoff import (
    draw_split,
    draw_tradeoff,
    explore_tradeoff,
    split_table,
    tradeoff_table,
)
from negfail_nb.views.train import (
    curve_table,
    draw_curves,
    plan_table,
    settings_table,
    trained_table,
    try_training,
)
from negfail_nb.views.widgets import explore

__all__ = [
    "agent_table",
    "browse",
    "browse_answers",
    "browse_claims",
    "browse_contexts",
    "browse_masks",
    "claims_table",
    "compare_episodes",
    "curve_table",
    "depth_table",
    "draw_accuracy",
    "draw_agents",
    "draw_answer",
    "draw_arms",
    "draw_gpu",
    "draw_curves",
    "draw_depths",
    "draw_funnel",
    "draw_groups",
    "draw_kinds",
    "draw_lengths",
    "draw_load",
    "draw_outcomes",
    "draw_pairs",
    "draw_places",
    "draw_published",
    "draw_retrieval",
    "draw_scores",
    "draw_ladders",
    "draw_speed",
    "draw_split",
    "draw_study",
    "draw_tradeoff",
    "draw_verdicts",
    "draw_weakness",
    "explore",
    "explore_reading",
    "explore_speed",
    "explore_studies",
    "explore_tradeoff",
    "form",
    "label_table",
    "length_table",
    "load_table",
    "outcome_table",
    "page",
    "paired_table",
    "place_table",
    "plan_table",
    "published_table",
    "question_table",
    "reading_table",
    "redraw",
    "rendered_table",
    "retrieval_table",
    "save_figure",
    "settings_table",
    "show_agents",
    "show_answer",
    "show_arms",
    "show_candidates",
    "show_changes",
    "show_pairs",
    "show_places",
    "show_reading",
    "show_retrieval",
    "show_study",
    "show_weakness",
    "split_table",
    "study_table",
    "tradeoff_table",
    "trained_table",
    "try_training",
    "watch_live",
]
