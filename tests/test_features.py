"""Features, probes and search: batches are their samples, what is cut short goes on, few labels are
enough where a label is plain, and what is searched is found. The model is the demo's own.
"""

import csv
import json
import re
import sys

import numpy as np
import pytest
import torch
from conftest import make_model
from demo_labels import SEED, write_scenes

from fourm.alignment.latents import open_latents
from fourm.alignment.retrieval import ExactIndex, recall
from fourm.cli import main
from fourm.demo.scenes_to_shards import VALIDATION_SEED
from fourm.demo.world import caption, make_scenes
from fourm.errors import UserError
from fourm.features import write
from fourm.features.heads import HEADS
from fourm.features.index import open_index
from fourm.features.neighbours import Neighbours
from fourm.features.opening import encoder_source
from fourm.features.search import search
from fourm.features.sources import random_encoder
from fourm.features.spaces import Projection, Space, nearest_rows
from fourm.features.write import write_features
from fourm.model.encoder import Latent
from fourm.pipeline.given import Tokens
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.resources import demo_model_folder

NUM = 24
MODEL = str(demo_model_folder())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 2 * NUM, NUM)
    return root


@pytest.fixture(scope="module")
def pipe():
    return AnyToAnyPipeline.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def index(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("index")
    words = ["index", MODEL, str(scenes), "--out", str(out), "--queries", "caption"]
    main([*words, "--judge", "8", "--rerank", "4"])
    return out


def refusal(words, capsys):
    """What a command says as it refuses."""
    with pytest.raises(SystemExit) as ending:
        main(words)
    assert ending.value.code == 2
    return capsys.readouterr().err


def scene(number):
    rgb = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
    return {"rgb": rgb, "caption": f"a {'large ' * number}red cube"}


# ---- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["mean", "modality", "none"])
def test_a_batch_is_its_samples_at_every_layer(pipe, pool):
    samples = [scene(i) for i in range(3)]
    batch = {name: [sample[name] for sample in samples] for name in samples[0]}
    layers = (0, 1, -1)
    rows = pipe.encode_features(batch, layers, pool)
    alone = [pipe.encode_features(sample, layers, pool) for sample in samples]
    torch.testing.assert_close(rows.vectors, torch.cat([each.vectors for each in alone]))
    assert rows.lengths.tolist() == [int(each.lengths[0]) for each in alone]
    for name in ("modality", "position"):
        joined = np.concatenate([getattr(each, name) for each in alone])
        assert np.array_equal(getattr(rows, name), joined)


def test_layers_lie_side_by_side_and_the_last_is_the_encoders_output(pipe):
    both = pipe.encode_features(scene(1), (0, -1), "none").vectors
    width = pipe.model.config.dim
    (last,) = pipe.features(scene(1))
    assert torch.equal(both[:, width:], last)
    assert not torch.allclose(both[:, :width], last)


def test_pools_are_means_of_the_tokens_that_they_name(pipe):
    tokens = pipe.encode_features(scene(1), pool="none")
    each = pipe.encode_features(scene(1), pool="modality")
    torch.testing.assert_close(each.of("pixels")[0], tokens.of("pixels").mean(0))
    torch.testing.assert_close(each.of("caption")[0], tokens.of("caption").mean(0))
    whole = pipe.encode_features(scene(1)).vectors[0]
    torch.testing.assert_close(whole, tokens.vectors.mean(0))


def test_maps_put_every_token_at_its_place_and_zero_where_none_was_given(pipe):
    keep = np.zeros(64, bool)
    keep[[3, 17]] = True
    rows = pipe.encode_features({"depth": Tokens(np.arange(64), keep)}, pool="none")
    (maps,) = rows.maps("depth")
    assert maps.shape == (pipe.model.config.dim, 8, 8)
    assert torch.equal(maps[:, 0, 3], rows.vectors[0]) and torch.equal(
        maps[:, 2, 1], rows.vectors[1]
    )
    assert maps.flatten(1)[:, ~keep].abs().max() == 0


@pytest.mark.parametrize(
    ("options", "name"), [({"pool": "sum"}, "'sum'.*mean"), ({"layers": [9]}, "no layer 9")]
)
def test_what_is_asked_wrongly_is_named(pipe, options, name):
    with pytest.raises(UserError, match=name):
        pipe.encode_features(scene(0), **options)


def test_a_mistyped_pool_leaves_nothing_behind(scenes, tmp_path, capsys):
    out = tmp_path / "out"
    assert "'sum'" in refusal(
        ["features", MODEL, str(scenes), "--out", str(out), "--pool", "sum"], capsys
    )
    assert not out.exists()


def test_a_latent_encoder_gives_its_latents_and_no_map(modalities):
    model = make_model(modalities, encoder=Latent(num_tokens=4), encoder_depth=3)
    latent = AnyToAnyPipeline(model, "nowhere")
    name = next(m.name for m in model.modalities.inputs if m.kind == "grid")
    ids = Tokens(np.zeros(model.modalities[name].num_tokens, int))
    rows = latent.encode_features({name: ids}, pool="none")
    assert rows.lengths.tolist() == [4] and (rows.modality == -1).all()
    torch.testing.assert_close(latent.encode_features({name: ids}).vectors[0], rows.vectors.mean(0))
    with pytest.raises(UserError, match="no feature maps"):
        rows.maps(name)
    with pytest.raises(UserError, match="last layer alone"):
        latent.encode_features({name: ids}, layers=(0,))


def test_registers_are_rows_of_no_modality_and_not_of_the_mean(modalities):
    model = make_model(modalities, num_registers=2)
    pipe = AnyToAnyPipeline(model, "nowhere")
    name = next(m.name for m in model.modalities.inputs if m.kind == "grid")
    num = model.modalities[name].num_tokens
    rows = pipe.encode_features({name: [Tokens(np.zeros(num, int))] * 2}, pool="none")
    assert rows.lengths.tolist() == [num + 2] * 2
    assert np.flatnonzero(rows.modality == -1).tolist() == [0, 1, num + 2, num + 3]
    means = rows.mean().vectors
    torch.testing.assert_close(means[1], rows.vectors[num + 4 :].mean(0))


# ---- files ---------------------------------------------------------------------------------------


def test_what_was_cut_short_goes_on_and_is_the_same(scenes, tmp_path, monkeypatch):
    source = encoder_source(MODEL, "rgb,caption", tmp_path, "0,-1", "none")
    whole = write_features(source, scenes, "val", tmp_path / "whole")
    monkeypatch.setattr(write, "_PART", 7)
    seen = []

    class Failing:
        name, inputs, made_by = source.name, source.inputs, source.made_by

        def rows(self, samples):
            seen.append(len(samples))
            if len(seen) == 3:
                raise KeyboardInterrupt
            return source.rows(samples)

    with pytest.raises(KeyboardInterrupt):
        write_features(Failing(), scenes, "val", tmp_path / "cut")
    with pytest.raises(UserError, match="missing"):
        open_latents(tmp_path / "cut")
    resumed = write_features(Failing(), scenes, "val", tmp_path / "cut")
    assert seen == [7, 7, 7, 7, 3]  # two parts were kept
    assert resumed.keys == whole.keys
    np.testing.assert_allclose(resumed.vectors, whole.vectors, rtol=1e-4, atol=1e-5)
    for name in ("offsets.npy", "places.npy"):
        first, second = (np.load(tmp_path / folder / name) for folder in ("whole", "cut"))
        assert np.array_equal(first, second)
    assert not (tmp_path / "cut" / "parts").exists()


def test_features_of_other_settings_are_refused_by_name(scenes, tmp_path, capsys):
    words = ["features", MODEL, str(scenes), "--out", str(tmp_path), "--samples", "4"]
    main(words)
    assert open_latents(tmp_path).vectors.shape == (4, 128)
    assert "other settings (inputs" in refusal([*words, "--inputs", "rgb,caption"], capsys)
    assert "no split 'test'" in refusal([*words, "--split", "test"], capsys)


# ---- probes --------------------------------------------------------------------------------------


def test_labels_of_the_demo_are_what_captions_say(scenes):
    with open(scenes / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * NUM and {row["count"] for row in rows} == {"1", "2"}
    made = make_scenes(VALIDATION_SEED + SEED, np.arange(NUM))
    for number, row in enumerate(row for row in rows if row["split"] == "val"):
        text = caption(made, number)
        assert f"{row['colour']} {row['shape']}" in text
        assert text.count(" left of ") == int(row["count"]) - 1


def test_every_probe_finds_a_plain_label_and_none_finds_noise(scenes, tmp_path, capsys):
    """How many solids there are is plain to see in a caption."""
    out = ["--out", str(tmp_path), "--shots", "40", "--seeds", "1", "--inputs", "caption"]
    table = scenes / "noise.csv"
    with open(scenes / "labels.csv", newline="") as file:
        keys = [(row["split"], row["key"]) for row in csv.DictReader(file)]
    coin = np.random.default_rng(0).integers(2, size=len(keys))
    lines = ["split,key,noise", *(f"{s},{k},{c}" for (s, k), c in zip(keys, coin, strict=True))]
    table.write_text("\n".join(lines))
    labels = ["--label", f"{scenes / 'labels.csv'}:count", "--label", f"{table}:noise"]
    main(["probe", MODEL, str(scenes), *labels, *out])
    scores = json.loads((tmp_path / "probe.json").read_text())["scores"]
    found = {(s["label"], s["source"], s["head"]): s["accuracy"] for s in scores}
    for head in HEADS:
        assert found["count", "model", head] > 0.9
        assert found["noise", "model", head] < 0.8
    assert ("count", "random encoder", "linear") in found and ("count", "majority", "") in found
    assert "majority" in capsys.readouterr().out


def test_a_random_encoder_is_no_identity_and_the_same_each_time(tmp_path):
    source = encoder_source(MODEL, "rgb", tmp_path)
    first, second = random_encoder(source).pipe, random_encoder(source).pipe
    rows = [p.encode_features(scene(0), (0, -1)).vectors[0] for p in (first, second)]
    assert torch.equal(*rows)
    width = first.model.config.dim
    assert (rows[0][:width] - rows[0][width:]).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("nowhere.csv:shape", "no table nowhere.csv"),
        ("{scenes}/labels.csv:shap", "no column 'shap'.*shape"),
        ("depth", "are pictures, no classes"),
        ("capton", "unknown modality 'capton'"),
        ("caption", "nothing to learn"),
    ],
)
def test_labels_that_cannot_be_learnt_are_named(scenes, tmp_path, capsys, label, message):
    words = ["probe", MODEL, str(scenes), "--no-baselines", "--shots", "4", "--out", str(tmp_path)]
    assert re.search(message, refusal([*words, "--label", label.format(scenes=scenes)], capsys))


# ---- search --------------------------------------------------------------------------------------


def test_search_by_blocks_is_search_of_the_whole():
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(101, 8)).astype(np.float32)
    side = Projection(gallery.mean(0), rng.normal(size=(8, 5)).astype(np.float32))
    queries = side(rng.normal(size=(4, 8)))
    numbers, scores = nearest_rows(queries, gallery, side, 7, block=10)
    assert np.array_equal(numbers, ExactIndex(side(gallery)).search(queries, 7))
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_space_finds_what_two_modalities_share_and_survives_its_file(tmp_path):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(400, 8))

    def seen():  # the shared part, and as much that is not, in directions of its own
        parts = np.concatenate([shared, rng.normal(size=shared.shape)], 1)
        return parts @ np.linalg.qr(rng.normal(size=(16, 16)))[0]

    x, y = seen(), seen()
    space = Space.fitted(x[:300], y[:300])
    space.save(tmp_path / "space.safetensors")
    read = Space.read(tmp_path / "space.safetensors")
    numbers, _ = nearest_rows(read.query(x[300:]), y[300:], read.gallery, 1)
    assert (numbers[:, 0] == np.arange(100)).mean() > 0.9
    assert recall(x[300:], y[300:], np.arange(100), np.arange(100))["R@1"] < 0.2
    assert np.array_equal(read.query(x), space.query(x))
    with pytest.raises(UserError, match="too few"):
        Space.fitted(x[:3], y[:3])


def test_a_picture_finds_itself_and_a_caption_what_the_model_says_of_it(index, scenes, capsys):
    opened = open_index(index)
    samples = opened.samples(np.array([5]), opened.pipe.modalities["rgb"])
    (first, second) = search(opened, {"rgb": samples.of("rgb")[0]}, 2)
    assert first.row == 5 and first.score > 0.999 > second.score
    (text,) = opened.samples(np.array([5]), opened.pipe.modalities["caption"]).of("caption")
    hits = search(opened, {"caption": text}, 1, rerank=NUM)
    (found,) = opened.samples(np.array([hits[0].row]), opened.pipe.modalities["caption"]).of(
        "caption"
    )
    assert found == text
    main(["search", str(index), "--caption", text, "--top", "3"])
    assert "results.html" in capsys.readouterr().out
    assert (index / "results.html").read_text().count('class="sample"') == 4


def test_recall_is_told_beside_chance(index):
    (found,) = json.loads((index / "recall.json").read_text())
    assert found["query"] == "caption -> rgb" and found["num"] == 8
    assert 1 / 8 <= found["chance"]["R@1"] < 0.3 and found["chance"]["R@10"] == 1
    assert found["reranked"]["R@1"] >= found["aligned"]["R@1"] and found["reranked_of"] == 4


def test_a_graph_finds_nearly_all_of_the_exact_nearest_and_survives_its_file(tmp_path):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 24))
    gallery = centres[rng.integers(0, 50, 5000)] + 0.5 * rng.normal(size=(5000, 24))
    side = Projection(gallery.mean(0), rng.normal(size=(24, 16)).astype(np.float32))
    asked = side(gallery[::50] + 0.1 * rng.normal(size=(100, 24)))
    exact, cosines = nearest_rows(asked, gallery, side, 10)
    Neighbours.built(gallery, side).save(tmp_path / "graph.faiss")
    found = Neighbours.read(tmp_path / "graph.faiss").nearest(asked, 10)
    assert found is not None
    assert np.mean([len(np.intersect1d(*pair)) for pair in zip(exact, found[0], strict=True)]) > 9.8
    assert found[1][:, 0] == pytest.approx(cosines[:, 0], abs=1e-5)
    few = Neighbours.built(gallery[:3], side).nearest(asked, 10)
    assert few is not None and few[0].shape == (100, 3)  # all that there are
    (tmp_path / "graph.faiss").write_bytes(b"IHNf but no more")
    with pytest.raises(UserError, match=r"graph\.faiss is damaged"):
        Neighbours.read(tmp_path / "graph.faiss")


def test_an_approximate_index_answers_by_its_graphs_as_the_exact_one_does(
    index, scenes, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("faiss")
    words = ["index", MODEL, str(scenes), "--out", str(tmp_path), "--queries", "caption"]
    main([*words, "--judge", "8", "--approximate"])
    assert "the graph finds 100.0 % of the exact nearest ten" in capsys.readouterr().out
    assert json.loads((tmp_path / "recall.json").read_text())[0]["by_graph"] == 1.0
    opened, exact = open_index(tmp_path), open_index(index)
    monkeypatch.setattr("fourm.features.index.nearest_rows", None)  # it is not asked
    for query in ({"caption": "a red cube"}, scene(0)):
        given = {name: query[name] for name in list(query)[:1]}
        by_graph = search(opened, given, 5)
        monkeypatch.undo()
        expected = search(exact, given, 5)
        assert [hit.row for hit in by_graph] == [hit.row for hit in expected]
        monkeypatch.setattr("fourm.features.index.nearest_rows", None)


def test_without_faiss_an_approximate_index_is_refused_before_it_is_made(
    scenes, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "faiss", None)
    words = ["index", MODEL, str(scenes), "--out", str(tmp_path / "index"), "--approximate"]
    assert "needs faiss: pip install 'fourm[search]'" in refusal(words, capsys)
    assert not (tmp_path / "index").exists()


def test_queries_that_an_index_has_no_space_for_are_named(index, tmp_path, capsys):
    assert "no space for boxes" in refusal(["search", str(index), "--input", "boxes=[]"], capsys)
    assert "no index in" in refusal(["search", str(tmp_path), "--caption", "a cube"], capsys)
    assert "no query" in refusal(["search", str(index)], capsys)
