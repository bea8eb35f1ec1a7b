"""Labellers: pretrained networks through transformers (here small ones of the same classes with random weights), and exact ones."""

import numpy as np
import pytest
import torch
from fourm_data_prep.adapters import normals_of_depth
from fourm_data_prep.labellers import Samples, open_labeller

from fourm.data.raw import check_raw, check_vectors
from fourm.modalities import RawSpec

PICTURES = [np.random.default_rng(i).integers(0, 255, (48, 48, 3)).astype(np.uint8) for i in range(3)]
SAMPLES = Samples(PICTURES, ["a cat", "two dogs in the sky", ""])


def test_statistics_of_pictures_are_those_of_their_definitions():
    label = open_labeller("statistics")
    grey, red = np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    plain, colored = label(Samples([grey, red]), RawSpec(type="metadata"))
    assert plain == {
        "colorfulness": 0.0,
        "brightness": pytest.approx(100),
        "contrast": pytest.approx(0, abs=1e-9),
        "saturation": 0.0,
        "entropy": 0.0,
    }
    assert colored["saturation"] == 255 and colored["colorfulness"] == pytest.approx(0.3 * np.hypot(255, 127.5))
    checker = np.indices((8, 8)).sum(0) % 2
    half = label(Samples([np.repeat((checker * 200)[..., None], 3, -1).astype(np.uint8)]), RawSpec(type="metadata"))[0]
    assert half["entropy"] == pytest.approx(1.0) and half["contrast"] == pytest.approx(100)


def test_normals_of_a_known_surface():
    """A wall straight ahead looks at the camera; a floor (depth falls downwards in the picture) looks up."""
    wall = normals_of_depth(np.full((40, 40), 3.0))
    assert np.allclose(wall[20, 20], [0, 0, 1], atol=1e-3)
    focal = 20 / np.tan(np.radians(30))
    rows = np.arange(40)[:, None] - 20 + 0.5
    floor = np.where(rows > 2, 1.0 * focal / np.maximum(rows, 1), 50.0) * np.ones((1, 40))  # a plane one unit below the eye
    assert np.allclose(normals_of_depth(floor)[30:38, 20], [0, -1, 0], atol=0.05)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    t = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 28,
        "patch_size": 14,
    }
    backbone = t.Dinov2Config(**small, out_features=["stage1", "stage2"], reshape_hidden_states=False, apply_layernorm=True)
    t.DepthAnythingForDepthEstimation(t.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8], reassemble_factors=[2, 1], fusion_hidden_size=8,
        head_hidden_size=8, patch_size=14,
    )).save_pretrained(root / "depth")  # fmt: skip
    t.SegformerForSemanticSegmentation(t.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[3, 3], strides=[2, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=8, num_labels=3, id2label={0: "cat", 1: "dog", 2: "sky"},
        label2id={"cat": 0, "dog": 1, "sky": 2},
    )).save_pretrained(root / "semseg")  # fmt: skip
    t.Dinov2Model(t.Dinov2Config(**small)).save_pretrained(root / "dinov2")
    vision = {k: v for k, v in small.items() if k != "intermediate_size"}
    t.CLIPModel(t.CLIPConfig(
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50},
        vision_config={**vision, "intermediate_size": 32}, projection_dim=8,
    )).save_pretrained(root / "clip")  # fmt: skip
    t.YolosForObjectDetection(t.YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32], patch_size=8,
        num_detection_tokens=5, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1},
    )).save_pretrained(root / "boxes")  # fmt: skip
    return root


@pytest.mark.slow
def test_every_adapter_gives_what_its_modality_promises(networks):
    depth = RawSpec(type="depth", size=16, range=(2.0, 9.0))
    for value in open_labeller(f"depth:{networks / 'depth'}")(SAMPLES, depth):
        checked = check_raw(value, depth)
        assert checked.min() == pytest.approx(2.0) and checked.max() == pytest.approx(9.0)
    normal = RawSpec(type="normal", size=16)
    for value in open_labeller(f"normals:{networks / 'depth'}")(SAMPLES, normal):
        assert np.allclose(np.linalg.norm(check_raw(value, normal), axis=-1), 1, atol=1e-5)
    labels = RawSpec(type="labels", size=16, classes=("none", "Sky", "cat"))
    for value in open_labeller(f"semseg:{networks / 'semseg'}")(SAMPLES, labels):
        assert set(np.unique(check_raw(value, labels))) <= {0, 1, 2}
    dense, whole = RawSpec(type="array", size=3, channels=16), RawSpec(type="vectors", channels=16)
    for name in ("dinov2", "clip"):
        for value in open_labeller(f"features:{networks / name}")(SAMPLES, dense):
            check_raw(value, dense)
        for value in open_labeller(f"features:{networks / name}")(SAMPLES, whole):
            assert check_vectors(value, whole).shape == (1, 16)
    found = open_labeller(f"boxes:{networks / 'boxes'}")(SAMPLES, RawSpec(type="boxes"))
    assert len(found) == 3
    for item in [item for items in found for item in items]:
        assert item["label"] in ("cat", "dog") and all(0 <= c <= 1 for c in item["box"])


@pytest.mark.slow
def test_a_network_that_is_not_there_or_knows_other_classes_is_one_clear_error(networks, tmp_path):
    with pytest.raises(ValueError, match="cannot be opened"):
        open_labeller(f"depth:{tmp_path}")(SAMPLES, RawSpec(type="depth", size=16))
    with pytest.raises(ValueError, match="knows none of the classes"):
        open_labeller(f"semseg:{networks / 'semseg'}")(SAMPLES, RawSpec(type="labels", size=16, classes=("car", "tree")))
