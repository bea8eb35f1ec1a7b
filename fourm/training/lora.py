"""Low-rank adapters (LoRA, 2106.09685) through ``peft``.

The model that a run begins with stays as it is; what is trained is a product of two narrow matrices
beside each chosen layer, and what is fresh. A fused weight is several maps (``fourm.model.roles``):
its adapter has the rank of all of them together, so that none shares its narrow side with another.

A folder of adapters holds peft's own two files, the rows that began fresh, the table of where all
others come from, and the name of the model they belong to: it opens as any model folder does, with
the adapters merged into the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fourm.config import at_least, from_mapping, read_yaml, to_mapping
from fourm.errors import UserError, nearest
from fourm.files.model_files import ADAPTERS_FILE, CONFIG_FILE
from fourm.files.tensor_file import save_tensors
from fourm.modalities import ModalitySet
from fourm.model.model import FourM, ModelConfig, load_model
from fourm.model.roles import parameter_roles
from fourm.records.hub import find_model
from fourm.training.transplant import TRANSPLANT_FILE, Transplant

if TYPE_CHECKING:
    import peft

ADAPTER_CONFIG_FILE = "adapter_config.json"  # peft's, beside its ADAPTERS_FILE
FRESH_FILE = "fresh.safetensors"
_PREFIX, _NAME = "base_model.model.", "default"  # of adapters, in peft's files and in the model
_GROUPS = {
    "attention": ("qkv", "proj"),
    "mlp": ("fc_in", "fc_out"),
    "all": ("qkv", "proj", "fc_in", "fc_out", "context"),
}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters of rank ``rank`` (a map; a fused weight has several), scaled by alpha / rank."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0  # of what goes into the adapters
    # attention, mlp or all; or names of layers, or what such names end with
    targets: str | tuple[str, ...] = "attention"

    def __post_init__(self) -> None:
        at_least(self, 1, "rank")
        at_least(self, 0, "alpha", "dropout")
        if self.dropout >= 1:
            raise UserError(f"lora: dropout must be below 1, not {self.dropout}")

    def layers(self, model: nn.Module) -> list[str]:
        """Names of the linear layers that get adapters. Raises UserError for a target that is
        none.
        """
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        given = (self.targets,) if isinstance(self.targets, str) else self.targets
        wanted = [ending for target in given for ending in _GROUPS.get(target, (target,))]
        for target in given:
            if target not in _GROUPS and not any(_ends_with(name, target) for name in linear):
                known = [*_GROUPS, *dict.fromkeys(name.rpartition(".")[2] for name in linear)]
                raise UserError(
                    f"lora: no layer is called {target!r}; targets are {', '.join(known)}, or whole"
                    f" names such as {linear[0]}{nearest(target, known)}"
                )
        return [name for name in linear if any(_ends_with(name, ending) for ending in wanted)]


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def refuse_other_adapters(checkpoint: Path, config: LoraConfig | None) -> None:
    """Raise UserError where a run would go on with other adapters than its checkpoint has."""
    described = checkpoint / "pretrain.yaml"
    was = read_yaml(described).get("lora") if described.is_file() else None
    now = json.loads(json.dumps(to_mapping(config)))
    if was != now:
        raise UserError(
            f"{checkpoint} was trained with lora {_shown(was)}, the config says {_shown(now)}: give"
            " another folder (out=...), or go on as it was"
        )


def _shown(lora: Mapping[str, Any] | None) -> str:
    return "none" if lora is None else ", ".join(f"{key} {value}" for key, value in lora.items())


# ---- adapters in a model -------------------------------------------------------------------------


def add_adapters(
    model: FourM, config: LoraConfig, base: str, moved: Transplant | None, seed: int
) -> None:
    """Put adapters into a model, in place, and freeze all but them and what is fresh.

    From now on its ``state_dict`` holds what is trained alone: a checkpoint is as small as that.

    Args:
        base: the model that the weights are from: a folder or a hub id.
        moved: what became of them.
        seed: of the adapters, which begin with no effect.
    """
    peft = _peft()
    layers = config.layers(model)
    roles = parameter_roles(model)
    pieces = {name: roles[f"{name}.weight"].pieces for name in layers}
    fused = {name.rpartition(".")[2]: num for name, num in pieces.items() if num > 1}
    described = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=layers,
        rank_pattern={ending: num * config.rank for ending, num in fused.items()},
        alpha_pattern={ending: num * config.alpha for ending, num in fused.items()},
        base_model_name_or_path=str(Path(base).resolve()) if Path(base).exists() else base,
    )
    model.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(described, model, _NAME)
    fresh = moved.learners if moved is not None else {}
    for name, parameter in model.named_parameters():
        if name in fresh:
            parameter.requires_grad_(True)
    model.register_state_dict_post_hook(keep_trained)


def keep_trained(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Hook of ``state_dict`` that leaves out what does not learn."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


def num_trained(model: nn.Module) -> tuple[int, int]:
    """Numbers that are trained, and all of them."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


# ---- files ---------------------------------------------------------------------------------------


def write_adapters(
    model: FourM, moved: Transplant | None, folder: Path, weights: Mapping[str, Tensor]
) -> None:
    """Adapters and fresh rows, out of the weights that a model with adapters has."""
    described: peft.LoraConfig = model.peft_config[_NAME]  # type: ignore[index,assignment]
    described.save_pretrained(str(folder))
    adapters = {
        _PREFIX + name.replace(f".{_NAME}.", "."): value
        for name, value in weights.items()
        if ".lora_" in name
    }
    save_tensors(folder / ADAPTERS_FILE, adapters)
    if moved is None:
        return
    moved.write(folder / TRANSPLANT_FILE, str(described.base_model_name_or_path))
    save_tensors(
        folder / FRESH_FILE,
        {
            _key(tensor, rows): weights[tensor][slice(*rows or (None,))]
            for tensor, rows in _blocks(moved)
        },
    )


def _blocks(moved: Transplant) -> list[tuple[str, tuple[int, int] | None]]:
    """Each block of rows that began fresh; None = a whole tensor."""
    return [
        (tensor, rows)
        for tensor, blocks in moved.learners.items()
        for rows in (blocks if blocks is not None else [None])
    ]


def _key(tensor: str, rows: tuple[int, int] | None) -> str:
    return tensor if rows is None else f"{tensor}[{rows[0]}:{rows[1]}]"


def load_adapted(
    folder: Path, described: dict[str, Any] | None, dtype: torch.dtype | None
) -> FourM | None:
    """The model of a folder of adapters, merged into its weights; None if it is no such folder.

    Raises UserError naming what is missing, e.g. the model that the adapters belong to.
    """
    if not (folder / ADAPTERS_FILE).is_file() or described is None:
        return None
    peft = _peft()
    adapters = peft.LoraConfig.from_pretrained(str(folder))
    base = find_model(
        str(adapters.base_model_name_or_path),
        f"{folder / ADAPTER_CONFIG_FILE} (base_model_name_or_path)",
    )
    model = _with_fresh_rows(folder, described, load_model(base))
    stored = load_file(folder / ADAPTERS_FILE)
    merged = peft.LoraModel(model, adapters, _NAME)  # type: ignore[arg-type]
    told = peft.set_peft_model_state_dict(model, stored, _NAME)
    lost = [name for name in told.missing_keys if ".lora_" in name] + told.unexpected_keys
    if lost:
        raise UserError(f"{folder / ADAPTERS_FILE} does not fit {base}: {lost[0]}")
    whole = merged.merge_and_unload()
    assert isinstance(whole, FourM)
    return whole.requires_grad_(True).to(dtype or torch.float32).eval()


def _with_fresh_rows(folder: Path, described: Mapping[str, Any], base: FourM) -> FourM:
    """The model before its adapters: all that is kept of ``base``, and what has been learned."""
    table = folder / TRANSPLANT_FILE
    if not table.is_file():
        return base
    where = str(folder / CONFIG_FILE)
    declared = {k: described[k] for k in ("tokenizers", "modalities") if k in described}
    model = FourM(
        from_mapping(ModelConfig, described["model"], where),
        ModalitySet.from_mapping(declared, where),
    )
    moved, fresh = Transplant.read(table), load_file(folder / FRESH_FILE)
    own = model.state_dict()
    moved.carry(base.state_dict(), own)
    for tensor, rows in _blocks(moved):
        own[tensor][slice(*rows or (None,))].copy_(fresh[_key(tensor, rows)])
    return model


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError:
        raise UserError("lora needs peft: pip install 'fourm[lora]'") from None
    return peft
