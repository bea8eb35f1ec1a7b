"""Exported tokenizers give the ids and values of their modules whatever their codebook: graphs of
random networks with fitted codes, in onnxruntime and as torch programs, at numbers of samples that
were not traced.
"""

import numpy as np
import onnxruntime
import pytest
import torch
from fourm_tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from fourm_tokenizers.quantizers.fsq import FSQConfig
from fourm_tokenizers.quantizers.lfq import LFQConfig
from fourm_tokenizers.quantizers.residual import ResidualConfig
from fourm_tokenizers.quantizers.vq import VQConfig

from fourm.export.parts import Part, Slot
from fourm.export.tokenizers import FromIds, ToIds
from fourm.export.write import OnnxFormat, traced

QUANTIZERS = {
    "fsq": FSQConfig(levels=(4, 3)),
    "lfq": LFQConfig(codebook_size=16),
    "vq": VQConfig(codebook_size=12, code_dim=4),
    "residual": ResidualConfig(codebook_size=12, code_dim=4, num_codebooks=3),
}
NUM_PLACES = 4


def fitted(quantizer):
    """A small tokenizer whose codes have begun."""
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 4, "dim": 16, "num_heads": 2}
    network = Autoencoder(AutoencoderConfig(quantizer=quantizer, channels=3, **sizes))
    for _ in range(3):
        network.train()(torch.randn(16, 3, 8, 8))
    return network.eval()


@pytest.mark.parametrize("kind", QUANTIZERS)
@torch.no_grad()
def test_graphs_of_every_quantizer_give_what_its_module_gives(kind, tmp_path):
    network = fitted(QUANTIZERS[kind])
    num_ids = NUM_PLACES * QUANTIZERS[kind].codes_per_place
    values = Slot("values", torch.float32, ("batch", 3, 8, 8))
    ids = Slot("ids", torch.int64, ("batch", num_ids))
    parts = (
        Part("to", ToIds(network), (values,), ("ids",)),
        Part("from", FromIds(network), (ids,), ("values",)),
    )
    programs = [traced(part) for part in parts]
    sessions = []
    for part, program in zip(parts, programs, strict=True):
        OnnxFormat().write(program, part, tmp_path / part.name)
        sessions.append(onnxruntime.InferenceSession(tmp_path / part.name))
    to_ids, from_ids = (program.module(check_guards=False) for program in programs)
    for num in (1, 7):
        given = torch.randn(num, 3, 8, 8)
        expected = network.encode(given)
        assert expected.shape == (num, num_ids) and (num == 1 or len(expected.unique()) > 2)
        assert torch.equal(to_ids(given), expected)
        assert np.array_equal(sessions[0].run(None, {"values": given.numpy()})[0], expected)
        decoded = network.decode(expected)
        torch.testing.assert_close(from_ids(expected), decoded, rtol=0, atol=1e-5)
        (found,) = sessions[1].run(None, {"ids": expected.numpy()})
        np.testing.assert_allclose(found, decoded, rtol=0, atol=1e-5)
