"""What benchmarks compare is the same computation, and what they report adds up; the commands for
machines that are not here run to their end on a tiny model.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import gpu
import numpy as np
import pytest
import sampling_quality
import sampling_speed
import torch
from gemm_share import report
from reference_inputs import dense_modalities
from reference_like import ReferenceLike
from stages import Stage, StageClock, costs
from step import Ours, Reference, Sizes, Turn, median_seconds
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from workload import Step, Workload, useful_tokens, workload_of_4m, workload_of_demo

from fourm.modalities import ModalitySet
from fourm.model.model import ModelConfig

DIM = 32
MODEL = ModelConfig(dim=DIM, encoder_depth=2, decoder_depth=2, num_heads=2)


def small_vocabularies(work: Workload) -> Workload:
    """The same with few ids, as tests are in a hurry."""
    members = tuple(
        replace(m, vocab_size=min(m.vocab_size, 512)) if m.kind != "continuous" else m
        for m in work.modalities
    )
    return replace(work, modalities=ModalitySet(members, work.modalities.tokenizers))


def work_of(num_modalities: int) -> Workload:
    return small_vocabularies(workload_of_4m(num_modalities, MODEL, 32, 3))


def reference_of(work: Workload, model) -> ReferenceLike:
    return ReferenceLike(model, work.masking.num_inputs[1], work.masking.num_targets[1])


# ---- the reference's way -------------------------------------------------------------------------


@pytest.mark.parametrize("num_modalities", [7, 21])
@pytest.mark.parametrize("padding", [False, True])
def test_the_reference_s_way_is_the_same_function(num_modalities, padding):
    work = work_of(num_modalities)
    work = work.padding() if padding else work
    step = Step(work)
    reference = reference_of(work, step.model)
    for seed in range(3):
        batch = work.batch(seed)
        given = dense_modalities(work.modalities, work.samples(seed), batch)
        ours = (step.model(batch).sums * step.factors([batch])).sum()
        theirs = reference(given)
        assert torch.allclose(ours, theirs, rtol=1e-5)
    step.model.zero_grad()
    ours.backward()
    theirs.backward()
    for ours_block, theirs_block in zip(step.model.decoder_blocks, reference.decoder, strict=True):
        expected = ours_block.mlp.fc_out.weight.grad
        assert torch.allclose(theirs_block.mlp.out.grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("num_modalities, positions", [(7, 2204), (21, 4481)])
def test_the_reference_s_way_embeds_as_many_positions_as_the_reference(num_modalities, positions):
    work = workload_of_4m(num_modalities, MODEL, 32, 1)
    given = dense_modalities(work.modalities, work.samples(0), work.batch(0))
    assert sum(m.tokens.shape[1] for m in given) == positions  # counted in its own run


def test_the_comparison_of_losses_sees_a_wrong_mask():
    work = work_of(7)
    model = work.build()
    reference = reference_of(work, model)
    given = dense_modalities(work.modalities, work.samples(0), work.batch(0))
    right = float(reference(given).detach())
    blind = [replace(m, reach=torch.ones_like(m.reach)) for m in given]  # pictures become causal
    assert abs(float(reference(blind).detach()) - right) > 1e-4 * right


def test_the_reference_s_masks_leave_slots_empty_and_ours_do_not():
    work = replace(work_of(7), batch_size=16)
    slots = 16 * (work.masking.num_inputs[1] + work.masking.num_targets[1])
    assert useful_tokens(work.batch(0)) == slots
    assert useful_tokens(work.padding().batch(0)) < slots


def test_both_sides_train_alike():
    sizes = Sizes(7, dim=DIM, depth=1, heads=2, tokens=16, batch=2)
    ours, reference = Ours(sizes.workload()), Reference(sizes.workload())
    turns = [(ours.step(seed, True), reference.step(seed, True)) for seed in range(3)]
    for a, b in turns:
        assert a.tokens == b.tokens
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
    assert turns[0][0].loss != turns[2][0].loss
    seconds = median_seconds([turn for turn, _ in turns])
    assert set(seconds) == {"forward", "backward", "optimizer", "step"}
    assert isinstance(turns[0][0], Turn) and seconds["step"] > 0


# ---- what a step is made of ----------------------------------------------------------------------


def test_operations_of_stages_are_those_of_the_formula():
    work = work_of(21)
    batch = work.batch(0)
    of = costs(work, batch, num_parameters=0, width=2)
    vectors = sum(
        6 * len(given.rows) * work.modalities[name].width * DIM
        for name, given in batch.encoder.vectors.items()
    )
    assert of[Stage.EMBEDDING].operations == vectors  # the formula leaves them out
    total = sum(cost.operations for cost in of.values())
    assert total - vectors == work.flops(batch)


def test_a_profile_is_read_by_stage():
    work = work_of(7)
    step, batch = Step(work), work.batch(0)
    clock = StageClock(step.model)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step.model(batch, clock.objective).sums.sum().backward()
        with clock.stage(Stage.OPTIMIZER):
            step.update()
    clock.remove()
    taken = clock.seconds(profiler, on_device=False)
    events = {event.name for event in profiler.events()}
    assert all(taken[stage] > 0 for stage in Stage)
    assert sum(taken.values()) == pytest.approx(
        sum(e.self_cpu_time_total for e in profiler.events()) / 1e6
    )
    # the backward pass is counted too: more than the forward ranges alone
    marked = sum(
        e.cpu_time_total for e in profiler.events() if e.name == f"stage: {Stage.ENCODER_MLP}"
    )
    assert f"stage: {Stage.ENCODER_MLP}" in events
    assert taken[Stage.ENCODER_MLP] > marked / 1e6
    assert not step.model.encoder_norm._forward_hooks


def test_a_profile_of_a_device_counts_kernels_once():
    """No device is here: the events are those that torch would hand over."""

    def event(name, device_time, on_device=False, is_range=False, sequence_nr=-1):
        return SimpleNamespace(
            name=name,
            device_type=DeviceType.CUDA if on_device else DeviceType.CPU,
            is_user_annotation=is_range,
            device_time_total=device_time,
            self_device_time_total=device_time,
            sequence_nr=sequence_nr,
        )

    clock = StageClock(Step(work_of(7)).model)
    with clock.stage(Stage.HEADS):
        number = torch.autograd._get_sequence_nr()
        torch.ones((), requires_grad=True) * 2  # the stage's only node of the graph
    backward = "autograd::engine::evaluate_function: MulBackward0"
    events = [
        event("stage: heads and loss", 2.0),
        event("aten::mul", 2.0, sequence_nr=number),
        event(backward, 3.0, sequence_nr=number),
        event("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad", 1.0),
        event("stage: heads and loss", 2.5, on_device=True, is_range=True),
        *(event(f"kernel {time}", time, on_device=True) for time in (2.0, 3.0, 1.0)),
    ]
    taken = clock.seconds(SimpleNamespace(events=lambda: events), on_device=True)
    assert taken[Stage.HEADS] == pytest.approx(5e-6)
    assert taken[Stage.OTHER] == pytest.approx(1e-6)
    assert sum(taken.values()) == pytest.approx(6e-6)


def test_shares_and_floor_of_the_demo_s_step():
    figures = report(replace(workload_of_demo(), batch_size=4), num_steps=1)
    assert 0 < figures["share_of_gemm"] < 1
    counted, by_formula = (figures["floor"][k] for k in ("gflop_of_products", "gflop_by_formula"))
    # the formula also counts fused attention, and not the projection of pixels nor levels of codes
    assert counted == pytest.approx(by_formula, rel=0.15)
    assert figures["others"] and figures["by_shape"]


def test_workloads_are_a_function_of_their_seed():
    work = work_of(21)
    first, again, other = work.batch(1), work.batch(1), work.batch(2)
    assert torch.equal(first.encoder.token, again.encoder.token)
    assert not np.array_equal(first.encoder.kinds, other.encoder.kinds)


# ---- the command for a CUDA machine --------------------------------------------------------------


def test_the_gpu_command_runs_to_its_end_on_a_tiny_model(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "workload_of_4m", lambda n, *_: work_of(n))
    out = tmp_path / "gpu.json"
    empty = tmp_path / "test_nothing.py"
    empty.write_text("")
    arguments = ["--device", "cpu", "--tiny", "--modalities", "7", "--backend", "eager"]
    assert gpu.main([*arguments, "--tests", str(empty), "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["tests"]["status"] == 5
    modes = result["steps"]["tiny 4M-7"]
    assert set(modes) == {"work", *gpu.MODES}
    for mode in gpu.MODES:
        assert modes[mode]["mfu"] > 0
        assert modes[mode]["useful_tokens"] == 8 * 64
    assert [row["stage"] for row in modes["eager"]["stages"]] == [stage.value for stage in Stage]
    assert all(row["ms"] > 0 for row in modes["eager"]["stages"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_gpu_command_says_in_a_sentence_that_it_needs_one(capsys):
    assert gpu.main([]) == 2
    assert gpu.main(["--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count("\n") == 2 and "needs a CUDA device" in printed.err


def test_both_ways_of_sampling_give_the_same_likeliest_ids(monkeypatch):
    monkeypatch.setattr("fourm.sampling.sequences.forbidden_ids", sampling_speed.never_ending)
    with torch.inference_mode():
        sampling_speed.Bench(sampling_speed.make_model("tiny"), 2).check()


def test_a_frechet_distance_of_normal_samples_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(20_000, 3)) * [1.0, 2.0, 0.5]
    b = rng.normal(size=(20_000, 3)) * [1.0, 1.0, 0.5] + [3.0, 0.0, 0.0]
    assert sampling_quality.frechet(a, b[:4000]) == pytest.approx(9.0 + 1.0, rel=0.03)
    assert sampling_quality.frechet(a, a) == pytest.approx(0.0, abs=1e-9)


def test_the_front_holds_what_nothing_beats_in_everything():
    rows = {
        "good": {"solid_accuracy": 0.9, "distance_foreign": 1.0, "evaluations": 12.0},
        "quick": {"solid_accuracy": 0.8, "distance_foreign": 2.0, "evaluations": 4.0},
        "beaten": {"solid_accuracy": 0.9, "distance_foreign": 1.0, "evaluations": 16.0},
    }
    assert sampling_quality.front(rows) == {"good", "quick"}
