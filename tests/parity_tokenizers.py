"""Tokenizers compared with recorded outputs of the reference: codes, pictures, denoising."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from fourm_tokenizers.noise import noise_betas
from fourm_tokenizers.released.divae import DiVAE
from fourm_tokenizers.released.load import load_tokenizer
from fourm_tokenizers.released.vqvae import VQVAE
from parity_tensors import SAMPLED_TOLERANCE, Comparison, compare, read_tensors, unpacked
from torch import Tensor


@torch.inference_mode()
def check_tokenizer(folder: Path) -> Iterator[Comparison]:
    """Codes and reconstructions of one picture, feature, class-map or vector tokenizer."""
    with tempfile.TemporaryDirectory() as scratch:
        model = load_tokenizer(unpacked(folder, Path(scratch)))
    expected, given = read_tensors(folder, "outputs"), read_tensors(folder, "inputs")
    pictures = given["x"]
    yield compare("encoder_out", model.encoder(model.prepared(pictures)), expected["encoder_out"])
    yield compare("latents", model.latents(pictures), expected["latents"])
    ids = model.encode(pictures)
    yield compare("tokens", ids, expected["tokens"])
    yield compare("quant", model.codes(ids), expected["quant"])
    if "tokens_to_embedding" in expected:
        yield compare(
            "tokens_to_embedding", model.codes(expected["tokens"]), expected["tokens_to_embedding"]
        )
    if isinstance(model, VQVAE):
        yield compare("decoded", model.decode(expected["tokens"]), expected["decoded"])
        if "decoded_other_size" in expected:
            yield compare(
                "decoded_other_size",
                model.decode(expected["tokens_other_size"]),
                expected["decoded_other_size"],
            )
    else:
        yield from _check_diffusion(model, given, expected)


def _check_diffusion(
    model: DiVAE, given: dict[str, Tensor], expected: dict[str, Tensor]
) -> Iterator[Comparison]:
    for key in expected:
        if key.startswith("alphas_cumprod/"):
            _, schedule, zero = key.split("/")
            betas = noise_betas(
                schedule, model.settings.num_train_timesteps, zero == "zero_snr=True"
            )
            yield compare(key, torch.cumprod(1 - betas, 0), expected[key])
    scheduler = model.scheduler("ddpm")
    noised = scheduler.add_noise(given["x"], given["noise"], given["timesteps"])
    yield compare("noised", noised, expected["noised"])
    if "velocity" in expected:
        yield compare(
            "velocity",
            scheduler.get_velocity(given["x"], given["noise"], given["timesteps"]),
            expected["velocity"],
        )
    latents = expected["quant"]
    times = "_".join(f"t{int(t)}" for t in given["timesteps"])
    yield compare(
        f"denoiser_{times}",
        model.decoder(noised, given["timesteps"], latents),
        expected[f"denoiser_{times}"],
    )
    yield compare(
        "denoiser_t300", model.decoder(given["noise"], 300, latents), expected["denoiser_t300"]
    )
    if "denoiser_t300_cond_mask" in expected:
        hidden = model.decoder(given["noise"], 300, latents, expected["cond_mask"])
        yield compare("denoiser_t300_cond_mask", hidden, expected["denoiser_t300_cond_mask"])
    for kind in ("sample", "epsilon", "v_prediction"):
        if f"ddim_step/{kind}" in expected:
            scheduler = model.scheduler("ddim", prediction=kind)
            scheduler.set_timesteps(5)
            step = scheduler.step(expected["denoiser_t300"], 699, given["noise"])
            yield compare(f"ddim_step/{kind}", step.prev_sample, expected[f"ddim_step/{kind}"])
    for kind, spacing in (
        ("ddim", "trailing"),
        ("ddim", "linspace"),
        ("ddim", "leading"),
        ("ddpm", "trailing"),
    ):
        key = f"{kind}5_{spacing}"
        if key in expected:
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(expected[key].shape, generator=generator)
            yield compare(f"{key} (first noise)", noise, expected["init_noise_seed0"])
            # the reference's DDPM scheduler takes no spacing: it always steps as "leading"
            scheduler = model.scheduler(kind, "leading" if kind == "ddpm" else spacing)
            yield compare(
                key,
                model.denoise(latents, noise, scheduler, 5, generator),
                expected[key],
                SAMPLED_TOLERANCE,
            )
