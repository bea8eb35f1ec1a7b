"""What is computed does not change: loss curves, the demo model's ids, and files of earlier
releases.
"""

import json
import shutil
import sys
from pathlib import Path

import curves
import masker_of_0_4_0
import numpy as np
import pytest
import yaml
from fourm_data_prep.tokenize import TokenizeStep, tokenize
from fourm_tokenizers.picture import load_autoencoder
from release_fixture import STOPPED_AT, is_latent, modality_set, pretrain_config, rgb_alone
from test_muon import five_steps
from worlds import curve

from fourm import AnyToAnyPipeline, ModalitySet
from fourm.codecs import CodecSet
from fourm.config import from_mapping
from fourm.data.columns import open_chunks
from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.errors import UserError
from fourm.model.model import load_model
from fourm.pipeline.preferred import read_options
from fourm.resources import demo_model_folder
from fourm.training.checkpoints import read_checkpoint
from fourm.training.pretrain import PretrainConfig, pretrain

DATA = Path(__file__).parent / "data"
OF_0_4_0 = json.loads((DATA / "curves" / "curves-0.4.0.json").read_text())["curves"]
# docs/log.md says why: Muon has all matrices of a latent encoder since 0.5.0
CHANGED_ON_PURPOSE = {"pretrain-jar-muon": 1e-3}
RECORDED = json.loads((DATA / "curves" / "curves.json").read_text())
RELEASES = sorted((DATA / "releases").iterdir())


@pytest.fixture(scope="module")
def recorded_again(tmp_path_factory) -> dict[str, list[float]]:
    return curves.record(tmp_path_factory.mktemp("curves"))


@pytest.mark.parametrize("name", RECORDED["curves"])
def test_a_small_training_has_the_recorded_curve(recorded_again, name):
    same_machine = curves.machine() == RECORDED["machine"]
    found, wanted = recorded_again[name], RECORDED["curves"][name]
    if same_machine:
        assert found == wanted
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def recorded_as_in_0_4_0(tmp_path_factory) -> dict[str, list[float]]:
    """With the two things that are computed otherwise since then: how Muon's matrices are made
    orthogonal (tests/test_muon.py compares the two), and where a window into a target begins.
    """
    with pytest.MonkeyPatch.context() as patch:
        masker_of_0_4_0.use(patch)
        patch.setattr("fourm.training.optimizers.orthogonalize", five_steps)
        return curves.record(tmp_path_factory.mktemp("curves"))


@pytest.mark.parametrize("name", OF_0_4_0)
def test_a_small_training_has_the_curve_of_the_release_before_to_rounding(
    recorded_as_in_0_4_0, name
):
    tolerance = CHANGED_ON_PURPOSE.get(name, 1e-5)
    np.testing.assert_allclose(recorded_as_in_0_4_0[name], OF_0_4_0[name], rtol=tolerance)


def demo_ids() -> dict[str, list[list[int]]]:
    """Ids that the shipped model gives for fixed inputs and seeds, on every kind of path, by the
    settings that it had when they were recorded.
    """
    pipe = AnyToAnyPipeline.from_pretrained(demo_model_folder())
    pipe.options = read_options(DATA / "curves" / "generation.yaml")
    caption = "a large red cube left of a small blue sphere"
    first = pipe({"caption": caption}, targets=["depth", "rgb"], seed=5, num_samples=2)
    again = pipe({"rgb": first["rgb"].values}, targets=["caption", "boxes", "semseg"], seed=7)
    found = {**first, **{f"rgb->{name}": result for name, result in again.items()}}
    for scheme in ("halton", "roar", "raster", "entropy"):
        result = pipe({"caption": caption}, targets=["rgb"], seed=3, scheme=scheme, steps=6)
        found[scheme] = result["rgb"]
    return {name: [ids.tolist() for ids in result.ids] for name, result in found.items()}


def test_the_shipped_model_gives_the_recorded_ids():
    assert demo_ids() == json.loads((DATA / "curves" / "demo_ids.json").read_text())


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_checkpoint_of_an_earlier_release_is_resumed(release, tmp_path, monkeypatch):
    masker_of_0_4_0.use(monkeypatch)
    curves.write_shards(tmp_path)
    text = yaml.safe_dump(modality_set(), sort_keys=False)
    (tmp_path / "modalities.yaml").write_text(text)
    shutil.copytree(release / "run", tmp_path / "run")
    pretrain(
        from_mapping(
            PretrainConfig, pretrain_config(tmp_path, tmp_path / "run", is_latent(release)), "test"
        )
    )
    found = [loss for _, loss in curve(tmp_path / "run")]
    wanted = json.loads((release / "curve.json").read_text())
    assert len(found) == len(wanted) - STOPPED_AT
    np.testing.assert_allclose(found, wanted[STOPPED_AT:], rtol=1e-5)


@pytest.mark.parametrize(
    "release", [path for path in RELEASES if not is_latent(path)], ids=lambda path: path.name
)
def test_a_tokenizer_of_an_earlier_release_makes_its_ids_or_is_refused(release, tmp_path):
    curves.write_shards(tmp_path)
    codecs = CodecSet(ModalitySet.from_mapping(modality_set()), release / "tokenizers")
    if release.name == "0.1.0":  # said in the changelog of 0.2.0
        with pytest.raises(ValueError, match="train it again"):
            codecs["rgb"].fingerprint  # noqa: B018
        return
    report = DamageReport()
    for split in ("train", "val"):
        for name in shard_paths(release / "tokens", split, "rgb"):
            wanted = dict(read_shard(name, _npy, ("npy",), report))
            pictures = dict(
                read_shard(tmp_path / "raw" / split / "rgb" / name.name, _png, ("png",), report)
            )
            assert list(wanted) == list(pictures)
            found = codecs["rgb"].encode(list(pictures.values()))
            for ids, stored in zip(found, wanted.values(), strict=True):
                assert (np.asarray(ids) == stored.reshape(-1)).all()


@pytest.mark.parametrize("name", ["model", "tokenizer", "checkpoint", "manifest"])
def test_a_file_of_a_newer_release_is_refused_with_a_sentence(name, tmp_path):
    release = next(path for path in RELEASES if path.name == "0.4.0")
    shutil.copytree(release, tmp_path / "r")
    run = tmp_path / "r" / "run" / "checkpoints" / "step_00000004"
    rgb, manifests = tmp_path / "r/tokenizers/rgb", tmp_path / "r/tokens/manifests"
    place, read = {
        "model": (run / "config.json", lambda: load_model(run)),
        "tokenizer": (rgb / "config.json", lambda: load_autoencoder(rgb)),
        "checkpoint": (run / "state.json", lambda: read_checkpoint(run)),
        "manifest": (
            manifests / "tokenize" / "train-00000.json",
            lambda: _tokenize_again(tmp_path),
        ),
    }[name]
    described = json.loads(place.read_text())
    place.write_text(json.dumps({**described, "format": 99}))
    with pytest.raises(UserError, match="format 99, this version reads up to 1"):
        read()


def _tokenize_again(folder: Path) -> None:
    curves.write_shards(folder)
    (folder / "rgb.yaml").write_text(yaml.safe_dump(rgb_alone(), sort_keys=False))
    tokenize(folder / "rgb.yaml", folder / "raw", folder / "r/tokenizers", folder / "r/tokens")


def test_shards_that_an_earlier_release_made_are_joined_and_not_made_again(tmp_path, monkeypatch):
    release = next(path for path in RELEASES if path.name == "0.4.0")
    shutil.copytree(release, tmp_path / "r")
    monkeypatch.setattr(TokenizeStep, "run", lambda self, job: pytest.fail("made again"))
    _tokenize_again(tmp_path)
    assert not list((tmp_path / "r" / "tokens").rglob("*.tar"))
    for split in ("train", "val"):
        (tar,) = shard_paths(release / "tokens", split, "rgb")
        wanted = dict(read_shard(tar, _npy, ("npy",), DamageReport()))
        found = dict(open_chunks(tmp_path / "r" / "tokens", split, "rgb").samples())
        assert list(found) == [f"{tar.stem}/{key}" for key in wanted]
        assert all((found[f"{tar.stem}/{key}"] == ids).all() for key, ids in wanted.items())


def _npy(data: bytes, _: str) -> np.ndarray:
    from fourm.data.npy import read_npy

    return read_npy(data)


def _png(data: bytes, _: str) -> np.ndarray:
    from fourm.data.pictures import open_picture

    return np.asarray(open_picture(data))


# python tests/test_same_curves.py: record anew, after a change on purpose
if __name__ == "__main__":
    curves.main(str(DATA / "curves" / "curves.json"))
    (DATA / "curves" / "demo_ids.json").write_text(json.dumps(demo_ids()) + "\n")
    sys.exit()
