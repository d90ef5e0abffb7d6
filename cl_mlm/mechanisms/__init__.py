"""What several strategies share: buffers, per-example gradients; what those who write strategies import stands here."""

from cl_mlm.mechanisms.buffers import Reservoir
from cl_mlm.mechanisms.per_example import SquaredGradients
from cl_mlm.models.backbone import leading

__all__ = ["Reservoir", "SquaredGradients", "leading"]
