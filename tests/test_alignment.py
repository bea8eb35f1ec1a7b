"""Alignment on cached latents: what is promised of the store, the losses, the connectors,
adaptation, and of runs that are killed.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from latent_worlds import ABOUT, adaptation, domains, settings, world

from fourm.alignment.align import (
    AlignTask,
    align,
    embed_latents,
    figures_on_test,
    load_aligner,
)
from fourm.alignment.aligner import AlignConfig
from fourm.alignment.augment import AugmentConfig, augment
from fourm.alignment.connectors import CONTRAST, ConnectorConfig, Experts, dense_reference
from fourm.alignment.contrast import info_nce
from fourm.alignment.latents import grouped_by, open_latents, paired, write_latents
from fourm.alignment.pairs import SplitConfig, batch_of, split_subjects
from fourm.alignment.retrieval import ExactIndex, recall, zero_shot
from fourm.alignment.subset import greedy_dpp
from fourm.alignment.unimos import AdaptConfig
from fourm.config import from_mapping
from fourm.data.shards import shard_path, write_shard
from fourm.training.checkpoints import newest_checkpoint

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(["tokenizers", "data_prep", "."]),
    "OMP_NUM_THREADS": "1",
}


# ---- latents -------------------------------------------------------------------------------------


def test_latents_round_trip_as_a_memory_map_with_tokens_and_groups(tmp_path):
    rows = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float16)
    write_latents(
        tmp_path / "t",
        rows,
        ["a", "b", "c"],
        offsets=np.array([0, 2, 3, 7]),
        groups=["x", "x", "y"],
        **ABOUT,
    )
    held = open_latents(tmp_path / "t")
    assert isinstance(held.vectors, np.memmap) and held.group_ids.tolist() == [0, 0, 1]
    tokens, mask = held.tokens(np.array([2, 0]))
    assert (
        mask.sum(1).tolist() == [4, 2]
        and np.allclose(tokens[1, :2], rows[:2])
        and (tokens[1, 2:] == 0).all()
    )
    assert np.allclose(held.rows(np.array([0])), rows[:2].astype(np.float32).mean(0))


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda f: (f / "latents.json").unlink(), "latents.json is missing"),
        (
            lambda f: np.save(f / "vectors.npy", np.full((3, 4), np.nan)),
            "those of 'a' are not finite",
        ),
        (lambda f: np.save(f / "vectors.npy", np.zeros((3, 5))), "inconsistent"),
        (lambda f: (f / "keys.txt").write_text("a\nb\n"), "inconsistent"),
        (lambda f: (f / "keys.txt").write_text("a\nc\nb\n"), "inconsistent"),
        (lambda f: (f / "vectors.npy").write_bytes(b"\x93NUMPY broken"), "cannot be read"),
        (
            lambda f: np.save(f / "vectors.npy", np.array([object()]), allow_pickle=True),
            "cannot be read",
        ),
    ],
)
def test_broken_latents_are_one_clear_error(tmp_path, broken, message):
    write_latents(tmp_path / "t", np.zeros((3, 4), np.float32), ["a", "b", "c"], **ABOUT)
    broken(tmp_path / "t")
    with pytest.raises(ValueError, match=message):
        open_latents(tmp_path / "t")


def test_latents_of_other_samples_are_not_paired(tmp_path):
    for name, keys in (("a", ["k0", "k1", "k2"]), ("b", ["k0", "k2", "k1"]), ("c", ["k0", "k1"])):
        write_latents(tmp_path / name, np.zeros((len(keys), 4), np.float32), keys, **ABOUT)
    a, b, c = (open_latents(tmp_path / name) for name in "abc")
    with pytest.raises(ValueError, match="sample 1 is 'k1' and 'k2'"):
        paired({"a": a, "b": b})
    with pytest.raises(ValueError, match="one ends earlier"):
        paired({"a": a, "c": c})


def test_no_subject_is_in_two_parts_of_a_split(tmp_path):
    keys = [f"{i // 3}~{i % 3}" for i in range(90)]
    write_latents(
        tmp_path / "t",
        np.zeros((90, 4), np.float32),
        keys,
        groups=[k.split("~")[0] for k in keys],
        **ABOUT,
    )
    held = open_latents(tmp_path / "t")
    config = SplitConfig(num_val=5, num_test=8, num_train=10)
    split = split_subjects(held, config)
    parts = [set(held.group_ids[p]) for p in (split.train, split.val, split.test)]
    diverse = split_subjects(held, dataclasses.replace(config, choose="diverse"))
    assert len(set(held.group_ids[diverse.train])) == 10 and (diverse.test == split.test).all()
    assert [len(p) for p in parts] == [10, 5, 8] and not (
        parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2]
    )


def test_the_test_is_the_data_s_own_split_and_groups_are_those_of_the_named_latents(tmp_path):
    num, rng = 40, np.random.default_rng(0)
    splits = ["val" if i % 4 == 0 else "train" for i in range(num)]
    texts = [f"t{i % 7}" for i in range(num)]
    for name, groups in (("image", None), ("text", texts)):
        write_latents(
            tmp_path / name,
            rng.normal(size=(num, 3)).astype(np.float32),
            [f"k{i}" for i in range(num)],
            groups=groups,
            splits=splits,
            **ABOUT,
        )
    held = {name: open_latents(tmp_path / name) for name in ("image", "text")}
    both = grouped_by(held, "text")
    assert both["image"].groups == texts and held["image"].groups != texts
    config = SplitConfig(num_val=2, num_test=0, test="val")
    split = split_subjects(both["image"], config)
    assert split.test.tolist() == list(range(0, num, 4))
    ids = both["image"].group_ids
    assert not set(ids[split.train]) & set(ids[split.val]) and len(set(ids[split.val])) == 2
    assert len(split.train) + len(split.val) + len(split.test) == num
    assert len(split_subjects(both["image"], dataclasses.replace(config, num_test=3)).test) == 3
    for name, message in (("test", "train, val"), ("elsewhere", "some of the latents' splits")):
        with pytest.raises(ValueError, match=message):
            split_subjects(both["image"], dataclasses.replace(config, test=name))
    with pytest.raises(ValueError, match="groups: 'sound' is none of"):
        grouped_by(held, "sound")
    write_latents(tmp_path / "old", np.zeros((4, 3), np.float32), list("abcd"), **ABOUT)
    with pytest.raises(ValueError, match="make them again"):
        split_subjects(open_latents(tmp_path / "old"), config)


def length_of_text(samples, raw):
    """An encoder that tells texts of different lengths from each other."""
    return [np.array([len(text), 1.0], np.float32) for text in samples.captions]


def test_latents_tell_shards_and_splits_of_keys_that_are_the_same_and_group_equal_texts(tmp_path):
    from fourm_data_prep.engine_options import EngineConfig
    from fourm_data_prep.latents import cache_latents

    config = tmp_path / "m.yaml"
    config.write_text(
        "modalities:\n  caption: {kind: sequence, raw: {type: text}, vocab_size: 9,"
        " max_tokens: 9}\n"
    )
    for split, texts in (("train", ["sea", "ice field", "sea"]), ("val", ["sea", "sand dune"])):
        write_shard(
            shard_path(tmp_path / "raw", split, "caption", 0),
            [(f"k{i}", "txt", text.encode()) for i, text in enumerate(texts)],
        )
    encoder, one = f"{__name__}:length_of_text", EngineConfig(workers=1)
    made = {}
    for name, together in (("own", False), ("equal", True)):
        arguments = tmp_path / "raw", config, "caption", encoder, tmp_path / name
        cache_latents(*arguments, equal_as_one=together, engine=one)
        made[name] = open_latents(tmp_path / name)
    assert made["own"].keys == [
        *(f"train/00000/k{i}" for i in range(3)),
        *(f"val/00000/k{i}" for i in range(2)),
    ]
    assert made["own"].splits == ["train"] * 3 + ["val"] * 2
    assert len(set(made["own"].groups)) == 5
    assert made["equal"].group_ids.tolist() == made["equal"].group_ids[[0, 1, 0, 0, 4]].tolist()
    assert len(set(made["equal"].groups)) == 3
    assert made["own"].info.fingerprint == made["equal"].info.fingerprint


def test_a_shared_connector_maps_into_the_space_of_what_is_searched_and_judges_others(tmp_path):
    latents = world(tmp_path)
    latents = {name: latents[name] for name in ("image", "text")}
    config = settings(tmp_path, latents)
    config = dataclasses.replace(
        config, connect=dataclasses.replace(config.connect, kind="experts")
    )
    align(config)
    run = tmp_path / "run"
    embed_latents(run, "image", latents["image"], tmp_path / "asked", to="text")
    embed_latents(run, "text", latents["text"], tmp_path / "found")
    asked, found = (np.asarray(open_latents(tmp_path / n).vectors) for n in ("asked", "found"))
    assert np.allclose(np.linalg.norm(asked, axis=1), 1, atol=1e-5)
    groups = np.arange(len(asked))
    searched = recall(asked, found, groups, groups)
    judged = figures_on_test(run, latents)
    assert judged["image>text/R@1"] == pytest.approx(searched["R@1"]) and searched["R@1"] > 0.2
    with pytest.raises(ValueError, match="aligns image, text, not image"):
        figures_on_test(run, {"image": latents["image"]})
    with pytest.raises(ValueError, match="not sound"):
        embed_latents(run, "image", latents["image"], tmp_path / "x", to="sound")


# ---- FuseMix -------------------------------------------------------------------------------------


def test_shared_mixup_keeps_pairs_and_independent_breaks_them():
    z = torch.randn(64, 5)
    for per in ("batch", "sample"):
        for alpha in (1.0, 0.3):
            a, b = augment(
                [z, 2 * z],
                AugmentConfig(mixup="shared", per=per, alpha=alpha),
                torch.Generator().manual_seed(0),
            )
            assert torch.allclose(2 * a, b, atol=1e-5) and not torch.allclose(a, z)
    a, b = augment([z, 2 * z], AugmentConfig(mixup="independent"), torch.Generator().manual_seed(0))
    assert not torch.allclose(2 * a, b, atol=0.1)
    again = augment([z], AugmentConfig(mixup="shared", noise=0.5), torch.Generator().manual_seed(7))
    assert torch.equal(
        again[0],
        augment([z], AugmentConfig(mixup="shared", noise=0.5), torch.Generator().manual_seed(7))[0],
    )


def test_info_nce_is_its_definition_and_leaves_a_group_s_own_out():
    a, b, tau = torch.randn(5, 4), torch.randn(5, 4), torch.tensor(0.2)
    scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / tau
    slow = (
        sum(
            -scores[i, i]
            + torch.logsumexp(scores[i], 0)
            - scores[i, i]
            + torch.logsumexp(scores[:, i], 0)
            for i in range(5)
        )
        / 2
    )
    assert torch.allclose(info_nce(a, b, tau), slow, atol=1e-5)
    groups = torch.tensor([0, 0, 1, 2, 3])
    kept = scores.clone()
    kept[0, 1] = kept[1, 0] = -torch.inf
    slow = (
        sum(
            -2 * scores[i, i] + torch.logsumexp(kept[i], 0) + torch.logsumexp(kept[:, i], 0)
            for i in range(5)
        )
        / 2
    )
    assert torch.allclose(info_nce(a, b, tau, groups), slow, atol=1e-5)


def test_chunks_give_the_exact_gradient_of_the_whole_batch(tmp_path):
    latents = world(tmp_path)
    gradients = []
    for chunk in (0, 7):
        task = AlignTask(settings(tmp_path, latents, chunk=chunk))
        model = task.model()
        model(task.batches(0, 1)[0][0]).sum().backward()
        gradients.append(
            torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
        )
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


def test_an_alignment_learns_and_is_read_back_whole(tmp_path):
    latents = world(tmp_path)
    figures = align(settings(tmp_path, latents, augment={"mixup": "shared"}))
    test = figures_on_test(tmp_path / "run")
    assert figures["R@1"] > 0.5 and test["R@10"] > 0.7  # chance: 0.05 and 0.25
    model = load_aligner(tmp_path / "run")
    with pytest.raises(ValueError, match="have 7 numbers, this connector was trained on 24"):
        model.embed("image", torch.zeros(2, 7))
    rows = open_latents(latents["image"]).vectors.copy()
    write_latents(
        Path(latents["image"]),
        rows,
        [f"k{i}" for i in range(len(rows))],
        encoder="other",
        fingerprint="g",
        modality="rgb",
    )
    with pytest.raises(ValueError, match="are of encoder other"):
        figures_on_test(tmp_path / "run")


def test_the_command_line_trains_judges_and_maps(tmp_path, capsys):
    import yaml

    from fourm.cli import main

    latents = world(tmp_path)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(_mapping(settings(tmp_path, latents))))
    main(["fusion", "align", str(tmp_path / "c.yaml"), "loop.steps=20"])
    capsys.readouterr()
    main(["evaluate-alignment", str(tmp_path / "run")])
    assert "R@10" in json.loads(capsys.readouterr().out)
    main(
        [
            "fusion",
            "embed",
            str(tmp_path / "run"),
            "--modality",
            "image",
            "--latents",
            latents["image"],
            "--out",
            str(tmp_path / "mapped"),
        ]
    )
    assert np.allclose(
        np.linalg.norm(open_latents(tmp_path / "mapped").vectors, axis=1), 1, atol=1e-5
    )
    places = domains(tmp_path / "d")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(_mapping(adaptation(tmp_path / "d", places))))
    main(["adapt", str(tmp_path / "a.yaml"), "loop.steps=20"])
    capsys.readouterr()
    main(["evaluate-adaptation", str(tmp_path / "d" / "run"), "--labels", places["labels"]])
    assert json.loads(capsys.readouterr().out)["samples"] == 120
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate-alignment", str(tmp_path / "nothing")])
    assert stopped.value.code == 2 and "no aligner in" in capsys.readouterr().err


def test_a_diverse_subset_is_the_greedy_maximum_of_the_determinant():
    x = np.random.default_rng(0).normal(size=(12, 5))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    kernel = (unit @ unit.T + 1) ** 2
    chosen: list[int] = []
    for _ in range(5):
        best = max(
            (i for i in range(12) if i not in chosen),
            key=lambda i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])]),
        )
        chosen.append(best)
    assert greedy_dpp(x, 5).tolist() == chosen
    with pytest.raises(ValueError, match="cannot choose 13 of 12"):
        greedy_dpp(x, 13)


def test_pairs_are_chosen_by_the_quality_that_a_table_gives_them(tmp_path):
    world(tmp_path, num=40)
    held = open_latents(tmp_path / "image")
    table = tmp_path / "quality.csv"
    table.write_text("key,quality\n" + "".join(f"k{i},{i + 1}\n" for i in range(40)))
    chosen = split_subjects(
        held, SplitConfig(num_val=4, num_test=6, num_train=10, choose="best", quality=str(table))
    )
    others = sorted(
        {int(k[1:]) for k in held.keys}
        - {int(held.keys[i][1:]) for i in (*chosen.val, *chosen.test)}
    )
    assert sorted(int(held.keys[i][1:]) for i in chosen.train) == others[-10:]
    diverse = split_subjects(
        held, SplitConfig(num_val=4, num_test=6, num_train=10, choose="diverse", quality=str(table))
    )
    # weighted towards the good ones
    assert len(diverse.train) == 10 and np.mean(diverse.train) > np.mean(others)
    for text, message in (
        ("a,b\n", "columns key and quality"),
        ("key,quality\nk0,1\n", "no quality of 39 samples"),
        ("key,quality\nk0,x\n", "not a number"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            split_subjects(
                held,
                SplitConfig(num_val=4, num_test=6, num_train=10, choose="best", quality=str(table)),
            )
    with pytest.raises(ValueError, match="needs quality"):
        split_subjects(held, SplitConfig(num_val=4, num_test=6, num_train=10, choose="best"))


# ---- Alt-MoE -------------------------------------------------------------------------------------


@pytest.mark.parametrize("renormalize", [True, False])
def test_sparse_experts_equal_all_experts_computed(renormalize):
    torch.manual_seed(0)
    experts = Experts(
        ConnectorConfig(hidden=8, num_experts=5, top_k=2, dropout=0.0, renormalize=renormalize)
    )
    rows = torch.randn(20, 8)
    moved = experts(rows)
    assert torch.allclose(moved.rows, dense_reference(experts, rows), atol=1e-6)
    assert moved.use.sum() == 40 and moved.balance > 0
    even = Experts(ConnectorConfig(hidden=8, num_experts=5, top_k=5, dropout=0.0))
    torch.nn.init.zeros_(even.gate.weight)
    assert float(even(rows).balance.detach()) == pytest.approx(1.0)


def test_padding_of_token_latents_changes_nothing(tmp_path):
    config = settings(
        tmp_path,
        world(tmp_path),
        connect={"kind": "experts", "hidden": 16, "num_experts": 4, "top_k": 2, "dim_out": 8},
    )
    shared = AlignTask(config).model().eval().shared
    tokens = torch.randn(3, 5, 24)
    mask = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    together = shared.embed(tokens, ("image", "text"), CONTRAST, mask).rows
    for i, n in enumerate((5, 2, 3)):
        alone = shared.embed(tokens[i : i + 1, :n], ("image", "text"), CONTRAST).rows
        assert torch.allclose(together[i], alone[0], atol=1e-5)


@pytest.mark.parametrize("schedule", ["joint", "round_robin", "weighted", "adaptive"])
def test_a_shared_connector_learns_with_every_schedule(tmp_path, schedule):
    tasks = {"schedule": schedule, "regression": 0.5, "weights": {"image>text": 2.0}}
    connect = {
        "kind": "experts",
        "hidden": 32,
        "num_experts": 4,
        "top_k": 2,
        "dim_out": 16,
        "dropout": 0.0,
        "balance": 0.01,
    }
    config = settings(tmp_path, world(tmp_path), tasks=tasks, connect=connect)
    steps = 40 if schedule == "joint" else 240
    figures = align(
        from_mapping(
            AlignConfig,
            {**_mapping(config), "loop": {**_mapping(config)["loop"], "steps": steps}},
            "x",
        )
    )
    assert figures["R@1"] > 0.3  # chance 0.05
    model = load_aligner(tmp_path / "run")
    if schedule == "round_robin":
        assert [model.active(i)[0] for i in range(6)] == model.config.directions
    if schedule == "adaptive":
        assert not torch.allclose(model.recalls, torch.full_like(model.recalls, 0.5))
        model.recalls.fill_(1.0)
        model.recalls[2] = 0.0
        drawn = [model.active(i)[0] for i in range(200)]
        assert drawn.count(model.config.directions[2]) > 120


def _mapping(config):
    from fourm.config import to_mapping

    return to_mapping(config)


# ---- figures and runs ----------------------------------------------------------------------------


def test_recall_is_over_the_whole_gallery_and_counts_any_of_the_group():
    gallery = np.eye(6)
    queries = gallery[[0, 1, 2]] + 0.5 * gallery[[3, 1, 4]] * np.array([[3], [1], [1]])
    assert recall(queries, gallery, np.array([0, 1, 2]), np.arange(6), (1, 2)) == {
        "R@1": pytest.approx(2 / 3),
        "R@2": 1.0,
    }
    assert (
        recall(queries, gallery, np.array([0, 1, 2]), np.array([0, 1, 2, 0, 4, 5]), (1,))["R@1"]
        == 1.0
    )
    assert zero_shot(np.eye(3), np.eye(3), np.array([0, 1, 1])) == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    rows, asked = (
        rng.normal(size=(200, 8)).astype(np.float32),
        rng.normal(size=(9, 8)).astype(np.float32),
    )
    exact = ExactIndex(rows).search(asked, 5)
    assert (exact == np.argsort(-(asked @ rows.T), axis=1)[:, :5]).all()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["align", "adapt"])
def test_killed_and_started_again_the_result_is_bit_identical(tmp_path, what):
    import yaml

    if what == "align":
        config = settings(
            tmp_path,
            world(tmp_path),
            tasks={"schedule": "adaptive", "regression": 0.5},
            augment={"mixup": "shared", "noise": 0.1},
            connect={
                "kind": "experts",
                "hidden": 32,
                "num_experts": 4,
                "top_k": 2,
                "dim_out": 16,
                "dropout": 0.2,
            },
        )
    else:
        config = adaptation(tmp_path, domains(tmp_path))
    mapping = _mapping(config)
    mapping["loop"] |= {"steps": 400, "checkpoint_every": 40}
    files = {}
    for name in ("whole", "killed"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**mapping, "out": str(tmp_path / name)}))
        command = [sys.executable, "-m", "fourm.cli", "fusion", what, str(path)]
        if name == "killed":
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=ENVIRONMENT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            deadline = time.monotonic() + 60
            while (
                newest_checkpoint(tmp_path / name / "checkpoints") is None
                and time.monotonic() < deadline
            ):
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        newest = newest_checkpoint(tmp_path / name / "checkpoints")
        files[name] = (
            newest.name,
            (newest / "model.safetensors").read_bytes(),
            [
                json.loads(line)["loss"]
                for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
                if "loss" in json.loads(line)
            ],
        )
    assert files["whole"] == files["killed"]


def test_a_batch_is_of_the_same_samples_in_every_modality(tmp_path):
    task = AlignTask(settings(tmp_path, world(tmp_path)))
    batch = task.batches(0, 1)[3][0]
    again = batch_of(list(task.latents.values()), batch.samples, 3)
    assert all(torch.equal(a, b) for a, b in zip(batch.values, again.values, strict=True)) and set(
        batch.samples
    ) <= set(task.split.train)


def _rank(rank: int, port: int, out: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    a, b, groups = torch.randn(8, 4), torch.randn(8, 4), torch.tensor([0, 1, 2, 2, 3, 0, 4, 5])
    mine = slice(4 * rank, 4 * rank + 4)
    a, b = a[mine].clone().requires_grad_(), b[mine].clone().requires_grad_()
    loss = info_nce(a, b, torch.tensor(0.3), groups[mine])
    loss.backward()
    np.save(
        Path(out, f"{rank}.npy"),
        np.concatenate([a.grad.numpy(), b.grad.numpy(), np.full((1, 4), float(loss.detach()))]),
    )
    dist.barrier()
    os._exit(0)  # gloo's threads may abort while the interpreter of the other rank is gone already


@pytest.mark.slow
def test_contrast_across_two_ranks_is_that_of_the_whole_batch(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = (
        "import sys; sys.path[:0] = ['tests']; import test_alignment;"
        f" test_alignment._rank(int(sys.argv[1]), {port}, {str(tmp_path)!r})"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(rank)], cwd=ROOT, env=ENVIRONMENT)
        for rank in range(2)
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    parts = [np.load(tmp_path / f"{rank}.npy") for rank in range(2)]
    torch.manual_seed(0)
    a, b = torch.randn(8, 4).requires_grad_(), torch.randn(8, 4).requires_grad_()
    loss = info_nce(a, b, torch.tensor(0.3), torch.tensor([0, 1, 2, 2, 3, 0, 4, 5]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(parts[0][-1, 0] + parts[1][-1, 0], rel=1e-5)
    for i, whole in enumerate((a.grad, b.grad)):
        assert np.allclose(
            np.concatenate([p[4 * i : 4 * i + 4] for p in parts]), whole.numpy(), atol=1e-5
        )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "alignment").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_config_loads(path):
    from fourm.config import load

    load(AdaptConfig if path.stem.startswith("unimos") else AlignConfig, path)
