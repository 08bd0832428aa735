"""The settings of each stage: small frozen dataclasses, checked when they are made.

Every field has a help text; forms, docs and the command line show the same one.
`negfail_nb.settings.profiles` has named sets.
"""

from negfail_nb.settings.benchmark import (
    ARMS,
    DEFAULT_ARMS,
    RETRIEVERS,
    BenchmarkSettings,
    ContextSettings,
    ReadingSettings,
    RetrievalSettings,
)
from negfail_nb.settings.checked import Checked, option
from negfail_nb.settings.claims import ClaimSettings, LiteratureSettings
from negfail_nb.settings.learning import (
    BudgetSettings,
    CollectSettings,
    EndpointSettings,
    EvaluateSettings,
    LiveSettings,
    LoraSettings,
    ModelSettings,
    PreferenceSettings,
    PrefixSettings,
    QualitySettings,
    TrainSettings,
)
from negfail_nb.settings.load import CACHES, LoadSettings

__all__ = [
    "ARMS",
    "CACHES",
    "BenchmarkSettings",
    "BudgetSettings",
    "Checked",
    "ClaimSettings",
    "CollectSettings",
    "ContextSettings",
    "DEFAULT_ARMS",
    "EndpointSettings",
    "EvaluateSettings",
    "LiteratureSettings",
    "LiveSettings",
    "LoadSettings",
    "LoraSettings",
    "ModelSettings",
    "PreferenceSettings",
    "PrefixSettings",
    "QualitySettings",
    "RETRIEVERS",
    "ReadingSettings",
    "RetrievalSettings",
    "TrainSettings",
    "option",
]
