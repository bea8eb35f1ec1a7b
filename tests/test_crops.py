"""Crops: every modality of a sample shows the same part of the picture, whoever cuts it; a dataset
of the hub's format imports like a folder.
"""

import io
import json

import numpy as np
import pytest
import yaml
from einops import rearrange
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import import_pictures
from fourm_data_prep.tokenize import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fourm.config import load
from fourm.data.columns import open_chunks
from fourm.data.crops import Crop, crops_of
from fourm.data.npy import read_npy, write_npy
from fourm.data.shards import DamageReport, read_shard, shard_path, shard_paths, write_shard
from fourm.data.store import Source, SourceConfig
from fourm.data.tar_headers import members_of
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.image import Image as RawImage
from fourm.raw.instances import Instances
from fourm.raw.labels import Labels
from fourm.raw.normal import Normal
from fourm.training.pretrain import PretrainConfig, pretrain

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
        if crop.whole:
            (band,) = Boxes().cut([{"box": [0.0, 0.0, 1.0, 1.0], "label": "all"}], crop)
            assert band["box"] == [0, 0, 1, 1]


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


def test_what_is_stored_at_another_size_is_brought_to_the_modalitys():
    spec = Depth(size=SIZE, range=(0.0, 1.0))
    large = Depth(size=STORED, range=(0.0, 1.0))
    data = large.write(scene()[1])
    assert spec.read(data, "npy").shape == (SIZE, SIZE) and spec.read(
        data, "npy", native=True
    ).shape == (
        STORED,
        STORED,
    )
    small = spec.read(Depth(size=16).write(np.full((16, 16), 0.5)), "npy")
    assert small.shape == (SIZE, SIZE) and (small == 0.5).all()


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


MASKING = """
masking:
  num_inputs: [4, 8]
  num_targets: [4, 8]
  components:
    - {input_default: 0.5, target_default: 0.5}
    - {input: {pixels: 100}, target_default: 0.5}
model: {dim: 16, encoder_depth: 1, decoder_depth: 1, num_heads: 2}
loop: {steps: 6, batch_size: 8, log_every: 1, num_workers: 2, threads: 1}
eval_samples: 8
"""


def with_pixels(project, **raw):
    """The project with pixels as a continuous modality, and vectors of each whole picture."""
    config = yaml.safe_load(CONFIG)
    given = {"type": "image", "size": SIZE, **raw}
    config["modalities"]["pixels"] = {
        **{"kind": "continuous", "source": "rgb", "patch_size": 8, "raw": given},
    }
    (project / "m.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return ModalitySet.load(project / "m.yaml")


def photographs(project, split="train", num=12):
    """Raw shards of pictures as the web has them: of any size, turned, JPEG, WebP and PNG."""
    files, rng = [], np.random.default_rng(len(split))
    for i in range(num):
        width, height = rng.integers(SIZE + 4, 4 * SIZE, 2)
        small = Image.fromarray(rng.integers(0, 255, (5, 4, 3), dtype=np.uint8))
        kind, extension = [("JPEG", "jpg"), ("WEBP", "webp"), ("PNG", "png")][i % 3]
        exif = Image.Exif()
        exif[0x0112] = 1 + i % 8
        buffer = io.BytesIO()
        small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind, exif=exif)
        files.append((f"{split}{i}", extension, buffer.getvalue()))
    write_shard(shard_path(project / "raw", split, "rgb", 0), files)
    return files


def run_tokenize(project, **options):
    folders = (project / name for name in ("m.yaml", "raw", "tokenizers", "tokens"))
    tokenize(*folders, engine=ONE, **options)


def opened(project, modalities):
    config = SourceConfig(tokens=str(project / "tokens"), raw=str(project / "raw"))
    return Source(config, "train", modalities, project / "cache", 0.0)


@pytest.mark.parametrize("flip", [False, True])
def test_pixels_are_cut_as_the_tokens_of_their_sample_were(project, flip):
    modalities, files = with_pixels(project), photographs(project)
    run_tokenize(project, crops=4, flip=flip)
    note = json.loads((project / "tokens/train/crop_settings/crops.json").read_text())
    assert note == {"format": 1, "num_crops": 4, "flip": flip, "seed": 0}
    source = opened(project, modalities)
    assert source.num_samples == 4 * len(files) == source.presence.together[0][1]
    samples = np.arange(source.num_samples)
    tokens, m = source.gather(samples), modalities["pixels"]
    taken, ids = (tokens.content[name].padded() for name in ("pixels", "rgb"))
    by_key = {key: (data, extension) for key, extension, data in files}
    for name, patches, seen in zip(source.keys(samples), taken, ids, strict=True):
        key, _, number = name.partition("/")[2].partition("~")
        whole = m.raw.read(*by_key[key], native=True)
        part = m.raw.cut(whole, crops_of(key, 4, flip=flip)[int(number or 0)])
        expected = rearrange(part, "(h p) (w q) c -> (h w) (p q c)", p=8, q=8)
        assert np.array_equal(patches, expected)
        assert np.array_equal(seen, Means(None, None).encode([part])[0])


def test_vectors_that_tell_nothing_of_places_are_those_of_every_crop(project):
    modalities = with_pixels(project)
    config = modalities.to_mapping()
    vectors = {
        "kind": "continuous",
        "max_tokens": 2,
        "width": 3,
        "raw": {"type": "vectors", "channels": 3},
    }
    config["modalities"]["words"] = vectors
    (project / "m.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    files = photographs(project)
    rows = {key: np.full((2, 3), i, np.float32) for i, (key, _, _) in enumerate(files)}
    members = [(key, "npy", write_npy(value)) for key, value in rows.items()]
    write_shard(shard_path(project / "raw", "train", "words", 0), members)
    run_tokenize(project, crops=3)
    source = opened(project, ModalitySet.load(project / "m.yaml"))
    samples = np.arange(source.num_samples)
    words = source.gather(samples).content["words"].padded()
    for name, value in zip(source.keys(samples), words, strict=True):
        assert np.array_equal(value, rows[name.partition("/")[2].partition("~")[0]])


def test_crops_of_an_earlier_release_are_noted_by_tokenizing_again_which_makes_no_token(project):
    modalities = with_pixels(project)
    photographs(project)
    run_tokenize(project, crops=2)
    note = project / "tokens/train/crop_settings/crops.json"
    note.unlink()
    with pytest.raises(UserError, match="run `fourm tokenize` with the same --crops again"):
        opened(project, modalities)
    files = [p for kind in ("*.tar", "*.bin") for p in (project / "tokens").rglob(kind)]
    before = {p: p.stat().st_mtime_ns for p in files}
    run_tokenize(project, crops=2)
    assert len(before) > 4 and {p: p.stat().st_mtime_ns for p in files} == before
    assert opened(project, modalities).num_samples == 24
    run_tokenize(project)  # and without crops
    assert json.loads(note.read_text())["num_crops"] == 1


def test_a_run_learns_from_crops_with_pixels_and_goes_on_where_a_picture_is_damaged(project):
    with_pixels(project)
    photographs(project)
    photographs(project, "val", 4)
    run_tokenize(project, crops=2)
    (tar,) = shard_paths(project / "raw", "train", "rgb")
    data = bytearray(tar.read_bytes())
    name, offset, size = next(
        (m.name, m.offset, m.size) for m in members_of(tar) if m.name.endswith("webp")
    )
    data[offset + 20 : offset + size] = bytes(size - 20)
    tar.write_bytes(data)
    config = yaml.safe_load(MASKING) | {
        "out": str(project / "run"),
        "modalities": str(project / "m.yaml"),
        "data": {
            "sources": [{"tokens": str(project / "tokens"), "raw": str(project / "raw")}],
            "cache": str(project / "cache"),
        },
    }
    (project / "pretrain.yaml").write_text(yaml.safe_dump(config))
    figures = pretrain(load(PretrainConfig, project / "pretrain.yaml"))
    assert np.isfinite(list(figures.values())).all()
    records = [json.loads(r) for r in (project / "run/log.jsonl").read_text().splitlines()]
    assert records[-1].get("unreadable", records[-2].get("unreadable", 0)) > 0, name


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
