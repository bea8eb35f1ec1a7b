"""Tokenizers of every kind train from a config, resume bit for bit, build on one another and warn
of codes out of use.
"""

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
from fourm_tokenizers.controlnet import ControlNetDecoder
from fourm_tokenizers.evaluate import main as evaluate_main
from fourm_tokenizers.picture import PictureCodec, load_autoencoder
from fourm_tokenizers.train import main as train_main

from fourm.data.shards import shard_path, write_shard
from fourm.demo.scenes_to_shards import write_scene_shard
from fourm.modalities import ModalitySet
from fourm.raw.image import Image
from fourm.raw.vectors import Vectors

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
    arguments = [
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

    command = [sys.executable, "-m", "fourm_tokenizers.train", *arguments, str(tmp_path / "cut")]
    train_main([*arguments, str(tmp_path / "whole")])
    killed = 0
    for pause in (0.05, 0.4):
        process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL)
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
    train_main([*arguments, str(tmp_path / "cut")])
    assert (tmp_path / "whole" / "rgb" / "model.safetensors").read_bytes() == (
        tmp_path / "cut" / "rgb" / "model.safetensors"
    ).read_bytes()
