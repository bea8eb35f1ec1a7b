"""Adaptive mixtures: what is being learned is drawn more, noise is not; neither an update nor a
resumed run loses or repeats a sample.
"""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from worlds import curve, write_project

from fourm.batches.batch import map_tensors
from fourm.batches.masking import MaskingComponent, MaskingConfig
from fourm.config import load
from fourm.data.order import Permutation
from fourm.modalities import ModalitySet
from fourm.training.mixture import AdaptiveConfig, Mixture, adapted_shares
from fourm.training.pretrain import PretrainConfig, PretrainTask, pretrain

BASE = np.full(3, 1 / 3)
KNOWN_LEARNING_NOISE = np.array(
    [[6.0, 6.0, 6.0], [2.0, 5.5, 6.0], [1.0, 5.0, 6.0], [0.99, 4.5, 6.0]]
)
MASKING = MaskingConfig(
    num_inputs=(4, 4),
    num_targets=(4, 4),
    components=(MaskingComponent(), MaskingComponent(weight=3.0)),
)


def test_what_is_being_learned_gains_what_is_known_or_noise_loses():
    known, learning, noise = adapted_shares(BASE, KNOWN_LEARNING_NOISE, AdaptiveConfig())
    assert learning > 0.5 > 2 * max(known, noise)
    assert known + learning + noise == pytest.approx(1.0)
    by_loss = adapted_shares(BASE, KNOWN_LEARNING_NOISE, AdaptiveConfig(rule="loss"))
    assert by_loss.argmax() == 2  # the baseline without the guard runs after the noise


def test_shares_start_as_configured_and_keep_to_floor_and_cap():
    base = np.array([0.7, 0.28, 0.02])
    first = adapted_shares(base, KNOWN_LEARNING_NOISE[:1], AdaptiveConfig())
    assert np.allclose(first, base)
    shares = adapted_shares(
        base, KNOWN_LEARNING_NOISE[:, [0, 2, 1]], AdaptiveConfig(strength=50.0, cap=4.0, floor=0.1)
    )
    assert (
        (shares >= 0.1 * base - 1e-9).all()
        and shares[2] == pytest.approx(0.08)
        and shares.sum() == pytest.approx(1.0)
    )
    with pytest.raises(ValueError, match="floor"):
        AdaptiveConfig(floor=1.5)


def test_updates_neither_skip_nor_repeat_a_sample_of_any_source():
    sizes = [50, 200, 31]
    mixture = Mixture(
        sizes, [1.0, 2.0, 1.0], [MASKING] * 3, 3, batch_size=8, adaptive=AdaptiveConfig()
    )
    taken: list[list[int]] = [[], [], []]
    for step, losses in ((10, [5.0, 5.0, 5.0]), (20, [1.0, 4.0, 5.0]), (45, [0.5, 3.0, 5.0])):
        drawn = mixture.order()(np.arange(mixture.step * 8, step * 8))
        for source, sample in zip(drawn.source, drawn.sample, strict=True):
            taken[source].append(int(sample))
        mixture.update(step, losses, [])
        assert mixture.drawn == [len(t) for t in taken]
    for i, size in enumerate(sizes):
        epoch, index = np.divmod(np.arange(len(taken[i])), size)
        assert taken[i] == Permutation(size, 3 + i)(epoch, index).tolist()
    assert mixture.source_shares[1] > 0.5


def test_a_state_survives_json_and_one_of_another_mixture_is_refused():
    mixture = Mixture([50, 60], [1.0, 1.0], [MASKING] * 2, 0, 8, AdaptiveConfig(of="both"))
    mixture.update(7, [3.0, 2.0], [4.0, 1.0])
    again = Mixture([50, 60], [1.0, 1.0], [MASKING] * 2, 0, 8, AdaptiveConfig(of="both"))
    again.restore(json.loads(json.dumps(mixture.state())))
    assert again == mixture
    with pytest.raises(ValueError, match="another output folder"):
        Mixture([50], [1.0], [MASKING], 0, 8).restore(mixture.state())


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Two sources and two mask components, shares of both updated every 6 steps."""
    path = write_project(tmp_path_factory.mktemp("world"), keep_checkpoints=9)
    second = write_project(tmp_path_factory.mktemp("second"), num=20)
    config, other = (yaml.safe_load(p.read_text()) for p in (path, second))
    config["data"]["sources"] = [
        *config["data"]["sources"],
        {**other["data"]["sources"][0], "weight": 0.5},
    ]
    config["adaptive"] = {"of": "both", "every": 6, "window": 1, "probe_samples": 8}
    path.write_text(yaml.safe_dump(config))
    return path


def mixtures(out: Path) -> list[dict]:
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [r for r in records if "mixture" in r]


@pytest.mark.slow
def test_a_run_resumed_between_two_updates_repeats_shares_and_losses_bit_for_bit(project, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain(load(PretrainConfig, project, [f"out={whole}"]))
    found = mixtures(whole)
    assert [r["step"] for r in found] == [6, 12, 18, 24]
    shares = found[-1]["mixture"]
    assert (
        shares["sources"] != [1.0, 0.5]
        and sum(shares["sources"]) == pytest.approx(1.0)
        and len(shares["probe"]) == 4
    )
    shutil.copytree(whole, cut)
    for step in (15, 20, 24):  # what is left ends at step 10, after the first update
        shutil.rmtree(cut / "checkpoints" / f"step_{step:08d}")
    pretrain(load(PretrainConfig, project, [f"out={cut}"]))
    assert curve(cut) == curve(whole) and mixtures(cut) == found


@pytest.mark.slow
def test_what_a_batch_knows_on_the_host_outlives_the_move_of_its_tensors(project):
    """A worker puts tensors into shared memory; arrays that looked into theirs read anything."""
    config = load(PretrainConfig, project)
    batch = PretrainTask(config, ModalitySet.load(config.modalities)).batches(0, 1)[0][0]
    tensors = []
    map_tensors(batch, tensors.append)
    arrays = [getattr(s, f.name) for s in (batch.encoder, batch.decoder) for f in fields(s)]
    arrays = [array for array in arrays if isinstance(array, np.ndarray)]
    assert len(arrays) >= 6
    assert not any(np.shares_memory(a, t.numpy()) for a in arrays for t in tensors)


def test_loader_workers_that_read_ahead_do_not_change_an_adaptive_run(project, tmp_path):
    for workers in (0, 2):
        pretrain(
            load(
                PretrainConfig,
                project,
                [f"out={tmp_path / str(workers)}", f"loop.num_workers={workers}"],
            )
        )
    assert curve(tmp_path / "0") == curve(tmp_path / "2") and mixtures(tmp_path / "0") == mixtures(
        tmp_path / "2"
    )
