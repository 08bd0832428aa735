"""07: how fast a model is: an analytic throughput model of Llamas, and the measurements that it is
fitted to.
"""

from negfail_nb.speed.architecture import Architecture, architecture_from_config, get_architecture
from negfail_nb.speed.calibration import calibrate
from negfail_nb.speed.card import Card, card_table, read_card
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import Hardware, get_hardware, hardware_table
from negfail_nb.speed.ladder import BreakEven, break_even, pipeline_workload, speed_table
from negfail_nb.speed.published import Measurement, read_measurements
from negfail_nb.speed.roofline import DoesNotFit, Prediction, predict
from negfail_nb.speed.served import server_rows
from negfail_nb.speed.workload import Workload

__all__ = [
    "Architecture",
    "BreakEven",
    "Card",
    "DoesNotFit",
    "Efficiencies",
    "Hardware",
    "Measurement",
    "Prediction",
    "Workload",
    "architecture_from_config",
    "break_even",
    "calibrate",
    "card_table",
    "get_architecture",
    "get_hardware",
    "hardware_table",
    "pipeline_workload",
    "predict",
    "read_card",
    "read_measurements",
    "server_rows",
    "speed_table",
]
