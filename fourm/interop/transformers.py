"""The encoder as a model of ``transformers``: importing this module registers it.

    import fourm.interop.transformers
    from transformers import AutoModel

    model = AutoModel.from_pretrained("folder")  # of ``FourMModel.save_pretrained``
    out = model(**model.prepare({"rgb": picture, "caption": "a red cube"}))
    out.last_hidden_state, out.pooler_output      # (B, N, D), (B, D)

A folder is an ordinary pipeline folder whose ``config.json`` also says ``model_type``, so both
libraries open it; ``FourMModel.from_pretrained`` opens one that does not say so. Files are read by
this package's own reader: no remote code, nothing unpickled. What needs the weights' places on
several devices (``device_map``, quantization while loading) is not offered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fourm.config import from_mapping, to_mapping
from fourm.errors import UserError
from fourm.export.networks import PaddedEncoder
from fourm.export.padding import encoder_inputs
from fourm.files.model_files import CONFIG_FILE
from fourm.modalities import ModalitySet
from fourm.model.config import ModelConfig
from fourm.model.model import FourM
from fourm.pipeline.pipeline import TOKENIZERS_FOLDER, AnyToAnyPipeline
from fourm.sampling.state import encoder_stream

_NAMES = ("modality", "position", "token", "attention_mask")


class FourMConfig(PretrainedConfig):
    """The mappings of our own ``config.json``: ``model``, ``modalities``, ``tokenizers``."""

    model_type = "fourm"

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        modalities: dict[str, Any] | None = None,
        tokenizers: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        self.model, self.modalities, self.tokenizers = model, modalities, tokenizers
        super().__init__(**others)

    @staticmethod
    def of(model: FourM) -> FourMConfig:
        """That of a model."""
        return FourMConfig(model=to_mapping(model.config), **model.modalities.to_mapping())

    @property
    def hidden_size(self) -> int:
        """Width of the features."""
        return (self.model or {})["dim"]


class FourMModel(PreTrainedModel):
    """The encoder of a FourM. Without ``pipe`` it has fresh weights, and no tokenizers."""

    config_class = FourMConfig
    base_model_prefix = "fourm"
    main_input_name = "token"

    def __init__(self, config: FourMConfig, pipe: AnyToAnyPipeline | None = None) -> None:
        super().__init__(config)
        if pipe is None:
            mapping = {"tokenizers": config.tokenizers, "modalities": config.modalities}
            modalities = ModalitySet.from_mapping(mapping, "FourMConfig")
            model = FourM(from_mapping(ModelConfig, config.model, "FourMConfig"), modalities)
            pipe = AnyToAnyPipeline(model, TOKENIZERS_FOLDER)
        self.pipe = pipe
        self.continuous = tuple(m for m in pipe.modalities if m.kind == "continuous" and m.input)
        self.encoder = PaddedEncoder(pipe.model, self.continuous)

    @classmethod
    def from_pretrained(cls, name: str | Path, *_: Any, **options: Any) -> FourMModel:  # type: ignore[override]
        """A pipeline folder or hub repository; of the options ``dtype`` is used. Raises UserError
        that names the file and what is wrong with it.
        """
        dtype = options.get("dtype") or torch.float32
        if isinstance(dtype, str):
            dtype = None if dtype == "auto" else getattr(torch, dtype)
        pipe = AnyToAnyPipeline.from_pretrained(name, dtype=dtype)
        return cls(FourMConfig.of(pipe.model), pipe).eval()

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:  # type: ignore[override]
        """A pipeline folder that ``AutoModel`` opens too."""
        self.pipe.save_pretrained(folder)
        path = Path(folder) / CONFIG_FILE
        kind = {"model_type": FourMConfig.model_type, "architectures": [type(self).__name__]}
        path.write_text(json.dumps({**json.loads(path.read_text()), **kind}, indent=1) + "\n")

    def prepare(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """What a pipeline takes (raw values, files, lists of them) as arguments of ``forward``."""
        state = self.pipe.encode(inputs)
        stream = encoder_stream([state], self.pipe.modalities)
        tensors = (t.to(self.device) for t in encoder_inputs(stream, self.continuous))
        return dict(zip((*_NAMES, *self._vector_names), tensors, strict=True))

    @property
    def fourm(self) -> FourM:
        """The whole model, its decoder too."""
        return self.encoder.model

    @property
    def _vector_names(self) -> list[str]:
        return [name for m in self.continuous for name in (m.name, f"{m.name}_mask")]

    def forward(
        self,
        modality: Tensor,
        position: Tensor,
        token: Tensor,
        attention_mask: Tensor,
        **vectors: Tensor,
    ) -> BaseModelOutputWithPooling:
        """Rows (B, N) of ids and, by the names of continuous modalities, vectors (B, n, C) and
        their masks (B, n), as ``prepare`` gives them.

        Returns:
            ``last_hidden_state`` (B, R + N, D), registers first, zero where there is no row;
            ``pooler_output`` (B, D), the mean of the tokens.
        """
        unknown = set(vectors) - {*self._vector_names, "return_dict"}
        if unknown:
            raise UserError(f"forward takes no {', '.join(sorted(unknown))}: use prepare()")
        given = [vectors[name] for name in self._vector_names]
        rows, at, mask = self.encoder.rows(modality, position, token, attention_mask, *given)
        features = self.encoder.layers(rows, at, mask)[-1].unflatten(0, mask.shape)
        features = features * mask[..., None]
        num = self.fourm.config.num_registers
        pooled = features[:, num:].sum(1) / mask[:, num:].sum(1, keepdim=True).clamp_min(1)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=pooled)


AutoConfig.register(FourMConfig.model_type, FourMConfig, exist_ok=True)
AutoModel.register(FourMConfig, FourMModel, exist_ok=True)
