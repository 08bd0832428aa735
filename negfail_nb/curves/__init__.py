"""07: accuracy against cost: one table, the arms that no other beats, published points."""

from negfail_nb.curves.curve import Curve, Prices, tradeoff
from negfail_nb.curves.literature import literature_table

__all__ = ["Curve", "Prices", "literature_table", "tradeoff"]
