"""FourM: packed equals a slow per-sample reference, absent modalities get exact zeros, files
round-trip and refuse misfits.
"""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, make_model, make_tokens

from fourm.batches.batch import MASK_QUERY
from fourm.modalities import ModalitySet
from fourm.model.loss import linear_cross_entropy
from fourm.model.model import FourM, ModelConfig, load_model


def plain_attention(module, rows, context, mask):
    """Explicit softmax attention of one sample: rows (n, D), context (m, D), mask (n, m) True =
    visible.
    """
    heads = module.num_heads
    q, k, v = module.qkv.weight.chunk(3)
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(0, 1)  # noqa: E731
    bias = (None,) * 3 if module.qkv.bias is None else module.qkv.bias.chunk(3)
    q, k, v = (
        split(F.linear(rows, q, bias[0])),
        split(F.linear(context, k, bias[1])),
        split(F.linear(context, v, bias[2])),
    )
    if module.q_norm is not None:
        q, k = module.q_norm(q), module.k_norm(k)
    scores = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    out = scores.softmax(-1) @ v
    return module.proj(out.transpose(0, 1).flatten(1))


def plain_forward(model, batch, b):
    """Decoder output of sample b alone, with explicit masks: how 4M is written down."""
    e, d = batch.encoder, batch.decoder
    i, n = int(e.lengths[:b].sum()), int(e.lengths[b])
    content = []
    for row in range(i, i + n):
        m = list(model.modalities)[int(e.modality[row])]
        if m.kind == "continuous":
            vectors = e.vectors[m.name]
            at = (vectors.rows == row).nonzero()[0, 0]
            content.append(model.vector_in[m.name](vectors.values[at]))
        else:
            content.append(model.tokens(e.modality[row : row + 1], e.token[row : row + 1])[0])
    place = (
        model.positions(e.modality[i : i + n], e.position[i : i + n]).added
        + model.modality[e.modality[i : i + n]]
    )
    content = torch.stack(content)
    if model.registers is not None:
        content = torch.cat([model.registers, content])
        place = torch.cat([torch.zeros(len(model.registers), place.shape[1]), place])
    rows = content + place
    everything = torch.ones(len(rows), len(rows), dtype=torch.bool)
    for block in model.encoder:
        normed = block.norm_self(rows)
        rows = rows + plain_attention(block.self_attention, normed, normed, everything)
        rows = rows + block.mlp(block.norm_mlp(rows))
    context = model.context(model.encoder_norm(rows)) + place

    j, m_rows = int(d.lengths[:b].sum()), int(d.lengths[b])
    kind, position, given = (t[j : j + m_rows] for t in (d.modality, d.position, d.input))
    modality = model.modality if model.decoder_modality is None else model.decoder_modality
    content = torch.where(
        (given == MASK_QUERY)[:, None], model.mask_token, model.tokens(kind, given.clamp_min(0))
    )
    rows = content + model.positions(kind, position).added + modality[kind]
    mask = kind[:, None] == kind[None]
    causal = torch.tensor([m.kind == "sequence" for m in model.modalities])[kind]
    mask &= ~causal[:, None] | torch.ones(m_rows, m_rows, dtype=torch.bool).tril()
    full = torch.ones(m_rows, len(context), dtype=torch.bool)
    for block in model.decoder:
        normed = block.norm_self(rows)
        rows = rows + plain_attention(block.self_attention, normed, normed, mask)
        rows = rows + plain_attention(
            block.cross_attention, block.norm_query(rows), block.norm_context(context), full
        )
        rows = rows + block.mlp(block.norm_mlp(rows))
    return model.decoder_norm(rows)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_registers": 3, "qk_norm": True, "norm_bias": True},
        {
            "gated_mlp": False,
            "qkv_bias": True,
            "proj_bias": True,
            "mlp_bias": True,
            "share_modality_embeddings": True,
        },
    ],
)
def test_packed_forward_equals_the_per_sample_reference(modalities, masker, options):
    model = make_model(modalities, **options)
    for p in model.parameters():
        if p.ndim == 1:
            torch.nn.init.normal_(p, mean=float(p.mean() > 0.5), std=0.2)
    batch = masker(make_tokens(modalities, 9), np.arange(9))
    with torch.no_grad():
        packed = model.decode(model.encode(batch.encoder), batch.decoder)
        start = 0
        for b in range(9):
            n = int(batch.decoder.lengths[b])
            assert torch.allclose(
                packed[start : start + n], plain_forward(model, batch, b), atol=2e-5
            ), b
            start += n


def test_loss_is_the_cross_entropy_of_each_row_under_its_own_vocabulary(modalities, masker, model):
    batch = masker(make_tokens(modalities, 6), np.arange(6))
    losses = model(batch)
    rows = model.decode(model.encode(batch.encoder), batch.decoder)
    expected = torch.zeros(len(modalities))
    for row, kind, target in zip(rows, batch.decoder.modality, batch.decoder.target, strict=True):
        logits = model.logits(row[None], list(modalities)[int(kind)].name)
        expected[kind] += F.cross_entropy(logits, target[None])
    assert torch.allclose(losses.sums, expected, rtol=1e-5)
    assert losses.counts.tolist() == list(batch.decoder.counts)


def test_chunked_cross_entropy_equals_the_whole_one_with_gradients():
    torch.manual_seed(0)
    rows, weight = (
        torch.randn(37, 8, dtype=torch.float64, requires_grad=True),
        torch.randn(11, 8, dtype=torch.float64, requires_grad=True),
    )
    targets = torch.randint(11, (37,))
    whole = F.cross_entropy(rows @ weight.T, targets, reduction="sum")
    chunked = linear_cross_entropy(rows, weight, targets, chunk_logits=44)
    assert torch.allclose(chunked.double(), whole, rtol=1e-6)
    for a, b in zip(
        torch.autograd.grad(chunked * 0.5, (rows, weight)),
        torch.autograd.grad(whole * 0.5, (rows, weight)),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-6)
    assert linear_cross_entropy(rows[:0], weight, targets[:0]) == 0


def test_embedding_and_head_of_a_code_are_its_own_vector_plus_those_of_its_levels(
    modalities, model
):
    levels = modalities["rgb"].levels
    rest, expected = 37, model.tokens.table[37].clone()
    offset = 1
    for size in levels:
        expected += model.tokens.levels[offset + rest % size]
        rest //= size
        offset += size
    rgb = torch.tensor([modalities.index("rgb")])
    assert torch.allclose(model.tokens(rgb, torch.tensor([37]))[0], expected, atol=1e-6)
    assert torch.allclose(model.tokens.weights(modalities["rgb"])[37], expected, atol=1e-6)


def test_tied_heads_begin_near_the_loss_of_a_guess(modalities, masker):
    torch.manual_seed(0)
    model = FourM(ModelConfig(dim=768, num_heads=12, tie_heads=True), modalities)
    with torch.no_grad():
        losses = model(masker(make_tokens(modalities, 8), np.arange(8)))
    guesses = zip(modalities, losses.sums, losses.counts, strict=True)
    above = {m.name: float(t / n) - np.log(m.vocab_size) for m, t, n in guesses if n}
    assert len(above) > 3 and max(above.values()) < 2.5


def test_a_modality_absent_from_a_batch_gets_exact_zero_gradients_not_none(modalities, masker):
    model = make_model(modalities)
    tokens = make_tokens(modalities, 4)
    for name in ("pixels", "caption", "code"):
        tokens.content[name].lengths[:] = 0
    losses = model(masker(tokens, np.array([0, 2, 5, 9])))
    losses.sums.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.vector_in["pixels"].weight.grad.abs().sum() == 0
    start, size = model.heads.vocabularies["code"]
    assert model.heads.table.grad[start : start + size].abs().sum() == 0


def test_saved_model_loads_equal_and_names_what_does_not_fit(modalities, masker, model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    loaded = FourM.from_pretrained(str(tmp_path / "m"))
    batch = masker(make_tokens(modalities, 3), np.arange(3))
    assert torch.equal(loaded(batch).sums, model(batch).sums)
    assert loaded.modalities.to_mapping() == model.modalities.to_mapping()

    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_model(tmp_path / "m")
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["model"]["dmi"] = 3
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="unknown key 'dmi'; did you mean 'dim'"):
        load_model(tmp_path / "m")
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        load_model(tmp_path)


def test_a_checkpoint_of_another_modality_set_is_refused_by_name(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    other = {**TINY, "modalities": {k: v for k, v in TINY["modalities"].items() if k != "depth"}}
    stranger = make_model(ModalitySet.from_mapping(other))
    from fourm.files.weights import load_weights

    with pytest.raises(ValueError, match="belongs to another model or modality set"):
        load_weights(stranger, tmp_path / "m" / "model.safetensors")


def test_registers_and_encoded_features_have_the_lengths_they_say(modalities, masker):
    model = make_model(modalities, num_registers=2)
    batch = masker(make_tokens(modalities, 5), np.arange(5))
    encoded = model.encode(batch.encoder)
    assert (encoded.lengths == batch.encoder.lengths + 2).all()
    assert encoded.features.shape == encoded.context.shape == (int(encoded.lengths.sum()), 32)
