"""What several strategies share; those who write strategies import it from here."""

from cl_mlm.mechanisms.buffers import Reservoir
from cl_mlm.mechanisms.input_grams import InputGrams
from cl_mlm.mechanisms.memory import Rehearsal, bytes_of_rows
from cl_mlm.mechanisms.per_example import SquaredGradients
from cl_mlm.mechanisms.projection import gradient_of_rows, inner_product, nearest_allowed
from cl_mlm.mechanisms.quadratic import Quadratic, factor_faults
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
    "Rehearsal",
    "Reservoir",
    "SquaredGradients",
    "Teacher",
    "ask_teacher",
    "bytes_of_rows",
    "distillation",
    "evaluation_mode",
    "factor_faults",
    "free_sites",
    "gradient_of_rows",
    "inner_product",
    "leading",
    "nearest_allowed",
    "old_groups",
    "other_groups",
    "other_sites",
]
