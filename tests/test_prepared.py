"""Batches made ready in the loader: a step then asks the device nothing, adds up no rows one by
one, and may have the same shapes whatever masking left out.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokens
from host_syncs import HostSyncs
from torch.utils._python_dispatch import TorchDispatchMode
from worlds import curve, write_project

from fourm.config import load
from fourm.model.attention import Backend
from fourm.model.encoder import Latent
from fourm.model.prepared import Budget, PreparedBatches
from fourm.training.pretrain import PretrainConfig, pretrain

MODELS = {
    "plain": {},
    "rotary, normed, with registers": {"positions": "rotary", "qk_norm": True, "num_registers": 2},
    "tied": {"tie_heads": True},
    "latents": {"encoder": Latent(num_tokens=4)},
    "latents and stem": {"encoder": Latent(num_tokens=4, context="latents+stem", start="learned")},
}
BACKENDS = {
    "on a CPU": Backend("sdpa", on_cpu=True),
    "padded": Backend("sdpa", on_cpu=False),
    "varlen": Backend("varlen", on_cpu=False),
}


def as_if_on(model, backend):
    """The model as if its device ran another back end."""
    prepare = model.preparation
    model.preparation = lambda budget=None: replace(prepare(budget), backend=backend)
    return model


@pytest.fixture
def batch(modalities, masker):
    return masker(make_tokens(modalities, 6), np.arange(6))


def losses_and_gradients(model, batch):
    model.zero_grad()
    sums = model(batch).sums
    sums.sum().backward()
    return sums.detach(), {name: p.grad for name, p in model.named_parameters()}


def assert_same(found, expected):
    assert torch.allclose(found[0], expected[0], rtol=1e-5)
    for name, gradient in expected[1].items():
        other = found[1][name]
        assert (gradient is None) == (other is None), name
        if gradient is not None and other is not None:
            assert torch.allclose(other, gradient, atol=2e-4, rtol=1e-4), name


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_prepared_batches_give_the_losses_and_gradients_of_plain_ones_on_all_back_ends(
    name, backend, modalities, batch, varlen_on_cpu
):
    model = make_model(modalities, **MODELS[name])
    expected = losses_and_gradients(model, batch)
    as_if_on(model, BACKENDS[backend])
    assert_same(losses_and_gradients(model, batch), expected)
    assert_same(losses_and_gradients(model, model.preparation()(batch)), expected)


def test_a_batch_that_was_prepared_for_another_network_is_prepared_again(modalities, batch):
    plain, other = make_model(modalities), make_model(modalities, num_registers=3)
    assert torch.equal(other(plain.preparation()(batch)).sums, other(batch).sums)
    latent = make_model(modalities, encoder=Latent(num_tokens=3))
    assert torch.equal(latent(plain.preparation()(batch)).sums, latent(batch).sums)


def test_each_micro_batch_of_a_step_is_prepared(modalities, batch):
    model = make_model(modalities)
    step = PreparedBatches({3: [batch, batch]}, model.preparation())[3]
    assert all(b.encoder.prepared and b.decoder.prepared for b in step)
    moved = step[0].to("cpu")
    assert moved.encoder.prepared[0] == model.preparation()


# ---- the host never waits ------------------------------------------------------------------------


def queued(q, k, v, *lengths, window_size):
    """What a kernel of varlen is to the host."""
    return q + (k.mean() + v.mean())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_loss_and_backward_of_a_prepared_batch_never_wait_for_the_device(
    name, backend, modalities, batch, varlen_on_cpu, monkeypatch
):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", queued)
    model = as_if_on(make_model(modalities, **MODELS[name]), BACKENDS[backend])
    prepared = model.preparation()(batch)
    with HostSyncs() as syncs:
        model(prepared).sums.sum().backward()
    assert not syncs.found, f"\n{syncs}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_a_step_on_a_gpu_never_waits_for_it(name, modalities, batch):
    model = make_model(modalities, **MODELS[name]).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        prepared = model.preparation()(batch).pin_memory().to("cuda")
        model(prepared).sums.sum().backward()  # compiles and allocates
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(prepared).sums.sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


# ---- no gradient is added up row by row ----------------------------------------------------------


class Accumulating(TorchDispatchMode):
    """Counts operators that add rows up at places that may repeat."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        adds_up = name == "aten::index_put_" and len(args) > 3 and args[3]
        if adds_up or name in ("aten::index_add", "aten::scatter_add", "aten::index_add_"):
            self.found[name] += 1
        if name == "aten::embedding_dense_backward":
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_tables_gradients_are_added_up_by_row(backend, modalities, batch, varlen_on_cpu):
    model = as_if_on(make_model(modalities, num_registers=2), BACKENDS[backend])
    loss = model(model.preparation()(batch)).sums.sum()
    with Accumulating() as operators:
        loss.backward()
    # ids and levels, places of sets and modality, of input rows and of target rows
    assert operators.found == {"aten::embedding_dense_backward": 8}


# ---- constant shapes -----------------------------------------------------------------------------


def shapes(batch):
    found = []
    for stream in (batch.encoder, batch.decoder):
        found.append(
            {name: tuple(t.shape) for name, t in vars(stream).items() if torch.is_tensor(t)}
        )
    found[1].pop("by_modality")  # as many as have a loss
    return found, len(batch.encoder.lengths), len(batch.decoder.lengths)


@pytest.mark.parametrize("name", ["plain", "rotary, normed, with registers", "latents and stem"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_with_a_budget_all_batches_have_the_same_shapes_and_losses_stay(
    name, backend, modalities, masker, varlen_on_cpu
):
    model = as_if_on(make_model(modalities, **MODELS[name]), BACKENDS[backend])
    prepare = model.preparation(Budget(24, 24))
    found = []
    for i in range(3):
        batch = masker(make_tokens(modalities, 6, seed=i), np.arange(6 * i, 6 * i + 6))
        filled = prepare(batch)
        found.append(shapes(filled))
        assert_same(losses_and_gradients(model, filled), losses_and_gradients(model, batch))
    assert found[0] == found[1] == found[2]


# ---- half precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
def test_under_autocast_all_that_varlen_gets_has_one_type(half, modalities, batch, varlen_on_cpu):
    """The emulation refuses mixed types as the kernel does; norms alone would give float32."""
    options = {"qk_norm": True, "positions": "both", "half_residual": half}
    model = as_if_on(make_model(modalities, **options), BACKENDS["varlen"])
    exact = model(batch).sums
    with torch.autocast("cpu", torch.bfloat16):
        sums = model(batch).sums
    sums.sum().backward()
    assert sums.dtype == torch.float32 and torch.allclose(sums, exact, rtol=3e-2)


@pytest.mark.slow
def test_a_half_residual_stream_learns_what_a_float32_one_learns_with_half_the_bytes(
    modalities, masker
):
    def trained(half):
        model = make_model(modalities, half_residual=half)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        handed_on, losses = set(), []
        model.decoder[0].register_forward_hook(lambda block, given, rows: handed_on.add(rows.dtype))
        for step in range(60):
            batch = masker(make_tokens(modalities, 16, seed=step % 2), np.arange(16) + 16 * step)
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(batch).sums.sum() / batch.decoder.lengths.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return handed_on, np.mean(losses[:5]), np.mean(losses[-10:])

    of_floats, first, last = trained(False)
    of_halves, _, last_half = trained(True)
    assert of_floats == {torch.float32} and of_halves == {torch.bfloat16}
    assert last < 0.9 * first and abs(last_half - last) < 1e-2 * last


# ---- in a training -------------------------------------------------------------------------------


def test_a_training_with_constant_shapes_has_the_curve_of_one_without(tmp_path):
    written = write_project(tmp_path, steps=6)
    curves = []
    for name in ("false", "true"):
        changes = [f"constant_shapes={name}", f"out={tmp_path / name}"]
        pretrain(load(PretrainConfig, written, changes))
        curves.append([loss for _, loss in curve(tmp_path / name)])
    assert len(curves[0]) == 6 and np.allclose(*curves, rtol=1e-5)
