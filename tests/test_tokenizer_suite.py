"""The tokenizer suite: every combination codes a sample alone as in a batch, and wrong settings
are named.
"""

import itertools
import sys

import numpy as np
import pytest
import torch
from fourm_tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from fourm_tokenizers.code_use import CodeUse
from fourm_tokenizers.diffusion import DiffusionConfig
from fourm_tokenizers.evaluate import ms_ssim, sharpness
from fourm_tokenizers.losses import PatchDiscriminator, PerceptualDistance, TrainedTokenizer
from fourm_tokenizers.picture import load_autoencoder, save_autoencoder
from fourm_tokenizers.quantizers.fsq import FSQConfig
from fourm_tokenizers.quantizers.lfq import LFQConfig
from fourm_tokenizers.quantizers.residual import ResidualConfig
from fourm_tokenizers.quantizers.vq import VQConfig
from fourm_tokenizers.settings import AdversarialConfig, TokenizerConfig

from fourm.config import from_mapping
from fourm.modalities import Modality
from fourm.raw.image import Image

FSQ = FSQConfig(levels=(4, 4, 4))
VQ = VQConfig(codebook_size=32, code_dim=8)
LFQ = LFQConfig(codebook_size=64)
RESIDUAL = ResidualConfig(codebook_size=16, code_dim=8, num_codebooks=3)
SMALL = {"dim": 32, "num_heads": 2, "encoder_depth": 1, "decoder_depth": 1}
PICTURE = {"image_size": 16, "patch_size": 4, "channels": 3, **SMALL}
DIFFUSION = DiffusionConfig(channels=(16, 32), condition_channels=8, steps=3)
COMBINATIONS = {
    "vit fsq": dict(PICTURE, quantizer=FSQ),
    "vit vq": dict(PICTURE, quantizer=VQ),
    "vit lfq": dict(PICTURE, quantizer=LFQ),
    "vit residual": dict(PICTURE, quantizer=RESIDUAL),
    "conv fsq": dict(PICTURE, quantizer=FSQ, encoder="conv", decoder="conv"),
    "diffusion": dict(PICTURE, quantizer=FSQ, decoder="diffusion", diffusion=DIFFUSION),
    "list": dict(PICTURE, quantizer=FSQ, num_tokens=6),
    "classes": dict(PICTURE, quantizer=FSQ, channels=1, num_classes=5),
    "features": dict(SMALL, image_size=4, patch_size=1, channels=24, features=True, quantizer=VQ),
    "vectors": dict(SMALL, channels=20, num_tokens=4, features=True, quantizer=VQ),
}


def values_for(config: AutoencoderConfig, num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if config.num_classes:
        return torch.randint(
            0, config.num_classes, (num, config.image_size, config.image_size), generator=generator
        )
    shape = (
        (config.channels, config.image_size, config.image_size)
        if config.image_size
        else (config.channels,)
    )
    return torch.rand(num, *shape, generator=generator) * 2 - 1


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_sample_alone_gets_the_ids_and_the_picture_it_gets_in_a_batch(name, tmp_path):
    config = AutoencoderConfig(**COMBINATIONS[name])
    torch.manual_seed(0)
    model = Autoencoder(config)
    torch.nn.init.normal_(model.to_code.weight, std=0.5)
    values = values_for(config, 8)
    model.train()(values)  # codebooks learned by averages begin with the first batch
    model.eval()
    ids = model.encode(values)
    places = config.num_tokens or config.grid**2
    assert (
        ids.shape == (8, places * config.quantizer.codes_per_place)
        and ids.min() >= 0
        and ids.max() < config.codebook_size
    )
    together = model.decode(ids)
    assert torch.equal(ids, model(values).ids)
    for i in range(8):
        assert torch.equal(model.encode(values[i : i + 1])[0], ids[i])
        assert torch.allclose(model.decode(ids[i : i + 1])[0], together[i], atol=1e-4)
    save_autoencoder(model, tmp_path)
    again = load_autoencoder(tmp_path)
    assert again.config == config and torch.equal(again.encode(values), ids)
    assert torch.allclose(again.decode(ids), together, atol=1e-5)


@pytest.mark.parametrize("quantizer", [FSQ, VQ, LFQ, RESIDUAL], ids=lambda q: q.type_name)
def test_codes_of_ids_are_what_the_forward_pass_gave(quantizer):
    torch.manual_seed(0)
    model = quantizer.build()
    latents = torch.randn(16, 9, quantizer.latent_dim)
    for _ in range(3):
        model(latents)
    model.eval()
    quantized = model(latents)
    assert torch.allclose(model.codes(quantized.ids), quantized.codes, atol=1e-5)
    assert quantized.loss == 0 and CodeUse.of(quantized.ids, quantizer.size).usage > 0.1


def test_gradients_reach_the_encoder_through_every_codebook():
    for quantizer in (FSQ, VQ, LFQ, RESIDUAL):
        latents = torch.randn(8, 5, quantizer.latent_dim, requires_grad=True)
        quantized = quantizer.build()(latents)
        (quantized.codes.sum() + quantized.loss).backward()
        assert latents.grad is not None and latents.grad.abs().sum() > 0, quantizer.type_name


def test_any_prefix_of_a_list_decodes_and_the_whole_list_uses_all_tokens():
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(**COMBINATIONS["list"])).eval()
    torch.nn.init.normal_(model.decoder.out.weight)
    for block in model.decoder.trunk.blocks:
        torch.nn.init.normal_(block.self_attention.proj.weight, std=0.3)
    ids = torch.randint(0, 64, (2, 6))
    pictures = [model.decode(ids[:, :k]) for k in range(1, 7)]
    for a, b in itertools.pairwise(pictures):
        assert a.shape == (2, 3, 16, 16) and (a - b).abs().max() > 1e-4
    rows = model.from_code(model.quantizer.codes(ids))
    # hidden = not given
    assert torch.allclose(model.decoder(rows, torch.tensor([3, 3])), pictures[2], atol=1e-5)


def test_diffusion_decoding_is_a_function_of_the_ids_alone():
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(**COMBINATIONS["diffusion"])).eval()
    ids = torch.randint(0, 64, (2, 16))
    first = model.decode(ids)
    torch.manual_seed(5)
    assert torch.equal(model.decode(ids), first)
    assert not torch.equal(model.decode(ids.flip(0))[0], first[0])


def test_code_use_counts_and_advises_below_a_tenth():
    use = CodeUse.of(torch.zeros(10, 50, dtype=torch.long), 256)
    assert (use.usage, use.perplexity, use.dead) == (1 / 256, 1.0, 255)
    assert use.advice("rgb", "take fewer codes") == "rgb uses 0 % of its codes: take fewer codes"
    assert CodeUse.of(torch.arange(256), 256).advice("rgb", "take fewer codes") == ""


def test_the_advice_for_a_codebook_out_of_use_names_another_one_than_the_one_at_hand():
    assert "{type: vq, codebook_size: 64} instead of levels" in FSQ.remedy
    assert "vq" in LFQ.remedy and "revive_below" in VQ.remedy and "vq" not in VQ.remedy
    for quantizer in (FSQ, VQ, LFQ, RESIDUAL):
        assert f"quantizer {quantizer.type_name}" not in quantizer.remedy


def test_the_discriminator_sees_detached_pictures_and_the_tokenizer_a_frozen_discriminator():
    config = TokenizerConfig(
        levels=(4, 4, 4),
        patch_size=4,
        adversarial=AdversarialConfig(weight=1.0, channels=8, layers=2, start=5),
    )
    torch.manual_seed(0)
    model = TrainedTokenizer(Autoencoder(AutoencoderConfig(**COMBINATIONS["vit fsq"])), config)
    values = values_for(model.tokenizer.config, 4)

    def gradients(step):
        model.zero_grad(set_to_none=True)
        model(values, step).adversarial.backward()
        tokenizer = sum(
            p.grad.abs().sum() for p in model.tokenizer.parameters() if p.grad is not None
        )
        discriminator = sum(p.grad.abs().sum() for p in model.discriminator.parameters())
        return float(tokenizer), float(discriminator)

    (before, learns), (after, same) = gradients(0), gradients(5)
    assert before == 0 and after > 0
    # its own gradient does not depend on the tokenizer's
    assert learns > 0 and same == pytest.approx(learns)
    assert isinstance(model.discriminator, PatchDiscriminator)


@pytest.mark.parametrize(
    "name, message",
    [
        ("timm:resnet18", "not at hand"),
        ("vgg", "is not lpips, timm:<model> or hf:<folder>"),
        ("hf:/no/such/folder", "not at hand"),
    ],
)
def test_a_perceptual_network_that_is_not_there_is_a_clear_message(name, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=message):
        PerceptualDistance(name)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "either levels or a quantizer"),
        ({"levels": [4], "quantizer": {"levels": [4]}}, "either levels or a quantizer"),
        ({"quantizer": {"type": "lfq", "codebook_size": 100}}, "power of two"),
        ({"quantizer": {"type": "vq"}}, "missing key 'codebook_size'"),
        ({"quantizer": {"type": "vq", "codebook_size": 1}}, "needs codebook_size 2 or more"),
        ({"quantizer": {"type": "vqq"}}, "'vqq' is not one of fsq, lfq, residual, vq"),
        ({"quantizer": {"levels": [4], "decay": 0.9}}, "unknown key 'decay'"),
        ({"levels": [4], "freeze_encoder": True}, "needs init"),
        ({"levels": [4], "dims": 3}, "unknown key 'dims'; did you mean 'dim'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        from_mapping(TokenizerConfig, settings, "tokenizer of rgb")


def test_a_tokenizer_that_does_not_fit_its_modality_is_named():
    m = Modality(name="p", kind="grid", raw=Image(size=16), vocab_size=64, grid=(2, 2))
    with pytest.raises(ValueError, match="makes 16 tokens, it declares 4"):
        TokenizerConfig(levels=(4, 4, 4), patch_size=4).model(m)
    with pytest.raises(ValueError, match="has 60 codes, it declares 64"):
        TokenizerConfig(levels=(4, 3, 5), patch_size=8).model(m)


def test_measures_of_pictures_know_sharp_from_blurred():
    from scipy import ndimage

    sharp = np.random.default_rng(0).integers(0, 255, (2, 48, 48, 3)).astype(np.uint8)
    blurred = ndimage.gaussian_filter(sharp, (0, 2, 2, 0))
    assert sharpness(sharp) > 3 * sharpness(blurred)
    assert ms_ssim(sharp, sharp) == pytest.approx(1.0, abs=1e-4) and ms_ssim(blurred, sharp) < 0.7
