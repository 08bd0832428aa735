"""The settings of each stage: small frozen dataclasses, checked when they are made.

Every field has a help text; forms, docs and the command line show the same one. A `Profile` is one
of each under a name.
"""

from negfail_nb.settings.checked import Checked, option
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
from negfail_nb.settings.measuring import (
    AUTO,
    CACHES,
    CHECKS,
    DEFAULT_ARMS,
    RETRIEVERS,
    RULES,
    BenchmarkSettings,
    ClaimSettings,
    ContextSettings,
    LiteratureSettings,
    LoadSettings,
    ReadingSettings,
    RetrievalSettings,
)
from negfail_nb.settings.page import describe, settings_page
from negfail_nb.settings.profile import DATA, Profile, data_folder, get_profile, profiles, stage_of

__all__ = [
    "AUTO",
    "BenchmarkSettings",
    "BudgetSettings",
    "CACHES",
    "CHECKS",
    "RULES",
    "Checked",
    "ClaimSettings",
    "CollectSettings",
    "ContextSettings",
    "DATA",
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
    "Profile",
    "QualitySettings",
    "RETRIEVERS",
    "ReadingSettings",
    "RetrievalSettings",
    "TrainSettings",
    "data_folder",
    "describe",
    "get_profile",
    "option",
    "profiles",
    "settings_page",
    "stage_of",
]
