"""The tokenizer suite: every combination codes a sample alone as in a batch, trains, resumes bit
for bit, and says what is wrong.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fourm_tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from fourm_tokenizers.code_use import CodeUse
from fourm_tokenizers.controlnet import ControlNetDecoder
from fourm_tokenizers.diffusion import DiffusionConfig
from fourm_tokenizers.evaluate import main as evaluate_main
from fourm_tokenizers.evaluate import ms_ssim, sharpness
from fourm_tokenizers.losses import PatchDiscriminator, PerceptualDistance, TrainedTokenizer
from fourm_tokenizers.picture import PictureCodec, load_autoencoder, save_autoencoder
from fourm_tokenizers.quantizers.fsq import FSQConfig
from fourm_tokenizers.quantizers.lfq import LFQConfig
from fourm_tokenizers.quantizers.residual import ResidualConfig
from fourm_tokenizers.quantizers.vq import VQConfig
from fourm_tokenizers.settings import AdversarialConfig, TokenizerConfig
from fourm_tokenizers.train import main as train_main

from fourm.config import from_mapping
from fourm.data.shards import shard_path, write_shard
from fourm.demo.scenes_to_shards import write_scene_shard
from fourm.modalities import Modality, ModalitySet
from fourm.raw.image import Image
from fourm.raw.vectors import Vectors

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


TRAIN = (
    "{steps: 40, batch_size: 8, threads: 1, num_workers: 0, checkpoint_every: 20,"
    " keep_checkpoints: 9, optimizer: {name: muon}}"
)
TRAINED = {
    "vq": (
        "grid",
        "quantizer: {type: vq, codebook_size: 32, code_dim: 8}, patch_size: 4",
        "{type: image, size: 16}",
    ),
    "diffusion": (
        "grid",
        "levels: [4, 4, 4], patch_size: 4, decoder: diffusion, diffusion: {channels: [16, 32],"
        " steps: 3}",
        "{type: image, size: 16}",
    ),
    "list": ("set", "levels: [4, 4, 4], patch_size: 4, num_tokens: 6", "{type: image, size: 16}"),
    "adversarial": (
        "grid",
        "levels: [4, 4, 4], patch_size: 4, adversarial: {channels: 8, layers: 2, start: 10}",
        "{type: image, size: 16}",
    ),
}


def write_config(folder, name):
    kind, settings, raw = TRAINED[name]
    path = folder / f"{name}.yaml"
    path.write_text(
        f"raw: {folder}/raw\nout: {folder}/{name}\nmodalities:\n  rgb:\n    kind: {kind}\n    raw:"
        f" {raw}\n    tokenizer:"
        f" {{type: autoencoder, dim: 32, num_heads: 2, encoder_depth: 1, decoder_depth: 1,"
        f" {settings}, train: {TRAIN}}}\n"
    )
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("suite")
    write_scene_shard(root / "raw", "train", 0, 0, 64, 16)
    write_scene_shard(root / "raw", "val", 1, 0, 16, 16)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_standalone_config_trains_resumes_bit_for_bit_and_is_judged(
    name, shards, tmp_path, capsys
):
    config = write_config(shards, name)
    cache = ["--cache", str(shards / "cache")]
    train_main(["--config", str(config), *cache])
    done = shards / name / "rgb"
    shutil.copytree(shards / name, tmp_path / "again")
    for path in (tmp_path / "again" / "rgb" / "training" / "checkpoints").glob("*40"):
        shutil.rmtree(path)
    (tmp_path / "again" / "rgb" / "figures.json").unlink()
    train_main(["--config", str(config), "--out", str(tmp_path / "again"), *cache])
    assert (done / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "rgb" / "model.safetensors"
    ).read_bytes()
    figures = json.loads((done / "figures.json").read_text())
    assert {"psnr", "usage", "perplexity", "dead_codes"} <= set(figures)
    evaluate_main(["--config", str(config), "--out", str(tmp_path / "judged"), *cache])
    judged = json.loads((tmp_path / "judged" / "rgb.json").read_text())
    assert judged["psnr"] == pytest.approx(figures["psnr"], abs=0.05) and judged["bits"] > 0
    assert (tmp_path / "judged" / "rgb.png").is_file()
    if name == "list":
        assert list(judged["by_prefix"]) == ["1", "2", "4", "6"]
    codec = PictureCodec(done, ModalitySet.load(config)["rgb"])
    assert (
        len(codec.encode([np.zeros((16, 16, 3), np.uint8)])[0])
        == ModalitySet.load(config)["rgb"].num_tokens
    )
    capsys.readouterr()


@pytest.mark.slow
def test_a_second_stage_starts_from_the_first_at_a_higher_resolution_with_a_frozen_encoder(
    shards, tmp_path
):
    config = write_config(shards, "vq")
    cache = ["--cache", str(shards / "cache")]
    if not (shards / "vq" / "rgb" / "figures.json").is_file():
        train_main(["--config", str(config), *cache])
    write_scene_shard(tmp_path / "raw", "train", 0, 0, 32, 32)
    write_scene_shard(tmp_path / "raw", "val", 1, 0, 16, 32)
    larger = tmp_path / "larger.yaml"
    text = (
        config.read_text()
        .replace(f"{shards}/raw", f"{tmp_path}/raw")
        .replace(f"{shards}/vq", f"{tmp_path}/out")
    )
    larger.write_text(text.replace("size: 16", "size: 32"))
    first = shards / "vq" / "rgb"
    train_main(
        ["--config", str(larger), *cache, f"init={first}", "freeze_encoder=true", "train.steps=10"]
    )
    before, after = load_autoencoder(first), load_autoencoder(tmp_path / "out" / "rgb")
    assert after.config.image_size == 32
    assert torch.equal(
        before.encoder.trunk.blocks[0].mlp.fc_in.weight,
        after.encoder.trunk.blocks[0].mlp.fc_in.weight,
    )
    assert not torch.equal(before.decoder.out.weight, after.decoder.out.weight)


@pytest.mark.slow
def test_vectors_become_sets_of_tokens(tmp_path):
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(4, 24)).astype(np.float32)
    spec = Vectors(channels=24)
    for split, num in (("train", 64), ("val", 16)):
        members = [(f"{i:04d}", "npy", spec.write(rng.normal(size=4) @ basis)) for i in range(num)]
        write_shard(shard_path(tmp_path / "raw", split, "global", 0), members)
    config = tmp_path / "v.yaml"
    config.write_text(
        f"raw: {tmp_path}/raw\nout: {tmp_path}/out\nmodalities:\n  global:\n    kind: set\n   "
        f" raw: {{type: vectors, channels: 24}}\n"
        f"    tokenizer: {{type: autoencoder, quantizer: {{type: vq, codebook_size: 32, code_dim:"
        f" 8}}, num_tokens: 4, dim: 32, train: {TRAIN}}}\n"
    )
    m = ModalitySet.load(config)["global"]
    assert (m.num_tokens, m.vocab_size) == (4, 32)
    train_main(["--config", str(config), "--cache", str(tmp_path / "cache")])
    figures = json.loads((tmp_path / "out" / "global" / "figures.json").read_text())
    assert figures["cosine"] > 0.5
    codec = PictureCodec(tmp_path / "out" / "global", m)
    made = codec.decode(codec.encode([basis[0], basis[1:2]]))
    assert all(v.shape == (1, 24) for v in made)
    with pytest.raises(ValueError, match="expected numbers"):
        codec.encode([np.zeros(23, np.float32)])


@pytest.mark.slow
def test_codebook_use_is_logged_from_the_first_line_and_a_collapse_is_warned_of(tmp_path, caplog):
    """Pictures that are all the same need one code of 64."""
    spec = Image(size=16)
    for split in ("train", "val"):
        same = spec.write(np.full((16, 16, 3), 90, np.uint8))
        write_shard(
            shard_path(tmp_path / "raw", split, "rgb", 0),
            [(f"{i:04d}", "png", same) for i in range(32)],
        )
    config = write_config(tmp_path, "list")
    with caplog.at_level("WARNING"):
        train_main(
            [
                "--config",
                str(config),
                "--cache",
                str(tmp_path / "cache"),
                "train.log_every=1",
                "train.steps=12",
            ]
        )
    records = [
        json.loads(line)
        for line in (tmp_path / "list" / "rgb" / "training" / "log.jsonl").read_text().splitlines()
    ]
    assert {"usage", "perplexity", "dead_codes"} <= set(records[0])
    assert "% of its codes: take quantizer: {type: vq, codebook_size: 64}" in caplog.text


def test_learning_rates_grow_with_the_batch_where_they_are_said_per_samples(tmp_path):
    from fourm.training.loop import Loop
    from fourm.training.loop_config import LoopConfig
    from fourm.training.optimizers import OptimizerConfig

    config = LoopConfig(
        steps=1, batch_size=1024, optimizer=OptimizerConfig(lr=1e-4, per_samples=256)
    )
    loop = Loop(torch.nn.Linear(2, 2), SimpleNamespace(unit="samples"), config, tmp_path)
    assert loop._peaks[0][0] == pytest.approx(4e-4)


def tiny_stable_diffusion(folder, prediction="epsilon"):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(prediction_type=prediction).save_pretrained(folder / "scheduler")
    return folder


def test_a_controlnet_steers_a_frozen_stable_diffusion_from_a_folder(tmp_path):
    decoder = ControlNetDecoder.from_folder(tiny_stable_diffusion(tmp_path / "sd"), code_dim=5)
    trained = dict(decoder.named_parameters())
    assert trained and all(name.startswith(("control.", "condition.")) for name in trained)
    pictures, codes = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 16, 5)
    optimizer = torch.optim.Adam(trained.values(), 1e-3)
    torch.manual_seed(0)
    for _ in range(3):  # its outputs begin at zero, so the condition learns from the second step on
        optimizer.zero_grad()
        decoder.loss(pictures, codes).backward()
        optimizer.step()
    assert decoder.condition.weight.grad.abs().sum() > 0
    assert all(p.grad is None for part in decoder.frozen for p in part.parameters())
    made = decoder(codes, 16, [1, 2], steps=2)
    assert made.shape == (2, 3, 16, 16) and torch.equal(made, decoder(codes, 16, [1, 2], steps=2))
    assert not torch.equal(made, decoder(codes.flip(1), 16, [1, 2], steps=2))
    shutil.rmtree(tmp_path / "sd" / "vae")
    with pytest.raises(ValueError, match="its folder 'vae' is missing"):
        ControlNetDecoder.from_folder(tmp_path / "sd", code_dim=5)


@pytest.mark.slow
def test_killed_while_it_trains_a_tokenizer_goes_on_to_the_same_bytes(shards, tmp_path):
    """kill -9 of a run whose codebook learns by averages and revives dead codes: the hardest to
    repeat.
    """
    config = write_config(shards, "vq")
    command = [
        sys.executable,
        "-m",
        "fourm_tokenizers.train",
        "--config",
        str(config),
        "--cache",
        str(shards / "cache"),
        "train.steps=300",
        "train.checkpoint_every=7",
        "--out",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tokenizers", "data_prep", "."])}
    root = Path(__file__).parent.parent

    def run(out):
        return subprocess.Popen(
            [*command, str(out)], cwd=root, env=environment, stderr=subprocess.DEVNULL
        )

    assert run(tmp_path / "whole").wait(240) == 0
    killed = 0
    for pause in (0.05, 0.4):
        process = run(tmp_path / "cut")
        log = tmp_path / "cut" / "rgb" / "training" / "log.jsonl"
        before = log.read_text().count("step") if log.is_file() else 0
        while process.poll() is None and not (
            log.is_file() and log.read_text().count("step") > before
        ):
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
    assert killed
    assert run(tmp_path / "cut").wait(240) == 0
    assert (tmp_path / "whole" / "rgb" / "model.safetensors").read_bytes() == (
        tmp_path / "cut" / "rgb" / "model.safetensors"
    ).read_bytes()
