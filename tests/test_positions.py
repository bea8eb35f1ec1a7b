"""Places of rows: rotary angles make attention a function of distance, in training, in parallel and
row by row; what is added stays what it was.
"""

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokens
from uncached_decoder import UncachedDecoder

from fourm.batches.tokens import Ragged, SampleTokens
from fourm.errors import UserError
from fourm.model.model import ModelConfig
from fourm.model.positions import axial_rotation
from fourm.sampling.autoregressive import CachedDecoder


def test_scores_depend_on_the_distance_of_rows_alone():
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 16, dtype=torch.float64), torch.randn(1, 2, 16, dtype=torch.float64)

    def score(a, b):
        turned = [axial_rotation(torch.tensor([place]), 16)(x) for place, x in ((a, q), (b, k))]
        return (turned[0] * turned[1]).sum(-1)

    near = score((3.0, 5.0), (1.0, 9.0))
    assert torch.allclose(near, score((13.0, 0.0), (11.0, 4.0)), atol=1e-6)
    assert not torch.allclose(near, score((3.0, 5.0), (9.0, 1.0)), atol=1e-3)
    assert torch.allclose(score((2.0, 2.0), (2.0, 2.0)), (q * k).sum(-1))


def test_cells_of_one_place_have_one_angle_whatever_the_grid(modalities):
    model = make_model(modalities, positions="rotary")
    rgb, depth = modalities.index("rgb"), modalities.index("depth")
    kinds, places = torch.tensor([rgb, depth]), torch.tensor([5, 5])
    turn = model.positions(kinds, places).turn
    assert torch.equal(turn.cos[0], turn.cos[1])


@pytest.mark.parametrize("positions", ["rotary", "both"])
@pytest.mark.parametrize("num_registers", [0, 2])
def test_a_sample_is_the_same_alone_and_in_a_batch(modalities, masker, positions, num_registers):
    model = make_model(modalities, positions=positions, num_registers=num_registers)
    tokens = make_tokens(modalities, 5, lacking="caption")
    draws = np.arange(5)
    with torch.no_grad():
        together = model(masker(tokens, draws)).sums.double()
        alone = torch.zeros_like(together)
        for i in range(5):
            content = {
                name: Ragged.of_one(held.parts[0], held.starts[i : i + 1], held.lengths[i : i + 1])
                for name, held in tokens.content.items()
            }
            part = SampleTokens(tokens.samples[i : i + 1], content)
            alone += model(masker(part, draws[i : i + 1])).sums
    assert torch.allclose(together, alone, rtol=1e-4)


@pytest.mark.parametrize("positions", ["added", "rotary", "both"])
def test_decoding_with_a_cache_equals_decoding_without(modalities, masker, positions):
    model = make_model(modalities, positions=positions)
    batch = masker(make_tokens(modalities, 3), np.arange(3))
    tokens = torch.randint(40, 120, (6, 3))
    caption = modalities.index("caption")
    with torch.no_grad():
        encoded = model.encode(batch.encoder)
        decoders = [kind(model, encoded, 6) for kind in (CachedDecoder, UncachedDecoder)]
        for row in tokens:
            cached, plain = (decoder.step(caption, row) for decoder in decoders)
            assert torch.allclose(cached, plain, atol=1e-4)


def test_rotary_positions_matter_to_the_output(modalities, masker):
    batch = masker(make_tokens(modalities, 3), np.arange(3))
    with torch.no_grad():
        added, both = (make_model(modalities, positions=p)(batch).sums for p in ("added", "both"))
    assert not torch.allclose(added, both, rtol=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"positions": "rotary", "dim": 24, "num_heads": 4}, "multiple of 4"),
        ({"positions": "both", "encoder": {"type": "latent", "num_tokens": 4}}, "must be added"),
        ({"positions": "rotery"}, "'rotery' is not one of"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    from fourm.config import from_mapping

    with pytest.raises(UserError, match=message):
        from_mapping(ModelConfig, options, "model")
