"""What each parameter is follows from where it is made: Muon finds every hidden matrix with its
pieces, whatever its name; a parameter that nobody knows is an error.
"""

import pytest
import torch
from conftest import make_model
from torch import nn

from fourm.model.encoder import Latent
from fourm.model.roles import TABLE, matrix, parameter_roles, state_roles
from fourm.training.optimizers import OptimizerConfig, build_optimizers, parameter_groups

MUON = OptimizerConfig(name="muon")


@pytest.fixture(scope="module")
def jar(modalities):
    return make_model(modalities, encoder_depth=3, encoder=Latent(num_tokens=4))


def test_every_matrix_of_attention_and_mlps_is_muons_those_of_latent_encoders_too(jar):
    groups = {(g.optimizer, g.weight_decay > 0): g.names for g in parameter_groups(jar, MUON)}
    muon = groups["muon", True]
    wanted = [n for n, _ in jar.named_parameters() if n.endswith(("qkv.weight", "proj.weight"))]
    wanted += [
        n for n, _ in jar.named_parameters() if n.endswith(("fc_in.weight", "fc_out.weight"))
    ]
    assert sorted(muon) == sorted(wanted)
    assert "latents.images.attention.qkv.weight" in muon
    assert groups["adamw", True] == ["vector_in.pixels.weight", "context.weight"]
    assert "tokens.table" in groups["adamw", False]
    assert "latents.fuse.0.gates" in groups["adamw", False]
    named = [name for names in groups.values() for name in names]
    assert sorted(named) == sorted(n for n, _ in jar.named_parameters())


@pytest.mark.parametrize("gated, ratio", [(True, 4.0), (True, 2.0), (True, 1.0), (False, 4.0)])
def test_gate_and_value_are_two_maps_at_any_ratio(modalities, gated, ratio):
    model = make_model(modalities, gated_mlp=gated, mlp_ratio=ratio)
    roles = parameter_roles(model)
    assert roles["encoder.0.mlp.fc_in.weight"].pieces == (2 if gated else 1)
    assert roles["decoder.0.cross_attention.qkv.weight"].pieces == 3


def test_muons_update_of_a_fused_weight_is_that_of_its_pieces_alone():
    torch.manual_seed(0)
    fused = nn.Linear(8, 24, bias=False)
    parts = [nn.Linear(8, 8, bias=False) for _ in range(3)]
    state_roles(fused, weight=matrix(3))
    gradient = torch.randn(24, 8)
    for i, part in enumerate(parts):
        state_roles(part, weight=matrix())
        part.weight.data.copy_(fused.weight[8 * i : 8 * i + 8])
    whole = nn.ModuleList([fused])
    apart = nn.ModuleList(parts)
    fused.weight.grad = gradient
    for part, piece in zip(parts, gradient.split(8), strict=True):
        part.weight.grad = piece.clone()
    for module in (whole, apart):
        for optimizer in build_optimizers(module, MUON):
            optimizer.step()
    assert torch.allclose(fused.weight, torch.cat([part.weight for part in parts]), atol=1e-6)


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.kernel = nn.Parameter(torch.zeros(4, 4))


def test_a_parameter_without_a_role_is_an_error_that_names_it_and_the_mend():
    model = nn.ModuleDict({"odd": Strange()})
    with pytest.raises(TypeError, match=r"odd\.kernel \[4, 4\] of Strange.*state_roles"):
        parameter_roles(model)
    state_roles(model["odd"], kernel=TABLE)
    assert parameter_roles(model)["odd.kernel"] is TABLE
