"""What people look at: figures, pages, knobs. Reads results and draws; only notebooks import it."""

from negfail_nb.views.agents import actions_table, agent_table, agents_table, draw_agents
from negfail_nb.views.browse import Page, explore, show_trajectory, side_by_side, to_html
from negfail_nb.views.figures import new_figure, paper_style, save_figure
from negfail_nb.views.logs import (
    draw_funnel,
    draw_kinds,
    draw_outcomes,
    draw_scores,
    outcome_table,
    termination_table,
)
from negfail_nb.views.studies import draw_study, study_table
from negfail_nb.views.tables import (
    arms_table,
    label_table,
    plan_table,
    rendered_table,
    settings_table,
    trained_table,
    verdict,
)
from negfail_nb.views.training import curve_table, draw_arms, draw_curves, draw_lengths, length_table

__all__ = [
    "actions_table",
    "agent_table",
    "agents_table",
    "draw_agents",
    "arms_table",
    "settings_table",
    "Page",
    "curve_table",
    "draw_arms",
    "draw_curves",
    "draw_funnel",
    "draw_kinds",
    "draw_lengths",
    "draw_outcomes",
    "draw_scores",
    "draw_study",
    "explore",
    "label_table",
    "length_table",
    "new_figure",
    "outcome_table",
    "paper_style",
    "plan_table",
    "rendered_table",
    "save_figure",
    "show_trajectory",
    "side_by_side",
    "study_table",
    "termination_table",
    "to_html",
    "trained_table",
    "verdict",
]
