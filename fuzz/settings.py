"""Targets that read settings: YAML of any form, and configs of every kind with wrong parts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fourm.alignment.aligner import AlignConfig
from fourm.alignment.unimos import AdaptConfig
from fourm.batches.mask_config import MaskingConfig
from fourm.config import apply_override, from_mapping, read_yaml
from fourm.errors import UserError
from fourm.files.yaml_files import parse
from fourm.modalities import ModalitySet
from fourm.sampling.options import SamplingOptions
from fourm.training.pretrain import PretrainConfig
from fuzz.inputs import files_like, nested, trees_like
from fuzz.target import Target

CONFIGS = Path(__file__).parents[1] / "configs"
_BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(i + 1)}: &{chr(i + 1)} [{', '.join([f'*{chr(i)}'] * 9)}]\n" for i in range(97, 121)
)
_MERGED = "a: &a {x: 1}\n" + "".join(
    f"{chr(i + 1)}: &{chr(i + 1)} {{<<: [{', '.join([f'*{chr(i)}'] * 9)}]}}\n"
    for i in range(97, 121)
)
TEXTS = (
    _BOMB,
    _MERGED,
    nested(),
    nested("{a: ", "}"),
    "a: !!python/object/apply:os.system [touch x]\nb: !!python/name:os.system\n",
    "a: !!int ''\nb: !!float x\nc: !!bool x\nd: !!timestamp x\ne: !!binary '='\n",
    "? [a]\n: b\n!!set {a, b}: c\n",
    "a: &a {b: *a}\nc: 0o7\nd: 0b1\ne: 1:30:60\nf: 2001-12-14t21:59:43.10-05:30\n",
    "a: " + "9" * 5000 + "\nb: 1e999\nc: .inf\nd: .nan\n<<: {x: 1}\n",
    "base: f\nx: {base: ../f}\n",
    "%YAML 1.1\n---\na: |\n  b\n--- 2\n...\n",
)


@cache
def _trees() -> dict[str, list[Any]]:
    """Configs of this repository, each with its bases, by their folder."""
    kinds = ("modalities", "masking", "pretrain", "generate", "tokenizers", "alignment")
    return {
        kind: [read_yaml(path) for path in sorted((CONFIGS / kind).glob("*.yaml"))]
        for kind in kinds
    }


def read_text(data: bytes, folder: Path) -> None:
    """A YAML file, as a config and as what stands behind a key of the command line."""
    text = data.decode("utf-8", "replace")
    try:
        apply_override({}, f"a.b={text}")
    except UserError as error:
        assert "\n" not in str(error)
    (folder / "f").write_bytes(data)
    read_yaml(folder / "f")
    parse(text, "f")


def read_modalities(tree: Any, folder: Path) -> None:
    """A set of modalities, which can be written down and read again."""
    found = ModalitySet.from_mapping(_mapping(tree), "f")
    found.table()
    assert ModalitySet.from_mapping(found.to_mapping(), "f") == found


def read_masking(tree: Any, folder: Path) -> None:
    """A mixture of masks."""
    from_mapping(MaskingConfig, tree, "f")


def read_pretrain(tree: Any, folder: Path) -> None:
    """A training."""
    from_mapping(PretrainConfig, tree, "f")


def read_sampling(tree: Any, folder: Path) -> None:
    """Settings of sampling."""
    for name, entry in _mapping(tree).items():
        SamplingOptions.read(entry, f"f: {name}")


def read_alignment(tree: Any, folder: Path) -> None:
    """An alignment or an adaptation."""
    for kind in (AlignConfig, AdaptConfig):
        try:
            from_mapping(kind, tree, "f")
        except UserError as error:
            assert "\n" not in str(error)


def read_from_file(tree: Any, folder: Path) -> None:
    """A tree as the YAML file that it would be, with an override."""
    (folder / "f").write_text(yaml.safe_dump(tree))
    data = read_yaml(folder / "f")
    for key in list(data)[:2]:
        if re.fullmatch(r"[a-z_]+", str(key)):
            apply_override(data, f"{key}.x=1")


def _mapping(tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise UserError("no mapping")
    return tree


def targets() -> Iterator[Target]:
    """All of this file."""

    def texts() -> SearchStrategy[bytes]:
        small = [p for p in sorted(CONFIGS.rglob("*.yaml")) if p.stat().st_size < 1500]
        return files_like([*(t.encode() for t in TEXTS), *(p.read_bytes() for p in small[:9])])

    yield Target(name="yaml", inputs=texts, run=read_text, takes_bytes=True, share=0.5, seconds=10)
    for name, run, share in (
        ("modalities", read_modalities, 0.5),
        ("masking", read_masking, 1),
        ("pretrain", read_pretrain, 0.6),
        ("generate", read_sampling, 0.6),
        ("alignment", read_alignment, 1),
    ):

        def trees(name: str = name) -> SearchStrategy[Any]:
            return trees_like(_trees()[name])

        yield Target(name=f"config-{name}", inputs=trees, run=run, share=share)
    both = lambda: st.one_of(  # noqa: E731
        *(trees_like(_trees()[kind]) for kind in ("masking", "generate", "alignment"))
    )
    yield Target(name="config-file", inputs=both, run=read_from_file, share=0.4)
    yield Target(
        name="config-tokenizers",
        inputs=lambda: trees_like(_trees()["tokenizers"]),
        run=_read_tokenizers,
        share=0.6,
    )


def _read_tokenizers(tree: Any, folder: Path) -> None:
    """A tokenizer's settings, as its training reads them."""
    from fourm_tokenizers.settings import TokenizerConfig

    data = {k: v for k, v in _mapping(tree).items() if k not in ("raw", "out")}
    for settings in ModalitySet.from_mapping(data, "f").tokenizers.values():
        given = {key: value for key, value in settings.items() if key != "type"}
        from_mapping(TokenizerConfig, given, "f")
