"""What several strategies share; those who write strategies import it from here."""

from cl_mlm.mechanisms.buffers import Reservoir
from cl_mlm.mechanisms.input_grams import InputGrams
from cl_mlm.mechanisms.per_example import SquaredGradients
from cl_mlm.mechanisms.quadratic import Quadratic
from cl_mlm.mechanisms.teacher import (
    Teacher,
    ask_teacher,
    distillation,
    free_sites,
    old_groups,
    other_groups,
    other_sites,
)
from cl_mlm.models.backbone import leading
from cl_mlm.models.modes import evaluation_mode

__all__ = [
    "InputGrams",
    "Quadratic",
    "Reservoir",
    "SquaredGradients",
    "Teacher",
    "ask_teacher",
    "distillation",
    "evaluation_mode",
    "free_sites",
    "leading",
    "old_groups",
    "other_groups",
    "other_sites",
]
