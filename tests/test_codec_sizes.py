"""A modality's sizes are told by its codec: the built-in ones, one of the user's own, or the YAML;
nothing heavy is imported for it.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from fourm.codec_types import Sizes
from fourm.errors import UserError
from fourm.modalities import ModalitySet

ROOT = Path(__file__).parents[1]


class Bytes:
    """A codec whose settings have words of their own."""

    @staticmethod
    def sizes(settings, raw):
        side = raw.pixels // settings["stride"]
        return Sizes(vocab_size=2 ** settings["bits"], grid=(side, side), num_tokens=side)


def modality(tokenizer, **entry):
    entry = {"kind": "grid", "raw": {"type": "image", "size": 32}, **entry}
    read = ModalitySet.from_mapping({"modalities": {"m": {**entry, "tokenizer": tokenizer}}})
    return read["m"]


@pytest.mark.parametrize(
    "settings, vocab_size, levels, grid",
    [
        ({"levels": [4, 3, 5], "patch_size": 8}, 60, (4, 3, 5), (4, 4)),
        ({"quantizer": {"levels": [4, 4]}, "patch_size": 4}, 16, (4, 4), (8, 8)),
        ({"quantizer": {"type": "vq", "codebook_size": 9}, "patch_size": 16}, 9, (), (2, 2)),
    ],
)
def test_a_learned_tokenizer_tells_its_ids_and_its_grid(settings, vocab_size, levels, grid):
    m = modality({"type": "autoencoder", **settings})
    assert (m.vocab_size, m.levels, m.grid) == (vocab_size, levels, grid)


def test_a_residual_codebook_makes_several_ids_of_each_place_of_a_list():
    quantizer = {"type": "residual", "codebook_size": 9, "num_codebooks": 3}
    m = modality({"type": "autoencoder", "quantizer": quantizer, "num_tokens": 4}, kind="set")
    assert (m.vocab_size, m.num_tokens) == (9, 12)


def test_a_codec_of_ones_own_tells_its_sizes_and_yaml_has_the_last_word():
    settings = {"type": f"{__name__}:Bytes", "bits": 5, "stride": 8}
    assert (modality(settings).vocab_size, modality(settings).grid) == (32, (4, 4))
    assert modality(settings, kind="set").num_tokens == 4
    assert modality(settings, vocab_size=40, grid=[2, 2]).vocab_size == 40


def test_a_codec_that_cannot_be_imported_is_missed_only_where_a_size_is():
    settings = {"type": "no.such.module:Codec", "bits": 5}
    assert modality(settings, vocab_size=40, grid=[2, 2]).num_tokens == 4
    with pytest.raises(UserError, match=r"modality m: tokenizer type .* cannot be loaded"):
        modality(settings, vocab_size=40)
    with pytest.raises(UserError, match="needs vocab_size or a tokenizer that tells it"):
        modality({"type": f"{__name__}:Sizes"}, grid=[2, 2])
    with pytest.raises(UserError, match="modality m: levels must be whole numbers from 2 on"):
        modality({"type": "autoencoder", "levels": 8})


def test_reading_a_set_with_learned_tokenizers_imports_no_network():
    program = (
        "import sys; from fourm.modalities import ModalitySet;"
        "ModalitySet.load('configs/modalities/demo.yaml');"
        "print([name for name in ('torch', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT}/tokenizers"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
