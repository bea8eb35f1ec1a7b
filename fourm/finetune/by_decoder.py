"""Fine-tuning of the model's own decoder on a target that has a tokenizer, one that the model knows
or a new one: a pretraining that begins with the model (``init``), whose only mask gives the inputs
and asks for the target. What it generates is judged as ``fourm evaluate`` does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from fourm.batches.mask_config import MaskingComponent, MaskingConfig
from fourm.config import dump
from fourm.data.crop_settings import CropSettings
from fourm.data.crops import sample_key
from fourm.data.store import DataConfig, Source, SourceConfig
from fourm.errors import UserError
from fourm.evaluation.matrix.figures import Figure, Matrix
from fourm.evaluation.matrix.run import MatrixSettings, evaluate_matrix
from fourm.files.weights import WeightFiles
from fourm.finetune.config import FinetuneConfig
from fourm.finetune.judged import Judged
from fourm.finetune.samples import drawn_keys, refuse_itself
from fourm.finetune.saved import seen_inputs
from fourm.finetune.task import CONFIG
from fourm.modalities import Modality, ModalitySet
from fourm.model.model import FourM, load_model
from fourm.pipeline.pipeline import GENERATION_FILE, TOKENIZERS_FOLDER, AnyToAnyPipeline
from fourm.pipeline.preferred import read_options
from fourm.records.provenance import Provenance
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.pretrain import PretrainConfig, pretrain
from fourm.training.transplant import TRANSPLANT_FILE, Transplant
from fourm.training.warm_start import WarmStartConfig

_ALL = 1000.0  # alpha of inputs: each is given whole


def finetune_decoder(config: FinetuneConfig) -> Judged | None:
    """Train, export, generate, judge; goes on where it was cut short. None on ranks that only
    train. Raises UserError.
    """
    out, base = Path(config.out), Path(config.init)
    if config.weights == "fresh" and config.learns == "head":
        raise UserError("weights: fresh and learns: head together: nothing is known to build on")
    model = load_model(base)
    known = ModalitySet.load(config.modalities) if config.modalities else model.modalities
    target = known[config.target]
    if not target.output:
        outputs = ", ".join(m.name for m in known.outputs)
        raise UserError(f"{target.name} is no output of a decoder (head: null); outputs: {outputs}")
    inputs = seen_inputs(known, config.inputs)
    refuse_itself(target, inputs)
    tokenizers = config.tokenizers or str(base / TOKENIZERS_FOLDER)
    run = _pretraining(config, model, base, known, tokenizers, inputs, target)
    dump(config, out / CONFIG)
    losses = pretrain(run)
    if int(os.environ.get("RANK", 0)):
        return None
    checkpoint = newest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    tuned = load_model(checkpoint)
    tuned.provenance = Provenance.of_run(out, config.loop.steps)
    options = read_options(base / GENERATION_FILE) if (base / GENERATION_FILE).is_file() else {}
    AnyToAnyPipeline(tuned, tokenizers, options).save_pretrained(out / "model")
    matrix = _judged(config, inputs, target, out / "matrix" / checkpoint.name)
    figures = {"cross_entropy": matrix.cells[0].cross_entropy, **matrix.cells[0].figures}
    judged = Judged(
        step=config.loop.steps,
        target=target.name,
        inputs=config.inputs,
        learned="the model's own decoder, " + ("adapters" if config.lora else config.learns),
        num_train=config.labels or len(_keys(config, run.data.sources[0], known)),
        num_held_out=matrix.num_samples,
        learning=_num_learning(config, tuned, checkpoint),
        of=sum(p.numel() for p in tuned.parameters()),
        figures={"loss": losses["loss"], **_known(figures, lambda f: f.value)},
        baseline=_known(figures, lambda f: f.lower.get("constant")),
        upper=_known(figures, lambda f: f.upper),
    )
    judged.write(out)
    return judged


def _pretraining(
    config: FinetuneConfig,
    model: FourM,
    base: Path,
    known: ModalitySet,
    tokenizers: str,
    inputs: tuple[Modality, ...],
    target: Modality,
) -> PretrainConfig:
    """All of the inputs in, all of the target out."""
    fresh, num_inputs = config.weights == "fresh", sum(m.num_tokens for m in inputs)
    component = MaskingComponent(
        input={m.name: _ALL for m in inputs},
        target={target.name: 1.0},
        keep={m.name: "all" for m in inputs if m.kind == "sequence"},
    )
    source = SourceConfig(
        tokens=f"{config.data}/tokens",
        raw=f"{config.data}/raw",
        modalities=tuple(m.name for m in (*inputs, target)),
        require="all",
    )
    described = Path(config.out) / "modalities.yaml"
    described.parent.mkdir(parents=True, exist_ok=True)
    described.write_text(yaml.safe_dump(known.to_mapping(), sort_keys=False))
    alone = config.learns == "head" and config.lora is None
    return PretrainConfig(
        out=config.out,
        modalities=str(described),
        tokenizers=tokenizers,
        data=DataConfig(
            sources=(_drawn(config, source, known),),
            split=config.split,
            validation_split=config.validation_split,
            cache=_cache(config),
        ),
        loop=config.loop,
        model=model.config,
        masking=MaskingConfig(
            num_inputs=(num_inputs, num_inputs),
            num_targets=(target.num_tokens, target.num_tokens),
            components=(component,),
        ),
        init="" if fresh else str(base),
        warm_start=WarmStartConfig(steps=config.loop.steps) if alone else None,
        lora=config.lora,
        eval_samples=config.eval_samples,
    )


def _keys(config: FinetuneConfig, source: SourceConfig, known: ModalitySet) -> list[str]:
    """Names of the training samples that have the inputs and the target."""
    opened = Source(source, config.split, known, _cache(config), 1.0)
    return opened.keys(np.arange(opened.num_samples))


def _cache(config: FinetuneConfig) -> str:
    return f"{config.out}/cache"


def _drawn(config: FinetuneConfig, source: SourceConfig, known: ModalitySet) -> SourceConfig:
    """A source of which training leaves out all but ``labels`` samples."""
    if not config.labels:
        return source
    keys = _keys(config, source, known)
    num_crops = CropSettings.read(Path(source.tokens, config.split)).num_crops
    others = {sample_key(key, number) for key in keys for number in range(1, num_crops)}
    keys = [key for key in keys if key not in others]  # a picture's crops are drawn together
    drawn = set(drawn_keys(keys, config))
    path = Path(config.out) / "left_out.txt"
    path.write_text("".join(f"{key}\n" for key in keys if key not in drawn))
    return replace(source, exclude=str(path))


def _judged(
    config: FinetuneConfig, inputs: tuple[Modality, ...], target: Modality, out: Path
) -> Matrix:
    settings = MatrixSettings(
        samples=config.eval_samples,
        split=config.validation_split,
        conditions="+".join(m.name for m in inputs),
        targets=target.name,
        seed=config.loop.seed,
    )
    matrix = evaluate_matrix(Path(config.out) / "model", Path(config.data), out, settings)
    assert matrix is not None  # a single cell, which is the first rank's
    return matrix


def _num_learning(config: FinetuneConfig, tuned: FourM, checkpoint: Path) -> int:
    """Numbers that learned: the adapters', those of new rows, or all."""
    if config.lora is not None:
        return sum(math.prod(shape) for shape in WeightFiles.open(checkpoint).shapes.values())
    if config.learns == "all":
        return sum(p.numel() for p in tuned.parameters())
    sizes, found = dict(tuned.named_parameters()), 0
    for name, blocks in Transplant.read(Path(config.out) / TRANSPLANT_FILE).learners.items():
        whole = sizes[name]
        rows = len(whole) if blocks is None else sum(last - first for first, last in blocks)
        found += rows * whole.numel() // len(whole)
    return found


def _known(figures: dict[str, Figure], value: Callable[[Figure], float | None]) -> dict[str, float]:
    found = {name: value(figure) for name, figure in figures.items()}
    return {name: number for name, number in found.items() if number is not None}
