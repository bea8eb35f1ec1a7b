"""Pictures a second of a ViT tokenizer, encoding and training, against the same network written
plainly.

    python benchmarks/tokenizer_throughput.py [--threads 1] [--out FILE.json]

The plain one has the same weights and gives the same numbers, but explicit softmax attention over
(B, H, N, N) scores, separate projections of queries, keys and values, and separate gate and value
projections of the MLP: how such tokenizers are usually written down. Both are timed in turns in one
process, the median of several rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from fourm_tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from fourm_tokenizers.networks import Blocks
from fourm_tokenizers.quantizers.fsq import FSQConfig
from torch import Tensor

from fourm.model.blocks import Attention, Block

SIZE, PATCH, DIM, HEADS, DEPTH, BATCH = 448, 16, 384, 6, 4, 2


def plain_attention(a: Attention, rows: Tensor) -> Tensor:
    q, k, v = (
        rearrange(F.linear(rows, w), "b n (h k) -> b h n k", h=a.num_heads)
        for w in a.qkv.weight.chunk(3)
    )
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return a.proj(rearrange(scores.softmax(-1) @ v, "b h n k -> b n (h k)"))


def plain_blocks(trunk: Blocks, rows: Tensor) -> Tensor:
    for block in trunk.blocks:
        assert isinstance(block, Block)
        rows = rows + plain_attention(block.self_attention, block.norm_self(rows))
        normed = block.norm_mlp(rows)
        gate, value = (F.linear(normed, w) for w in block.mlp.fc_in.weight.chunk(2))
        rows = rows + block.mlp.fc_out(F.silu(gate) * value)
    return trunk.norm(rows)


def plain_encode(model: Autoencoder, pictures: Tensor) -> Tensor:
    rows = plain_blocks(model.encoder.trunk, model.encoder.patches(pictures))
    return model.quantizer(model.to_code(rows)).ids


def plain_loss(model: Autoencoder, pictures: Tensor) -> Tensor:
    quantized = model.quantizer(
        model.to_code(plain_blocks(model.encoder.trunk, model.encoder.patches(pictures)))
    )
    decoder = model.decoder
    rows = decoder.out(
        plain_blocks(decoder.trunk, model.from_code(quantized.codes) + decoder.position)
    )
    side = SIZE // PATCH
    made = rearrange(rows, "b (h w) (p q c) -> b c (h p) (w q)", h=side, p=PATCH, q=PATCH)
    return quantized.loss + model.loss(made, pictures)


def rate(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Pictures a second of each way, timed in turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return {name: BATCH / statistics.median(spent[1:]) for name, spent in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = AutoencoderConfig(
        image_size=SIZE,
        patch_size=PATCH,
        channels=3,
        quantizer=FSQConfig(levels=(8, 8, 8, 5)),
        dim=DIM,
        num_heads=HEADS,
        encoder_depth=DEPTH,
        decoder_depth=DEPTH,
    )
    model = Autoencoder(config)
    for module in model.modules():
        if isinstance(module, Block):
            torch.nn.init.normal_(module.self_attention.proj.weight, std=0.02)
            torch.nn.init.normal_(module.mlp.fc_out.weight, std=0.02)
    pictures = torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        same = (model.encode(pictures) == plain_encode(model, pictures)).float().mean().item()
    assert same > 0.999, same

    def step(loss: Callable[[], Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    with torch.no_grad():
        encoding = rate(
            {
                "ours": lambda: model.encode(pictures),
                "plain": lambda: plain_encode(model, pictures),
            },
            options.rounds,
        )
    training = rate(
        {
            "ours": lambda: step(lambda: model(pictures).loss),
            "plain": lambda: step(lambda: plain_loss(model, pictures)),
        },
        options.rounds,
    )
    figures = {
        "tokens": (SIZE // PATCH) ** 2,
        "dim": DIM,
        "depth": [DEPTH, DEPTH],
        "threads": options.threads,
        "torch": torch.__version__,
        "encoding": {**encoding, "ratio": encoding["ours"] / encoding["plain"]},
        "training": {**training, "ratio": training["ours"] / training["plain"]},
    }
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    sys.exit(0 if min(figures["encoding"]["ratio"], figures["training"]["ratio"]) > 1 else 1)


if __name__ == "__main__":
    main()
