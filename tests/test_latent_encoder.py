"""JAR as an option of the encoder: equal to a slow per-sample reference, sees all its input,
trains, generates, costs what the formula says.
"""

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokens
from test_model import plain_attention

from fourm.config import from_mapping
from fourm.model.encoder import Latent, Plain
from fourm.model.flops import encoder_flops, flops
from fourm.model.latent_rows import Spans
from fourm.model.model import FourM, ModelConfig
from fourm.model.positions import Places
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.state import SampleState

FUSION = {"num_tokens": 4, "iterations": 2, "stem_layers": 1}


@pytest.fixture(
    scope="module",
    params=[("latents", "pooled"), ("latents+stem", "pooled"), ("latents", "learned")],
    ids=lambda p: "-".join(p),
)
def fused(request, modalities):
    context, start = request.param
    return make_model(
        modalities, encoder_depth=4, encoder=Latent(**FUSION, context=context, start=start)
    )


def layer(block, rows):
    everything = torch.ones(len(rows), len(rows), dtype=torch.bool)
    rows = rows + plain_attention(
        block.self_attention, block.norm_self(rows), block.norm_self(rows), everything
    )
    return rows + block.mlp(block.norm_mlp(rows))


def resample(part, rows, start):
    q, keys = part.queries + start, torch.cat([part.null, rows])
    q = q + plain_attention(
        part.attention,
        part.norm_query(q),
        part.norm_rows(keys),
        torch.ones(len(q), len(keys), dtype=torch.bool),
    )
    return q + part.mlp(part.norm_mlp(q))


def in_space(m, position):
    """Where a token lies on the Z-curve over the picture, bit by bit; what is in no picture comes
    after.
    """
    if m.grid is None:
        return (1 << 30) + position
    y, x = (
        int((i + 0.5) / side * 4096)
        for i, side in zip(divmod(position, m.grid[1]), m.grid, strict=True)
    )
    return int("".join(a + b for a, b in zip(f"{y:013b}", f"{x:013b}", strict=True)), 2)


def span_means(rows, num):
    """Rows (n, D) cut into ``num`` spans, the mean of each."""
    n = len(rows)
    if not n:
        return rows.new_zeros(num, rows.shape[1])
    bounds = [(i * n // num, max((i + 1) * n // num, i * n // num + 1)) for i in range(num)]
    return torch.stack([rows[a:b].mean(0) for a, b in bounds])


def plain_encode(model, stream, b):
    """The encoder's latents for one sample, written down step by step."""
    content, at = model._embed_input(stream)
    place = at.added
    i, n = int(stream.lengths[:b].sum()), int(stream.lengths[b])
    rows, place = (content + place)[i : i + n], place[i : i + n]
    of = [list(model.modalities)[k] for k in stream.kinds[i : i + n]]
    along = [in_space(m, int(p)) for m, p in zip(of, stream.position[i : i + n], strict=True)]
    blocks, f = list(model.encoder), model.latents
    rows, found, at = layer(blocks[0], rows), [], f.place
    for part, wanted in ((f.images, False), (f.sequences, True)):
        mine = [j for j in range(n) if (of[j].kind == "sequence") == wanted]
        # tokens of one place keep the modalities' order
        mine = sorted(mine, key=lambda j: along[j])
        pooled = model.config.encoder.start == "pooled"
        start = span_means(rows[mine], 4) if pooled else 0.0
        if pooled and not wanted:
            at = at + span_means(place[mine], 4)
        found.append(resample(part, (rows + place)[mine], start))
    images, start = found
    if model.config.encoder.start == "pooled":
        start = start + images
    state = start
    for i, fuse in enumerate(f.fuse):
        ready = fuse.norm_state(state)
        seen = torch.ones(len(ready), len(images), dtype=torch.bool)
        state = ready + fuse.gates[0].tanh() * plain_attention(
            fuse.attention, ready, fuse.norm_images(images), seen
        )
        state = state + fuse.gates[1].tanh() * fuse.mlp(fuse.norm_mlp(state))
        for block in (blocks[1:3], blocks[3:])[i]:
            state = layer(block, state)
        if i == 0:
            state = f.carry[0] * state + start
    return model.encoder_norm(state), at


def test_packed_samples_equal_the_reference_of_each_alone(fused, modalities, masker):
    batch = masker(make_tokens(modalities, 5, lacking="caption"), np.arange(5))
    with torch.no_grad():
        encoded = fused.encode(batch.encoder)
        features = encoded.features.reshape(5, 4, -1)
        starts = np.cumsum(encoded.lengths) - encoded.lengths
        for b in range(5):
            wanted, at = plain_encode(fused, batch.encoder, b)
            assert torch.allclose(features[b], wanted, atol=1e-4)
            assert torch.allclose(
                encoded.context[starts[b] : starts[b] + 4], fused.context(wanted) + at, atol=1e-4
            )


def test_every_input_token_moves_the_output_and_every_weight_gets_a_gradient(
    fused, modalities, masker
):
    batch = masker(make_tokens(modalities, 4), np.arange(4))
    fused.zero_grad()
    losses = fused(batch)
    losses.sums.sum().backward()
    assert all(p.grad is not None for p in fused.parameters())
    assert all(
        p.grad.abs().max() > 0
        for n, p in fused.named_parameters()
        if n.startswith("latents.") and "carry" not in n
    )
    content, at = fused._embed_input(batch.encoder)
    place = at.added
    content = content.detach().requires_grad_()
    fused._embed_input, kept = lambda stream: (content, Places(place.detach())), fused._embed_input
    try:
        fused.encode(batch.encoder).features.square().sum().backward()
    finally:
        fused._embed_input = kept
    assert (content.grad.abs().sum(1) > 0).all()


def test_spans_take_every_row_once_and_repeat_rows_only_where_there_are_too_few():
    spans = Spans.of(np.array([10, 0, 2, 4]), 4)
    rows = torch.eye(16)
    mean = spans.mean(rows).reshape(4, 4, 16)
    assert torch.allclose(
        mean[0].sum(0)[:10] * torch.tensor([2.0, 2, 3, 3, 3, 2, 2, 3, 3, 3]), torch.ones(10)
    )
    assert (mean[1] == 0).all() and torch.equal(mean[3], rows[12:])
    assert torch.equal(mean[2], rows[[10, 10, 11, 11]])


def test_it_round_trips_and_generates(fused, modalities, tmp_path):
    fused.save_pretrained(tmp_path)
    again = FourM.from_pretrained(tmp_path)
    assert again.config.encoder == fused.config.encoder
    assert all(
        torch.equal(a, b)
        for a, b in zip(fused.state_dict().values(), again.state_dict().values(), strict=True)
    )
    state = SampleState(2, {}, {"caption": [np.array([50, 51, 3]), np.array([60, 3])]})
    made = Sampler(again.eval()).generate(
        state, "rgb", SamplingOptions(steps=2), np.array([0, 1]), ["caption"]
    )
    assert made.grids["rgb"].known.all()
    alone = SampleState(1, {}, {"caption": [np.array([60, 3])]})
    single = Sampler(again.eval()).generate(
        alone, "rgb", SamplingOptions(steps=2), np.array([1]), ["caption"]
    )
    assert (single.grids["rgb"].values[0] == made.grids["rgb"].values[1]).all()


def test_the_formula_is_what_torch_counts(modalities):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from fourm.batches.batch import StreamRows

    for encoder in (Plain(), Latent(**FUSION), Latent(**FUSION, context="latents+stem")):
        model = make_model(modalities, encoder_depth=4, encoder=encoder, attention="sdpa")
        rows, names = StreamRows(1), [m.name for m in modalities]
        rows.add(names.index("rgb"), np.zeros(12, int), np.arange(12), np.zeros(12, int))
        rows.add(names.index("caption"), np.zeros(5, int), np.arange(5), np.full(5, 50))
        stream = rows.encoder()
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model.encode(stream)
        assert counter.get_total_flops() == pytest.approx(
            encoder_flops(model.config, 12, 5), rel=1e-6
        )


def test_a_third_of_the_operations_is_saved_where_the_input_is_long():
    base = {"dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12}
    plain = flops(ModelConfig(**base), 224, 32, (256,))
    jar = flops(
        ModelConfig(**base, encoder=Latent(num_tokens=56, iterations=2, stem_layers=2)),
        224,
        32,
        (256,),
    )
    assert jar.encoder < 0.5 * plain.encoder and jar.total < 0.75 * plain.total


def test_wrong_settings_are_named(modalities):
    with pytest.raises(ValueError, match="stem_layers 5 is more than the encoder's 3 layers"):
        FourM(ModelConfig(encoder=Latent(num_tokens=4, stem_layers=5)), modalities)
    with pytest.raises(ValueError, match="do not go together"):
        from_mapping(ModelConfig, {"num_registers": 2, "fusion": FUSION}, "x")
