"""Alignment on cached latents: connectors map into the space that is searched, losses are their
definitions, pairs are chosen, recall is over all.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from latent_worlds import adaptation, domains, settings, world

from fourm.alignment.align import (
    AlignTask,
    align,
    embed_latents,
    figures_on_test,
    load_aligner,
)
from fourm.alignment.augment import AugmentConfig, augment
from fourm.alignment.contrast import info_nce
from fourm.alignment.latents import open_latents, write_latents
from fourm.alignment.pairs import SplitConfig, split_subjects
from fourm.alignment.retrieval import ExactIndex, recall, zero_shot
from fourm.alignment.subset import greedy_dpp
from fourm.config import to_mapping


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
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(to_mapping(settings(tmp_path, latents))))
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
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(to_mapping(adaptation(tmp_path / "d", places))))
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
