"""Labellers of pretrained networks through transformers: here small ones of the same classes with
random weights.
"""

import numpy as np
import pytest
import torch
from fourm_data_prep import networks as pretrained
from fourm_data_prep import sam
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples
from labeller_networks import PICTURES, SAMPLES, write_networks

from fourm.errors import UserError
from fourm.raw.array import Array
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.labels import Labels
from fourm.raw.normal import Normal
from fourm.raw.vectors import Vectors


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    write_networks(root)
    return root


@pytest.mark.slow
def test_every_adapter_gives_what_its_modality_promises(networks):
    depth = Depth(size=16, range=(2.0, 9.0))
    for value in open_labeller(f"depth:{networks / 'depth'}")(SAMPLES, depth):
        checked = depth.check(value)
        assert checked.min() == pytest.approx(2.0) and checked.max() == pytest.approx(9.0)
    normal = Normal(size=16)
    for value in open_labeller(f"normals:{networks / 'depth'}")(SAMPLES, normal):
        assert np.allclose(np.linalg.norm(normal.check(value), axis=-1), 1, atol=1e-5)
    labels = Labels(size=16, classes=("none", "Sky", "cat"))
    for name in ("semseg", "mask2former"):
        for value in open_labeller(f"semseg:{networks / name}")(SAMPLES, labels):
            assert set(np.unique(labels.check(value))) <= {0, 1, 2}
    dense = Array(size=3, channels=16)
    for name, channels in (("dinov2", 16), ("clip", 8), ("siglip", 16)):
        for value in open_labeller(f"features:{networks / name}")(SAMPLES, dense):
            dense.check(value)
        whole = Vectors(channels=channels)
        for value in open_labeller(f"features:{networks / name}")(SAMPLES, whole):
            assert whole.check(value).shape == (1, channels)
    for name in ("boxes", "rtdetr"):
        found = open_labeller(f"boxes:{networks / name}")(SAMPLES, Boxes())
        assert len(found) == 3
        for item in [item for items in found for item in items]:
            assert item["label"] in ("cat", "dog") and all(0 <= c <= 1 for c in item["box"])


@pytest.mark.slow
def test_a_network_that_is_not_there_or_knows_other_classes_is_one_clear_error(networks, tmp_path):
    with pytest.raises(ValueError, match="cannot be opened"):
        open_labeller(f"depth:{tmp_path}")(SAMPLES, Depth(size=16))
    with pytest.raises(ValueError, match="knows none of the classes"):
        open_labeller(f"semseg:{networks / 'semseg'}")(
            SAMPLES, Labels(size=16, classes=("car", "tree"))
        )


@pytest.mark.parametrize(
    "labeller, spec, broken",
    [
        ("depth:{}/depth", Depth(size=16), "DepthAnythingForDepthEstimation"),
        (
            "semseg:{}/semseg",
            Labels(size=16, classes=("none", "sky")),
            "SegformerForSemanticSegmentation",
        ),
        ("features:{}/dinov2", Array(size=3, channels=16), "Dinov2Model"),
    ],
)
def test_an_error_inside_a_network_is_raised_as_it_is(
    networks, monkeypatch, labeller, spec, broken
):
    def fail(*args, **kwargs):
        raise ValueError("three channels, not two")

    pretrained.open_network.cache_clear()
    monkeypatch.setattr(getattr(pytest.importorskip("transformers"), broken), "__init__", fail)
    with pytest.raises(ValueError, match="three channels, not two") as found:
        open_labeller(labeller.format(networks))(SAMPLES, spec)
    assert not isinstance(found.value, UserError)


def test_a_network_of_another_kind_is_told_from_its_settings(networks):
    with pytest.raises(UserError, match="dinov2 is no AutoModelForDepthEstimation"):
        open_labeller(f"depth:{networks / 'dinov2'}")(SAMPLES, Depth(size=16))


@pytest.mark.slow
def test_sam_gives_boxes_and_edges_of_its_masks(tmp_path, monkeypatch):
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vision = t.SamVisionConfig(
        hidden_size=16,
        output_channels=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        mlp_dim=16,
        num_pos_feats=4,
        window_size=2,
        global_attn_indexes=[0],
    )
    prompt = t.SamPromptEncoderConfig(
        hidden_size=8, image_size=64, patch_size=16, mask_input_channels=4
    )
    decoder = t.SamMaskDecoderConfig(
        hidden_size=8, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=8
    )
    t.SamModel(
        t.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ).save_pretrained(tmp_path / "sam")
    monkeypatch.setattr(sam, "_SURE", -1.0)  # a random network is sure of nothing
    label = open_labeller(f"sam:{tmp_path / 'sam'}")
    one = Samples(PICTURES[:1])
    for items in label(one, Boxes()):
        assert items
        assert all(
            item["label"] == "thing" and min(item["box"]) >= 0 and max(item["box"]) <= 1
            for item in items
        )
    spec = Array(size=24, channels=1)
    assert spec.check(label(one, spec)[0]).shape == (24, 24, 1)


@pytest.mark.slow
def test_the_global_vector_of_clip_and_siglip_is_the_one_that_is_compared_with_texts(networks):
    import transformers as t

    picture = Samples(
        [np.random.default_rng(0).integers(0, 255, (28, 28, 3)).astype(np.uint8)], [""], keys=["a"]
    )
    for name, channels in (("clip", 8), ("siglip", 16)):
        made = open_labeller(f"features:{networks / name}")(picture, Vectors(channels=channels))[0]
        model = t.AutoModel.from_pretrained(networks / name)
        ids = torch.ones(1, 4, dtype=torch.long)
        pixels = (
            torch.from_numpy(picture.pictures[0]).permute(2, 0, 1)[None] / 255.0
            - torch.tensor(pretrained._MEAN)[:, None, None]
        ) / torch.tensor(pretrained._STD)[:, None, None]
        with torch.inference_mode():
            wanted = model(input_ids=ids, pixel_values=pixels).image_embeds[0]
        assert np.allclose(made[0] / np.linalg.norm(made[0]), wanted.numpy(), atol=1e-5)
