"""Labellers that write or read texts, here small ones of random weights: captions, vectors of
texts, normals that a text asks for.
"""

import numpy as np
import pytest
import torch
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples
from labeller_networks import PICTURES, SAMPLES

from fourm.raw.normal import Normal
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors


def word_tokenizer():
    """A word tokenizer in the form transformers reads."""
    t = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "two", "dogs", "in", "the", "sky"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return t.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=8,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[CLS]",
        eos_token="[SEP]",
    )


@pytest.mark.slow
def test_captions_are_strings_and_those_of_one_picture_do_not_depend_on_its_neighbours(
    tmp_path,
):
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 11,
        "encoder_hidden_size": 16,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
        "patch_size": 16,
    }
    t.BlipForConditionalGeneration(
        t.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    ).save_pretrained(tmp_path / "blip")
    word_tokenizer().save_pretrained(tmp_path / "blip")
    label = open_labeller(f"caption:{tmp_path / 'blip'}")
    together = label(SAMPLES, Text())
    assert len(together) == 3 and all(isinstance(line, str) for line in together)
    assert [label(Samples([p]), Text())[0] for p in PICTURES] == together


@pytest.mark.slow
def test_text_becomes_a_vector_for_the_sentence_or_one_for_each_token(tmp_path):
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    t.T5EncoderModel(
        t.T5Config(vocab_size=11, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    word_tokenizer().save_pretrained(tmp_path / "t5")
    spec = Vectors(channels=16)
    rows = open_labeller(f"tokens:{tmp_path / 't5'}")(SAMPLES, spec)
    assert [len(r) for r in rows] == [2, 5, 0] and spec.check(rows[1]).shape == (5, 16)
    alone = open_labeller(f"tokens:{tmp_path / 't5'}")(Samples(PICTURES[:1], ["a cat"]), spec)[0]
    assert np.allclose(alone, rows[0], atol=1e-5)  # padding beside longer captions changes nothing
    mean = open_labeller(f"sentence:{tmp_path / 't5'}")(Samples(PICTURES[:1], ["a cat"]), spec)[0]
    assert np.allclose(mean, alone.mean(0) / np.linalg.norm(alone.mean(0)), atol=1e-5)


@pytest.mark.slow
def test_marigold_gives_unit_normals(tmp_path):
    t = pytest.importorskip("transformers")
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        MarigoldNormalsPipeline,
        UNet2DConditionModel,
    )
    from tokenizers.processors import TemplateProcessing

    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    torch.manual_seed(0)
    encoder = t.CLIPTextModel(
        t.CLIPTextConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            vocab_size=11,
        )
    )
    unet = UNet2DConditionModel(
        in_channels=8,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        sample_size=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    MarigoldNormalsPipeline(
        unet=unet,
        vae=vae,
        prediction_type="normals",
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
        text_encoder=encoder,
        tokenizer=tokenizer,
        default_denoising_steps=1,
        default_processing_resolution=0,
    ).save_pretrained(tmp_path / "marigold")
    spec = Normal(size=16)
    (made,) = open_labeller(f"marigold:{tmp_path / 'marigold'}")(Samples(PICTURES[:1]), spec)
    assert np.allclose(np.linalg.norm(spec.check(made), axis=-1), 1, atol=1e-4)
