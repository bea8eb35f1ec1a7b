"""A quantizer is one file: one of the user's own is trained, saved and read like the built-in ones;
settings of other types are refused in YAML and passed over in files of earlier releases.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fourm_tokenizers.picture import PictureCodec, load_autoencoder
from fourm_tokenizers.quantizers import Quantized, Quantizer, QuantizerConfig
from fourm_tokenizers.quantizers.fsq import FSQConfig
from fourm_tokenizers.settings import TokenizerConfig
from fourm_tokenizers.train import main as train_main

from fourm.config import from_mapping
from fourm.demo.scenes_to_shards import write_scene_shard
from fourm.errors import UserError
from fourm.modalities import ModalitySet

RELEASES = Path(__file__).parent / "data" / "releases"


@dataclass(frozen=True, kw_only=True)
class RandomConfig(QuantizerConfig):
    """Fixed random codes (2202.01855): of the tests alone."""

    num_codes: int
    width: int = 4

    @property
    def size(self) -> int:
        return self.num_codes

    @property
    def latent_dim(self) -> int:
        return self.width

    def build(self) -> Quantizer:
        return RandomCodes(self)


class RandomCodes(Quantizer):
    def __init__(self, config):
        super().__init__()
        self.register_buffer("table", torch.randn(config.num_codes, config.width))

    def forward(self, latents):
        ids = torch.cdist(latents, self.table[None]).argmin(-1)
        chosen = self.codes(ids)
        codes = latents + (chosen - latents).detach()
        return Quantized(codes, ids, (latents - chosen).square().mean())

    def codes(self, ids):
        return self.table[ids]


def test_a_quantizer_of_ones_own_is_trained_saved_and_read(tmp_path):
    place = f"{__name__}:RandomConfig"
    write_scene_shard(tmp_path / "raw", "train", 0, 0, 16, 16)
    write_scene_shard(tmp_path / "raw", "val", 1, 0, 8, 16)
    config = tmp_path / "own.yaml"
    config.write_text(
        f"""
raw: {tmp_path}/raw
out: {tmp_path}/out
modalities:
  rgb:
    kind: grid
    vocab_size: 24
    raw: {{type: image, size: 16}}
    tokenizer:
      type: autoencoder
      quantizer: {{type: "{place}", num_codes: 24}}
      patch_size: 4
      dim: 16
      num_heads: 2
      encoder_depth: 1
      decoder_depth: 1
      train: {{steps: 3, batch_size: 4, threads: 1, num_workers: 0}}
"""
    )
    train_main(["--config", str(config), "--cache", str(tmp_path / "cache")])
    folder = tmp_path / "out" / "rgb"
    assert json.loads((folder / "config.json").read_text())["quantizer"] == {
        "type": place,
        "num_codes": 24,
        "width": 4,
    }
    codec = PictureCodec(folder, ModalitySet.load(config)["rgb"])
    assert isinstance(codec.model.quantizer, RandomCodes)
    ids = codec.encode([np.zeros((16, 16, 3), np.uint8)])
    assert ids[0].shape == (16,) and ids[0].max() < 24
    assert codec.decode(ids)[0].shape == (16, 16, 3)


@pytest.mark.parametrize("release", ["0.2.0", "0.3.0", "0.4.0"])
def test_a_description_with_the_settings_of_all_types_is_read_if_it_is_of_an_earlier_release(
    release, tmp_path
):
    shutil.copytree(RELEASES / release / "tokenizers" / "rgb", tmp_path / "rgb")
    assert load_autoencoder(tmp_path / "rgb").config.codebook_size == 60
    path = tmp_path / "rgb" / "config.json"
    described = json.loads(path.read_text())
    assert "decay" in described["quantizer"]
    path.write_text(json.dumps({**described, "format": 1}))
    with pytest.raises(UserError, match="unknown key 'code_dim'"):
        load_autoencoder(tmp_path / "rgb")
    described["quantizer"]["depth"] = 3
    path.write_text(json.dumps(described))
    with pytest.raises(UserError, match="unknown key 'depth'"):
        load_autoencoder(tmp_path / "rgb")


def test_settings_without_a_type_are_those_of_fsq():
    config = from_mapping(TokenizerConfig, {"quantizer": {"levels": [4, 3]}}, "tokenizer")
    assert config.codebook == FSQConfig(levels=(4, 3))
    with pytest.raises(UserError, match="unknown key 'decay'"):
        from_mapping(TokenizerConfig, {"quantizer": {"levels": [4], "decay": 0.9}}, "tokenizer")
