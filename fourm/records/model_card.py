"""The card (``README.md``) of a model folder, made of what is known and of nothing else.

Its head is YAML as the hub reads it. The licence is left open: it is the publisher's to state, and
depends on the data. A card ends in a line that says it was made by this software; it is written
anew as long as that line is there, so that one that a person has finished is never overwritten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

import fourm
from fourm.files.formats import FORMAT
from fourm.modalities import Modality, ModalitySet
from fourm.raw.image import Image
from fourm.raw.text import Text
from fourm.records.provenance import Provenance
from fourm.records.tokenizer_settings import figures_of

if TYPE_CHECKING:
    from fourm.model.model import FourM

CARD_FILE = "README.md"
HERE = "path/to/this/folder"  # what a snippet opens where no one has named the repository yet
_MADE = "<!-- made by fourm from the model; delete this line before you edit the text -->"
_HEAD = {
    "library_name": "fourm",
    "pipeline_tag": "any-to-any",
    "tags": ["any-to-any", "multimodal", "masked-modelling", "4m"],
}
_LICENCE = "# license: for the publisher to state, e.g. apache-2.0 (and see the data's)"


def write_card(folder: Path, text: str) -> None:
    """Write the card of a folder, unless a person has taken it over."""
    path = folder / CARD_FILE
    if not path.is_file() or _MADE in path.read_text(errors="replace"):
        path.write_text(text)


def model_card(model: FourM, name: str = HERE, tokenizers: Path | None = None) -> str:
    """The text of a card.

    Args:
        name: of the hub repository, for the snippet.
        tokenizers: folder of the trained tokenizers that are beside the weights; None if the model
            is alone.
    """
    modalities, known = model.modalities, model.provenance or Provenance()
    parts = [
        f"---\n{yaml.safe_dump(_HEAD, sort_keys=False)}{_LICENCE}\n---",
        "# A FourM model",
        _what_it_is(model),
        "## Use",
        f"```python\n{snippet(modalities, name, tokenizers is not None)}\n```",
        "## Modalities",
        _modality_table(modalities),
        "## Model",
        _size(model),
        "## Training",
        _training(known),
        *_held_out(modalities, known),
        *_generated(known),
        *_tokenizer_parts(modalities, tokenizers),
        "## Licence",
        "Not stated. Whoever publishes this model states it in the head of this file.",
        f"{_MADE}",
    ]
    return "\n\n".join(parts) + "\n"


def snippet(modalities: ModalitySet, name: str, with_tokenizers: bool) -> str:
    """Lines of Python that run as they are where ``name`` is a folder or repository."""
    if not with_tokenizers:
        return f'from fourm import FourM\n\nmodel = FourM.from_pretrained("{name}")'
    given, target = _example(modalities)
    lines = ["from fourm import AnyToAnyPipeline"]
    inputs = "{}"
    if given is not None and isinstance(given.raw, Image):
        side = given.raw.pixels
        lines = ["from PIL import Image", "", *lines]
        inputs = f'{{"{given.name}": Image.new("RGB", ({side}, {side}))}}'
    elif given is not None:
        inputs = f'{{"{given.name}": "words that describe it"}}'
    lines += [
        "",
        f'pipe = AnyToAnyPipeline.from_pretrained("{name}")',
        f'out = pipe({inputs}, targets=["{target.name}"], seed=0)',
        f'print(out["{target.name}"].values[0])',
    ]
    return "\n".join(lines)


def _example(modalities: ModalitySet) -> tuple[Modality | None, Modality]:
    """An input that one line can make (text, else a picture) and another modality to generate."""
    simple = [m for kind in (Text, Image) for m in modalities.inputs if isinstance(m.raw, kind)]
    for given in simple:
        for target in modalities.outputs:
            if given.raw_name != target.raw_name:
                return given, target
    return None, modalities.outputs[0]


def _what_it_is(model: FourM) -> str:
    outputs = ", ".join(m.name for m in model.modalities.outputs)
    return (
        "One transformer for several modalities, trained by masked modelling (4M,"
        " [2312.06647](https://arxiv.org/abs/2312.06647)): it is given any part of some of them and"
        f" generates {outputs}. Made with fourm {fourm.__version__} (file format {FORMAT})."
    )


def _modality_table(modalities: ModalitySet) -> str:
    rows = []
    for m in modalities:
        pixels = f", {m.raw.pixels} px" if m.raw.pixels else ""
        tokens = f"at most {m.num_tokens}" if m.kind == "sequence" else str(m.num_tokens)
        used = " and ".join(u for u, on in (("input", m.input), ("output", m.output)) if on)
        ids = f"{m.vocab_size:,}" if m.vocab_size else "-"
        rows.append((m.name, m.kind, f"{m.raw.type_name}{pixels}", ids, tokens, used))
    return _table(("name", "kind", "raw form", "ids", "tokens", "used as"), rows)


def _size(model: FourM) -> str:
    num, c = sum(p.numel() for p in model.parameters()), model.config
    return (
        f"{num:,} parameters: {c.encoder_depth} encoder and {c.decoder_depth} decoder layers of"
        f" width {c.dim} with {c.num_heads} heads."
    )


def _training(known: Provenance) -> str:
    lines = []
    if known.num_samples is not None:
        held = f", {known.num_held_out:,} held out" if known.num_held_out is not None else ""
        lines.append(f"* Data: {known.num_samples:,} samples{held}.")
    if known.steps is not None:
        of = f" of {known.batch_size:,} samples" if known.batch_size else ""
        lines.append(f"* {known.steps:,} steps{of}.")
    if known.max_inputs is not None and known.max_targets is not None:
        lines.append(
            f"* In each step, up to {known.max_inputs} tokens of a sample are shown and up to"
            f" {known.max_targets} predicted" + (_most_predicted(known) or ".")
        )
    if known.started_from_weights:
        lines.append("* It began with weights of another model.")
    return "\n".join(lines) or "How this model was trained is not recorded."


def _most_predicted(known: Provenance) -> str:
    if known.steps is None or known.batch_size is None or known.max_targets is None:
        return ""
    most = known.steps * known.batch_size * known.max_targets
    return f": at most {most:,} predicted tokens in all."


def _held_out(modalities: ModalitySet, known: Provenance) -> list[str]:
    if not known.held_out:
        return []
    rows = []
    for m in modalities.outputs:
        loss = known.held_out.get(f"loss/{m.name}")
        if loss is not None:
            rows.append((m.name, f"{loss:.3f}", f"{math.log(m.vocab_size):.3f}"))
    if "loss" in known.held_out:
        rows.append(("all", f"{known.held_out['loss']:.3f}", "-"))
    told = "Cross-entropy on held-out samples, nats a token, beside that of a uniform guess."
    return ["## Held-out loss", told, _table(("modality", "loss", "uniform"), rows)]


def _generated(known: Provenance) -> list[str]:
    if not known.figures:
        return []
    rows = [(name, f"{value:.4g}") for name, value in known.figures.items()]
    return ["## Figures of what it generates", _table(("figure", "value"), rows)]


def _tokenizer_parts(modalities: ModalitySet, folder: Path | None) -> list[str]:
    if folder is None or not modalities.tokenizers:
        return []
    rows = []
    for name, settings in modalities.tokenizers.items():
        figures = figures_of(folder, name, modalities)
        told = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        users = ", ".join(m.name for m in modalities if m.tokenizer == name)
        rows.append((name, str(settings.get("type", "")), users or "-", told or "-"))
    header = ("tokenizer", "type", "of", "on held-out samples")
    return ["## Tokenizers", _table(header, rows)]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
