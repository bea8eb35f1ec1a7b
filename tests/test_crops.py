"""Crops: every modality of a sample shows the same part of the picture, whoever cuts it; a dataset
of the hub's format imports like a folder.
"""

import io
import json

import numpy as np
import pytest
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import import_pictures
from fourm_data_prep.tokenize import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fourm.data.columns import open_chunks
from fourm.data.crops import Crop, crops_of
from fourm.data.npy import read_npy
from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.image import Image as RawImage
from fourm.raw.instances import Instances
from fourm.raw.labels import Labels
from fourm.raw.normal import Normal

STORED, SIZE = 96, 32
ONE = EngineConfig(workers=1)


class Means:
    """A codec whose ids are the means of a 4 x 4 grid of the picture: what it saw can be read from
    them.
    """

    codebook_size, fingerprint = 256, "means"

    def __init__(self, folder, modality):
        pass

    def encode(self, raw):
        grids = [np.asarray(v, np.float64).reshape(4, SIZE // 4, 4, SIZE // 4, -1) for v in raw]
        return [g.mean((1, 3, 4)).round().astype(np.int64).reshape(-1) for g in grids]

    def decode(self, ids):
        raise NotImplementedError


def scene():
    """Column and row as colours; depth and labels follow the columns; one box around a column
    band.
    """
    ramp = np.linspace(0, 1, STORED, dtype=np.float32)
    x, y = np.meshgrid(ramp, ramp)
    image = np.stack([255 * x, 255 * y, 0 * x], -1).astype(np.uint8)
    labels = (x > 0.5).astype(np.uint8)
    normal = np.stack([x, 0 * x, np.sqrt(1 - x**2)], -1).astype(np.float32)
    return image, x, labels, normal


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=8), st.booleans())
def test_all_modalities_of_a_crop_show_the_same_part(key, flip):
    image, depth, labels, normal = scene()
    for crop in crops_of(key, 4, flip=flip):
        red = RawImage(size=SIZE).cut(image, crop)[..., 0] / 255.0
        assert np.abs(red - Depth(size=SIZE).cut(depth, crop)).max() < 0.05
        spec = Labels(size=SIZE, classes=("left", "right"))
        clear = np.abs(red - 0.5) > 0.06
        assert ((red > 0.5) == spec.cut(labels, crop))[clear].all()
        turned = Normal(size=SIZE).cut(normal, crop)
        assert np.allclose(np.linalg.norm(turned, axis=-1), 1, atol=1e-5)
        assert (
            np.abs(np.abs(turned[..., 0]) - red).max() < 0.05
            and (np.sign(turned[..., 0]).mean() < 0) == crop.flip
        )
        (band,) = (
            Boxes().cut([{"box": [0.0, 0.0, 1.0, 1.0], "label": "all"}], crop)
            if crop.whole
            else [None]
        )
        assert band is None or band["box"] == [0, 0, 1, 1]


def test_boxes_move_with_their_crop_and_leave_with_it():
    boxes = [
        {"box": [0.5, 0.5, 0.75, 0.75], "label": "in"},
        {"box": [0.0, 0.0, 0.2, 0.2], "label": "out"},
    ]
    crop = Crop(top=0.5, left=0.25, side=0.5)
    assert Boxes().cut(boxes, crop) == [{"box": [0.5, 0.0, 1.0, 0.5], "label": "in"}]
    mirrored = Crop(top=0.5, left=0.25, side=0.5, flip=True)
    assert Boxes().cut(boxes, mirrored) == [{"box": [0.0, 0.0, 0.5, 0.5], "label": "in"}]
    with pytest.raises(ValueError, match="instances cannot be cropped"):
        Instances().cut({}, crop)


def test_what_is_stored_larger_is_reduced_and_what_is_smaller_is_refused():
    spec = Depth(size=SIZE, range=(0.0, 1.0))
    large = Depth(size=STORED, range=(0.0, 1.0))
    data = large.write(scene()[1])
    assert spec.read(data, "npy").shape == (SIZE, SIZE) and spec.read(
        data, "npy", native=True
    ).shape == (
        STORED,
        STORED,
    )
    with pytest.raises(ValueError, match="expected"):
        spec.read(Depth(size=16).write(np.zeros((16, 16))), "npy")


CONFIG = f"""
modalities:
  rgb: {{kind: grid, raw: {{type: image, size: {SIZE}}}, vocab_size: 256, grid: [4, 4],
         tokenizer: means}}
  edges: {{kind: grid, raw: {{type: array, size: {SIZE}, channels: 1}},
           labeller: "test_crops:brightness", vocab_size: 256, grid: [4, 4], tokenizer: means}}
tokenizers: {{means: {{type: "test_crops:Means"}}}}
"""


def brightness(samples, spec):
    return [p.mean(-1, keepdims=True).astype(np.float32) for p in samples.pictures]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "tokenizers" / "means").mkdir(parents=True)
    (tmp_path / "m.yaml").write_text(CONFIG)
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (4, 4, 3)).astype(np.uint8)).resize(
            (STORED, STORED)
        ).save(tmp_path / "pictures" / f"p{i}.png")
    return tmp_path


def tokens(folder, name):
    column = open_chunks(folder, "train", name)
    return {key.partition("/")[2]: ids for key, ids in column.samples()}


def crop_settings(folder):
    path = shard_paths(folder, "train", "crop_settings")[0]
    return dict(read_shard(path, lambda d, _: read_npy(d), ("npy",), DamageReport()))


def test_tokens_of_crops_agree_between_modalities_and_tell_where_they_were_cut(project):
    import_pictures(
        project / "pictures", project / "m.yaml", project / "raw", engine=ONE, size=STORED
    )
    tokenize(
        project / "m.yaml",
        project / "raw",
        project / "tokenizers",
        project / "tokens",
        engine=ONE,
        crops=3,
    )
    rgb, edges = (tokens(project / "tokens", name) for name in ("rgb", "edges"))
    places = crop_settings(project / "tokens")
    assert list(rgb) == list(edges) == list(places) and len(rgb) == 3 * len(
        [k for k in rgb if "~" not in k]
    )
    assert all(np.abs(rgb[k].astype(int) - edges[k]).max() <= 2 for k in rgb)
    assert places["p0"].tolist() == [0, 0, 1, 1, 0] and 0.44 < places["p0~1"][2] < 1
    assert any((rgb[k] != rgb[k.partition("~")[0]]).any() for k in rgb)
    tokenize(
        project / "m.yaml", project / "raw", project / "tokenizers", project / "once", engine=ONE
    )
    once = tokens(project / "once", "rgb")
    assert all((once[k] == rgb[k]).all() for k in once)


def test_a_size_that_does_not_fit_is_named(project):
    with pytest.raises(ValueError, match="take a multiple of 32"):
        import_pictures(
            project / "pictures", project / "m.yaml", project / "raw", engine=ONE, size=16
        )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["disk", "parquet", "streamed"])
def test_a_dataset_of_the_hub_imports_with_its_captions_and_tells_what_it_skipped(
    tmp_path, form, monkeypatch
):
    datasets = pytest.importorskip("datasets")
    from fourm_data_prep import hub_datasets

    def encoded(i):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 30), (20 * i, 0, 0)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue() if i != 3 else b"nothing", "path": None}

    rows = {
        "image": [encoded(i) for i in range(12)],
        "caption": [[f"picture {i}", "another"] for i in range(12)],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Sequence(datasets.Value("string"))}
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    source = tmp_path / "set"
    if form == "disk":
        made.save_to_disk(source)
    else:
        source.mkdir()
        made.to_parquet(source / "train.parquet")
    if form == "streamed":
        monkeypatch.setattr(
            hub_datasets,
            "open_dataset",
            lambda n, s: datasets.load_dataset(n, split=s, streaming=True),
        )
    (tmp_path / "m.yaml").write_text(
        "modalities:\n  rgb: {kind: grid, raw: {type: image, size: 16}, vocab_size: 8, grid: [2,"
        " 2]}\n"
        "  caption: {kind: sequence, raw: {type: text}, vocab_size: 300, max_tokens: 20}\n"
    )
    import_pictures(
        f"hf:{source}", tmp_path / "m.yaml", tmp_path / "raw", max_damage=0.2, engine=ONE
    )
    captions = {}
    for split in ("train", "val"):
        for path in shard_paths(tmp_path / "raw", split, "caption"):
            captions |= dict(read_shard(path, lambda d, _: d.decode(), ("txt",), DamageReport()))
    assert sorted(captions.values()) == sorted(f"picture {i}" for i in range(12) if i != 3)
    skipped = json.loads((tmp_path / "raw" / "damage-import.json").read_text())["entries"]
    assert len(skipped) == 1 and "no readable picture" in skipped[0]["reason"]


def test_a_dataset_that_is_not_there_is_one_clear_error(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    (tmp_path / "m.yaml").write_text(
        "modalities:\n  rgb: {kind: grid, raw: {type: image, size: 16}, vocab_size: 8, grid: [2,"
        " 2]}\n"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot be opened"):
        import_pictures(
            f"hf:{tmp_path / 'empty'}", tmp_path / "m.yaml", tmp_path / "raw", engine=ONE
        )
