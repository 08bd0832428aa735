"""07: the trade-off: an analytic throughput model of the Llama family, calibrated on measured rows."""

from negfail_nb.tradeoff.architecture import Architecture, architecture_from_config, get_architecture
from negfail_nb.tradeoff.calibrate import calibrate
from negfail_nb.tradeoff.efficiencies import Efficiencies
from negfail_nb.tradeoff.hardware import Hardware, get_hardware, hardware_table
from negfail_nb.tradeoff.published import Measurement, read_measurements
from negfail_nb.tradeoff.roofline import DoesNotFit, Prediction, predict
from negfail_nb.tradeoff.workload import Workload

__all__ = [
    "Architecture",
    "DoesNotFit",
    "Efficiencies",
    "Hardware",
    "Measurement",
    "Prediction",
    "Workload",
    "architecture_from_config",
    "calibrate",
    "get_architecture",
    "get_hardware",
    "hardware_table",
    "predict",
    "read_measurements",
]
