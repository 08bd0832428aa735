"""04 train: the arms, and fine-tuning of each.

`arms` says which trajectories an arm uses, `planning` what training will take, `fit` trains on
packed tokens and `preference` on preferences, both with `trainer`; `result` is what they leave.
"""

from negfail_nb.training.arms import ALL_ARMS, ARMS, PREFERENCE_ARMS, Arm, make_arms, select
from negfail_nb.training.fit import train
from negfail_nb.training.model import load_model, load_tokenizer, make_tokenizer
from negfail_nb.training.planning import Plan, plan
from negfail_nb.training.preference import preference_plan, train_preference
from negfail_nb.training.result import TrainedRun

__all__ = [
    "ALL_ARMS",
    "ARMS",
    "Arm",
    "PREFERENCE_ARMS",
    "Plan",
    "TrainedRun",
    "load_model",
    "load_tokenizer",
    "make_arms",
    "make_tokenizer",
    "plan",
    "preference_plan",
    "select",
    "train",
    "train_preference",
]
