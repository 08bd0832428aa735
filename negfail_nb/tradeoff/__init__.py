"""07: the trade-off: accuracy against cost, and an analytic throughput model of Llamas, calibrated on measured rows."""

from negfail_nb.tradeoff.architecture import Architecture, architecture_from_config, get_architecture
from negfail_nb.tradeoff.calibrate import calibrate
from negfail_nb.tradeoff.card import Card, card_table, read_card
from negfail_nb.tradeoff.curve import Curve, Prices, tradeoff
from negfail_nb.tradeoff.efficiencies import Efficiencies
from negfail_nb.tradeoff.hardware import Hardware, get_hardware, hardware_table
from negfail_nb.tradeoff.literature import literature_table
from negfail_nb.tradeoff.opening import open_benchmark
from negfail_nb.tradeoff.published import Measurement, read_measurements
from negfail_nb.tradeoff.roofline import DoesNotFit, Prediction, predict
from negfail_nb.tradeoff.served import server_rows
from negfail_nb.tradeoff.speed import BreakEven, break_even, pipeline_workload, speed_table
from negfail_nb.tradeoff.workload import Workload

__all__ = [
    "Architecture",
    "BreakEven",
    "Card",
    "Curve",
    "DoesNotFit",
    "Efficiencies",
    "Hardware",
    "Measurement",
    "Prediction",
    "Prices",
    "Workload",
    "architecture_from_config",
    "break_even",
    "calibrate",
    "card_table",
    "get_architecture",
    "get_hardware",
    "hardware_table",
    "literature_table",
    "open_benchmark",
    "pipeline_workload",
    "predict",
    "read_card",
    "read_measurements",
    "server_rows",
    "speed_table",
    "tradeoff",
]
