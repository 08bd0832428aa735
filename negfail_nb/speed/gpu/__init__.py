"""06, the card: what a GPU takes for layers of a large Llama, measured with weights that mean
nothing.

``python -m negfail_nb.speed.gpu`` needs torch and transformers, and no weights: the time of a dense
Llama does not depend on what its weights say. The layers of a Llama are alike, so a few of them
tell the time of all. One JSON comes out, which `negfail_nb.speed.card` reads.
"""

from negfail_nb.speed.gpu.plan import Cell, plan_cells
from negfail_nb.speed.gpu.run import SCHEMA, measure_card
from negfail_nb.speed.gpu.settings import CardSettings

__all__ = ["SCHEMA", "CardSettings", "Cell", "measure_card", "plan_cells"]
