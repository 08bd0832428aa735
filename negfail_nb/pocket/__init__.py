"""A small fictional world with questions, word problems and a scripted teacher: logs for users who
have none. `recipes/pocket_llama` made the weights of pocket-llama, which lie here too.
"""

from negfail_nb.pocket.passages import stream_passages, write_passages
from negfail_nb.pocket.problems import make_problems
from negfail_nb.pocket.questions import make_questions
from negfail_nb.pocket.tasks import make_tasks
from negfail_nb.pocket.teacher import Mistakes, generate_logs
from negfail_nb.pocket.world import lazy_world, make_world

__all__ = [
    "Mistakes",
    "generate_logs",
    "lazy_world",
    "make_problems",
    "make_questions",
    "make_tasks",
    "make_world",
    "stream_passages",
    "write_passages",
]
