"""The model of a run, as it is called: in the run's precision, with the outputs of a frozen body cached."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cl_mlm.errors import ConfigError
from cl_mlm.models.backbone import leading
from cl_mlm.models.finetuning import trains_in_fp32
from cl_mlm.models.packed_rows import forward_packed
from cl_mlm.tokens.logits import NO_TARGET
from cl_mlm.training.frozen_features import FrozenFeatures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.batch import Batch, Outputs
    from cl_mlm.config.schema import Config
    from cl_mlm.models.backbone import Backbone
    from cl_mlm.training.run_data import RunData


class Network:
    """A backbone and how it is run.

    Args:
        backbone: the model with its head or heads.
        accelerator: precision, scaling of gradients, device.
        config: of the run.
        data: where rows are read for the cache of a frozen body.

    Attributes:
        body_dtype: of the pretrained weights, such as `float32` or `nf4`.
    """

    def __init__(self, backbone: Backbone, accelerator: Accelerator, config: Config, data: RunData) -> None:
        self.backbone, self.accelerator = backbone, accelerator
        self._dtype, self.body_dtype = config.model.dtype, config.model.quantization or config.model.dtype
        self._batch_size = config.training.batch_size
        self._trains_in_fp32 = trains_in_fp32(config)
        self._data = data
        self._caches = caches_features(config, backbone)
        self._features: FrozenFeatures | None = None

    @property
    def model(self) -> torch.nn.Module:
        """The model in training."""
        model: torch.nn.Module = self.backbone.model
        return model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.backbone.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.backbone.model.device
        return device

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Returns the parameters that the optimiser moves, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def not_finite(self) -> list[str]:
        """Returns the names of trainable parameters that hold a number that is not finite; waits for the device."""
        weights = self.trainable()
        if not weights:
            return []
        are_finite: list[bool] = torch.stack([tensor.isfinite().all() for tensor in weights.values()]).tolist()
        return [name for name, is_finite in zip(weights, are_finite, strict=True) if not is_finite]

    @contextmanager
    def swapped(self, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Gives trainable parameters other values within the block, by name.

        Args:
            values: of a parameter that has grown since, those of its leading rows.

        Raises:
            KeyError: a name is none of a trainable parameter.
        """
        parameters = self.trainable()
        before = [(parameters[name], parameters[name].data) for name in values]
        try:
            for (parameter, data), new in zip(before, values.values(), strict=True):
                if new.shape == data.shape:
                    parameter.data = new.to(data)
                else:
                    parameter.data = data.clone()
                    leading(new, parameter.data).copy_(new)
            yield
        finally:
            for parameter, data in before:
                parameter.data = data

    def autocast(self) -> AbstractContextManager[None]:
        """Returns a context in which the model runs in the run's precision."""
        context: AbstractContextManager[None] = self.accelerator.autocast()
        return context

    def forward(self, batch: Batch) -> Outputs:
        """Runs the model in its present mode, in the run's precision."""
        with self.autocast(), self._body(batch):
            return self.backbone.forward(batch)

    def forward_packed(self, batch: Batch) -> Outputs:
        """Runs the model as `forward`, several rows in one sequence; only predicted tokens have logits."""
        with self.autocast():
            return forward_packed(self.backbone.task_model(batch.task), batch, batch.targets != NO_TARGET)

    def forward_fp32(self, batch: Batch) -> Outputs:
        """Runs the model in fp32 whatever the run's precision; a frozen body in bfloat16 runs in that.

        Raises:
            ConfigError: the weights that are trained are bfloat16.
        """
        if not self._trains_in_fp32:
            raise ConfigError(f"model.dtype: must be float32 where the model is to run in it, got {self._dtype}")
        if self._dtype != "float32":
            outputs = self.forward(batch)
            return replace(outputs, logits=outputs.logits.float())
        with torch.autocast(self.device.type, enabled=False), self._body(batch):
            return self.backbone.forward(batch)

    def _body(self, batch: Batch) -> AbstractContextManager[None]:
        """Returns a context in which a frozen body gives what is cached of it for these rows."""
        if self._caches:
            self._caches = False
            self._features = FrozenFeatures.find(self.backbone, self.autocast, self._data, self._batch_size, batch)
        if self._features is None:
            return nullcontext()
        return self._features.serving(batch)


def caches_features(config: Config, backbone: Backbone) -> bool:
    """Says whether the outputs of the body are cached: it is frozen, and one head reads one vector a row of it."""
    is_frozen = config.finetuning.mode == "head" and config.finetuning.cache_features
    return is_frozen and backbone.kind == "sequence" and not backbone.is_shared
