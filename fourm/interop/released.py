"""Released 4M checkpoints: read as they are, written back as they were.

A released folder has ``config.json`` (or the same fields in the header of its safetensors file) and
weights under the reference's names. Position tables and the zero biases of bias-free norms are
stored there but computed here; decoder token tables of image modalities are stored there but never
used: all three are left out when reading and recreated (the dead tables as zeros) when writing.
Facts of the format: apple/ml-4m and the repositories ``EPFL-VILAB/4M-*``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import init_empty_weights
from torch import Tensor

from fourm.config import from_mapping
from fourm.errors import UserError
from fourm.files.model_files import CONFIG_FILE, load_into
from fourm.files.tensor_file import save_tensors
from fourm.files.weights import WEIGHT_SUFFIXES, WEIGHTS_FILE, WeightFiles
from fourm.interop.links import Link, model_links
from fourm.interop.untied import untied
from fourm.modalities import Modality, ModalitySet
from fourm.model.model import FourM, ModelConfig
from fourm.model.positions import sincos_1d
from fourm.resources import configs_folder

MODALITY_SETS = ("4m_21", "4m_7_sr")  # config files that together know every released modality
_SEQUENCE_POSITIONS = 512  # length of the stored position tables of sequences, whatever their own


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleasedConfig:
    """Fields of the released ``config.json``.

    Those of training alone are read and written but change nothing here.
    """

    domains_in: tuple[str, ...]
    domains_out: tuple[str, ...]
    dim: int
    encoder_depth: int
    decoder_depth: int
    num_heads: int
    norm_bias: bool
    act_layer: str
    image_size: int
    patch_size: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    gated_mlp: bool = False
    qk_norm: bool = False
    num_register_tokens: int = 0
    share_modality_embeddings: bool = True
    decoder_causal_mask: bool = False
    decoder_sep_mask: bool = True
    drop_path_rate_encoder: float = 0.0
    drop_path_rate_decoder: float = 0.0
    shared_drop_path: bool = False
    use_act_checkpoint: bool = False

    def __post_init__(self) -> None:
        if self.decoder_causal_mask or not self.decoder_sep_mask:
            raise UserError(
                "decoder_causal_mask: true and decoder_sep_mask: false are not supported; no"
                " released model has them"
            )
        if self.act_layer not in ("SiLU", "GELU"):
            raise UserError(f"act_layer must be SiLU or GELU, not {self.act_layer!r}")

    def model(self) -> ModelConfig:
        """The same model in our settings."""
        return ModelConfig(
            dim=self.dim,
            encoder_depth=self.encoder_depth,
            decoder_depth=self.decoder_depth,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            gated_mlp=self.gated_mlp,
            activation="silu" if self.act_layer == "SiLU" else "gelu",
            qkv_bias=self.qkv_bias,
            proj_bias=self.proj_bias,
            mlp_bias=self.mlp_bias,
            norm_bias=self.norm_bias,
            qk_norm=self.qk_norm,
            num_registers=self.num_register_tokens,
            patch_bias=False,
            share_modality_embeddings=self.share_modality_embeddings,
            share_token_embeddings=False,
            share_learned_positions=False,
            tie_heads=False,
        )


def load_released(
    folder: Path, described: dict[str, Any] | None, dtype: torch.dtype | None
) -> FourM | None:
    """A model from a released folder or file, or None if it is not of this format.

    Raises UserError naming what is wrong.
    """
    where = f"{folder / CONFIG_FILE}"
    if (
        described is None
        and folder.is_dir()
        and not any(f.suffix in WEIGHT_SUFFIXES for f in folder.iterdir())
    ):
        return None
    if described is None or ("domains_in" not in described and folder.is_file()):
        files = WeightFiles.open(folder)
        described, where = _header(files.metadata), f"the header of {files.where}"
    if "domains_in" not in described and "encoder_depth" not in described:
        return None
    config = from_mapping(ReleasedConfig, _plain(described), where)
    modalities = released_modalities(config, where)
    files = WeightFiles.open(folder)
    with init_empty_weights(include_buffers=False):
        model = FourM(config.model(), modalities)
    links = model_links(model)
    by_name = {link.released: _present(link, files) for link in links}
    for link in links:
        files.need(by_name[link.released], link.shape)
    files.refuse_others(
        {*by_name.values(), *(t for link in links for t in link.twins), *_dead(model, modalities)}
    )
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    stored = files.read(by_name["mask_token"]).dtype
    by_ours: dict[str, list[Link]] = {}
    for link in links:
        by_ours.setdefault(link.ours, []).append(link)

    def value(name: str) -> Tensor:
        parts = by_ours.get(name, [])
        if len(parts) == 1 and (parts[0].start, parts[0].stop) == (0, shapes[name][0]):
            return files.read(by_name[parts[0].released]).reshape(shapes[name])
        whole = torch.zeros(shapes[name], dtype=dtype or stored)
        for link in parts:
            whole[link.start : link.stop] = files.read(by_name[link.released]).reshape(
                -1, *shapes[name][1:]
            )
        return whole

    load_into(model, value, dtype)
    return model


def save_released(model: FourM, folder: str | Path) -> None:
    """Write a model in the released format, with heads of its own (``untied``). Raises UserError if
    that format cannot hold it.
    """
    model = untied(model)
    config = released_config(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()
    }
    save_tensors(
        folder / WEIGHTS_FILE,
        released_tensors(model),
        {k: json.dumps(v) for k, v in described.items()},
    )
    (folder / CONFIG_FILE).write_text(json.dumps(described, indent=1) + "\n")


def released_tensors(
    model: FourM, of: dict[str, Tensor] | None = None, dead: bool = True
) -> dict[str, Tensor]:
    """Our tensors (or others of the same names and shapes, such as gradients) under the released
    names.

    Twins are written once, as the hub's writer does; ``dead`` adds what the format stores but the
    model never uses.
    """
    state = model.state_dict() if of is None else of
    tensors = {}
    for link in model_links(model):
        if link.ours in state:
            tensors[link.released] = (
                state[link.ours][link.start : link.stop].reshape(link.shape).detach().cpu().clone()
            )
    if dead:
        tensors |= {name: make() for name, make in _dead(model, model.modalities).items()}
    return tensors


def released_config(model: FourM) -> ReleasedConfig:
    """The released fields of a model of ours.

    Raises UserError if the released format cannot say what the model is.
    """
    c = model.config
    reasons = [
        (c.share_token_embeddings, "share_token_embeddings is true"),
        (c.tie_heads, "tie_heads is true"),
        (
            c.patch_bias and any(m.patch_size for m in model.modalities if m.kind == "continuous"),
            "patch_bias is true",
        ),
        (
            c.share_learned_positions and any(m.kind == "set" for m in model.modalities),
            "share_learned_positions is true",
        ),
        (any(m.levels for m in model.modalities), "its embeddings are factorised over FSQ levels"),
        (any(m.places for m in model.modalities), "places are measured on other grids"),
    ]
    for wrong, reason in reasons:
        if wrong:
            raise UserError(f"the released format cannot hold this model: {reason}")
    known = _registry()
    for m in model.modalities:
        if m.name not in known:
            raise UserError(
                f"the released format cannot hold this model: it has no modality {m.name!r}"
            )
    pictures = [m for m in model.modalities if m.kind == "continuous" and m.patch_size]
    return ReleasedConfig(
        domains_in=tuple(m.name for m in model.modalities if m.input),
        domains_out=tuple(m.name for m in model.modalities if m.output),
        dim=c.dim,
        encoder_depth=c.encoder_depth,
        decoder_depth=c.decoder_depth,
        num_heads=c.num_heads,
        norm_bias=c.norm_bias,
        act_layer="SiLU" if c.activation == "silu" else "GELU",
        image_size=pictures[0].raw.pixels if pictures else 224,
        patch_size=pictures[0].patch_size if pictures else 16,
        mlp_ratio=c.mlp_ratio,
        qkv_bias=c.qkv_bias,
        proj_bias=c.proj_bias,
        mlp_bias=c.mlp_bias,
        gated_mlp=c.gated_mlp,
        qk_norm=c.qk_norm,
        num_register_tokens=c.num_registers,
        share_modality_embeddings=c.share_modality_embeddings,
    )


@cache
def _registry() -> dict[str, Modality]:
    """Every released modality by name."""
    return {
        m.name: m
        for name in MODALITY_SETS
        for m in ModalitySet.load(configs_folder() / "modalities" / f"{name}.yaml")
    }


@cache
def _tokenizers() -> dict[str, dict[str, Any]]:
    sets = (
        ModalitySet.load(configs_folder() / "modalities" / f"{name}.yaml") for name in MODALITY_SETS
    )
    return {name: settings for one in sets for name, settings in one.tokenizers.items()}


def released_modalities(config: ReleasedConfig, where: str) -> ModalitySet:
    """The modality set of a released config: its domains, with the roles that it gives them."""
    known, members = _registry(), []
    for name in dict.fromkeys((*config.domains_in, *config.domains_out)):
        if name not in known:
            raise UserError(
                f"{where}: unknown modality {name!r}; the released ones are {', '.join(known)}"
            )
        m = known[name]
        # t5_caption is listed but has no decoder
        output = name in config.domains_out and m.kind != "continuous"
        members.append(dataclasses.replace(m, input=name in config.domains_in, output=output))
    used = {m.tokenizer for m in members if m.tokenizer}
    return ModalitySet(
        tuple(members), {name: settings for name, settings in _tokenizers().items() if name in used}
    )


def _present(link: Link, files: WeightFiles) -> str:
    """The name under which a shared tensor was kept."""
    return next((name for name in (link.released, *link.twins) if name in files), link.released)


def _dead(model: FourM, modalities: ModalitySet) -> dict[str, Any]:
    """Names of stored tensors that nothing reads -> how to make them again."""
    dim, dead = model.config.dim, {}
    for m in modalities:
        for role, used in (("encoder", m.input), ("decoder", m.output)):
            if used and m.kind != "set":
                dead[f"{role}_embeddings.{m.name}.pos_emb"] = lambda m=m: _position_table(model, m)
        if m.output and m.kind in ("grid", "set"):
            dead[f"decoder_embeddings.{m.name}.token_emb.weight"] = lambda m=m: torch.zeros(
                m.vocab_size, dim
            )
    if not model.config.norm_bias:
        for link in model_links(model):
            if re.search(r"norm\d?\.weight$", link.released):
                dead[link.released.removesuffix("weight") + "bias"] = lambda link=link: torch.zeros(
                    link.shape
                )
    return dead


def _position_table(model: FourM, m: Modality) -> Tensor:
    if m.kind == "sequence" or (m.kind == "continuous" and not m.patch_size):
        return sincos_1d(
            _SEQUENCE_POSITIONS if m.kind == "sequence" else m.num_positions, model.config.dim
        )[None]
    start = model.modalities.position_offsets[model.modalities.index(m.name)]
    return model.positions.fixed[start : start + m.num_positions][None].clone()


def _header(metadata: dict[str, str]) -> dict[str, Any]:
    """Config fields from a safetensors header: one string a field, each a YAML value. Anything else
    there is left out.
    """
    described = {}
    for name, text in metadata.items():
        if name in {f.name for f in dataclasses.fields(ReleasedConfig)}:
            try:
                described[name] = yaml.safe_load(text)
            except yaml.YAMLError:
                raise UserError(
                    f"the weights' header field {name!r} is not readable: {text[:80]!r}"
                ) from None
    return described


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    """Some writers wrap the fields in ``config``."""
    inner = described.get("config")
    return inner if isinstance(inner, dict) and set(described) == {"config"} else described
