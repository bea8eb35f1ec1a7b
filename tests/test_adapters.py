"""Labellers: pretrained networks through transformers (here small ones of the same classes with
random weights), and exact ones.
"""

import numpy as np
import pytest
import torch
from fourm_data_prep import networks as pretrained
from fourm_data_prep import sam
from fourm_data_prep.adapters import normals_of_depth
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples

from fourm.errors import UserError
from fourm.raw.array import Array
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.labels import Labels
from fourm.raw.metadata import Metadata
from fourm.raw.normal import Normal
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors

PICTURES = [
    np.random.default_rng(i).integers(0, 255, (48, 48, 3)).astype(np.uint8) for i in range(3)
]
SAMPLES = Samples(PICTURES, ["a cat", "two dogs in the sky", ""])


def test_statistics_of_pictures_are_those_of_their_definitions():
    label = open_labeller("statistics")
    grey, red = np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    plain, colored = label(Samples([grey, red]), Metadata())
    assert plain == {
        "colorfulness": 0.0,
        "brightness": pytest.approx(100),
        "contrast": pytest.approx(0, abs=1e-9),
        "saturation": 0.0,
        "entropy": 0.0,
    }
    assert colored["saturation"] == 255 and colored["colorfulness"] == pytest.approx(
        0.3 * np.hypot(255, 127.5)
    )
    checker = np.indices((8, 8)).sum(0) % 2
    half = label(
        Samples([np.repeat((checker * 200)[..., None], 3, -1).astype(np.uint8)]),
        Metadata(),
    )[0]
    assert half["entropy"] == pytest.approx(1.0) and half["contrast"] == pytest.approx(100)


def test_normals_of_a_known_surface():
    """A wall straight ahead looks at the camera; a floor (depth falls downwards in the picture)
    looks up.
    """
    wall = normals_of_depth(np.full((40, 40), 3.0))
    assert np.allclose(wall[20, 20], [0, 0, 1], atol=1e-3)
    focal = 20 / np.tan(np.radians(30))
    rows = np.arange(40)[:, None] - 20 + 0.5
    # a plane one unit below the eye
    floor = np.where(rows > 2, 1.0 * focal / np.maximum(rows, 1), 50.0) * np.ones((1, 40))
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
    backbone = t.Dinov2Config(
        **small,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    t.DepthAnythingForDepthEstimation(
        t.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=16,
            neck_hidden_sizes=[8, 8],
            reassemble_factors=[2, 1],
            fusion_hidden_size=8,
            head_hidden_size=8,
            patch_size=14,
        )
    ).save_pretrained(root / "depth")
    t.SegformerForSemanticSegmentation(
        t.SegformerConfig(
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[8, 16],
            patch_sizes=[3, 3],
            strides=[2, 2],
            num_attention_heads=[1, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=8,
            num_labels=3,
            id2label={0: "cat", 1: "dog", 2: "sky"},
            label2id={"cat": 0, "dog": 1, "sky": 2},
        )
    ).save_pretrained(root / "semseg")
    t.Dinov2Model(t.Dinov2Config(**small)).save_pretrained(root / "dinov2")
    vision = {k: v for k, v in small.items() if k != "intermediate_size"}
    t.CLIPModel(
        t.CLIPConfig(
            text_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "vocab_size": 50,
            },
            vision_config={**vision, "intermediate_size": 32},
            projection_dim=8,
        )
    ).save_pretrained(root / "clip")
    t.SiglipModel(
        t.SiglipConfig(
            text_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "vocab_size": 50,
            },
            vision_config=small,
        )
    ).save_pretrained(root / "siglip")
    swin = t.SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1] * 4,
        num_heads=[1] * 4,
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    t.Mask2FormerForUniversalSegmentation(
        t.Mask2FormerConfig(
            backbone_config=swin,
            hidden_dim=32,
            feature_size=32,
            mask_feature_size=32,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            encoder_feedforward_dim=16,
            dim_feedforward=16,
            num_queries=5,
            id2label={0: "cat", 1: "dog", 2: "sky"},
            label2id={"cat": 0, "dog": 1, "sky": 2},
        )
    ).save_pretrained(root / "mask2former")
    t.RTDetrForObjectDetection(
        t.RTDetrConfig(
            encoder_hidden_dim=16,
            d_model=16,
            num_queries=6,
            encoder_layers=1,
            decoder_layers=1,
            encoder_in_channels=[8] * 3,
            decoder_in_channels=[16] * 3,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            backbone_config=t.RTDetrResNetConfig(
                embedding_size=8,
                hidden_sizes=[8] * 4,
                depths=[1] * 4,
                layer_type="basic",
                out_features=["stage2", "stage3", "stage4"],
            ),
            id2label={0: "cat", 1: "dog"},
            label2id={"cat": 0, "dog": 1},
            num_denoising=0,
        )
    ).save_pretrained(root / "rtdetr")
    t.YolosForObjectDetection(
        t.YolosConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=[32, 32],
            patch_size=8,
            num_detection_tokens=5,
            id2label={0: "cat", 1: "dog"},
            label2id={"cat": 0, "dog": 1},
        )
    ).save_pretrained(root / "boxes")
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


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory):
    """A word tokenizer in the form transformers reads."""
    t = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "two", "dogs", "in", "the", "sky"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return t.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=8,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[CLS]",
        eos_token="[SEP]",
    )


@pytest.mark.slow
def test_captions_are_strings_and_those_of_one_picture_do_not_depend_on_its_neighbours(
    tmp_path, tokenizer_files
):
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 11,
        "encoder_hidden_size": 16,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
        "patch_size": 16,
    }
    t.BlipForConditionalGeneration(
        t.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    ).save_pretrained(tmp_path / "blip")
    tokenizer_files.save_pretrained(tmp_path / "blip")
    label = open_labeller(f"caption:{tmp_path / 'blip'}")
    together = label(SAMPLES, Text())
    assert len(together) == 3 and all(isinstance(line, str) for line in together)
    assert [label(Samples([p]), Text())[0] for p in PICTURES] == together


@pytest.mark.slow
def test_text_becomes_a_vector_for_the_sentence_or_one_for_each_token(tmp_path, tokenizer_files):
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    t.T5EncoderModel(
        t.T5Config(vocab_size=11, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    tokenizer_files.save_pretrained(tmp_path / "t5")
    spec = Vectors(channels=16)
    rows = open_labeller(f"tokens:{tmp_path / 't5'}")(SAMPLES, spec)
    assert [len(r) for r in rows] == [2, 5, 0] and spec.check(rows[1]).shape == (5, 16)
    alone = open_labeller(f"tokens:{tmp_path / 't5'}")(Samples(PICTURES[:1], ["a cat"]), spec)[0]
    assert np.allclose(alone, rows[0], atol=1e-5)  # padding beside longer captions changes nothing
    mean = open_labeller(f"sentence:{tmp_path / 't5'}")(Samples(PICTURES[:1], ["a cat"]), spec)[0]
    assert np.allclose(mean, alone.mean(0) / np.linalg.norm(alone.mean(0)), atol=1e-5)


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


def test_edges_of_masks_run_along_their_borders():
    from fourm_data_prep.sam import mask_edges

    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    drawn = mask_edges([mask], 32)[..., 0]
    assert drawn[8, 8:24].min() == 1 and drawn[12:20, 12:20].max() == 0 and drawn[:6].max() == 0


@pytest.mark.slow
def test_marigold_gives_unit_normals(tmp_path, tokenizer_files):
    t = pytest.importorskip("transformers")
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        MarigoldNormalsPipeline,
        UNet2DConditionModel,
    )
    from tokenizers.processors import TemplateProcessing

    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer_files.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    torch.manual_seed(0)
    encoder = t.CLIPTextModel(
        t.CLIPTextConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            vocab_size=11,
        )
    )
    unet = UNet2DConditionModel(
        in_channels=8,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        sample_size=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    MarigoldNormalsPipeline(
        unet=unet,
        vae=vae,
        prediction_type="normals",
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
        text_encoder=encoder,
        tokenizer=tokenizer_files,
        default_denoising_steps=1,
        default_processing_resolution=0,
    ).save_pretrained(tmp_path / "marigold")
    spec = Normal(size=16)
    (made,) = open_labeller(f"marigold:{tmp_path / 'marigold'}")(Samples(PICTURES[:1]), spec)
    assert np.allclose(np.linalg.norm(spec.check(made), axis=-1), 1, atol=1e-4)


def test_fourm_s_own_encoder_gives_rows_that_do_not_depend_on_neighbours():
    from fourm.pipeline import AnyToAnyPipeline
    from fourm.resources import demo_model_folder

    folder = demo_model_folder()
    spec = Vectors(channels=1)
    together = open_labeller(f"fourm:{folder}")(SAMPLES, spec)
    alone = open_labeller(f"fourm:{folder}")(Samples(PICTURES[1:2]), spec)[0]
    assert together[1].shape == (64, 128) and np.allclose(together[1], alone, atol=1e-4)
    words = open_labeller(f"fourm:{folder}")(
        Samples([], ["a red cube", "a blue sphere left of a red cone"]), spec
    )
    assert len(words[0]) < len(words[1]) and words[0].shape[1] == 128
    pipe = AnyToAnyPipeline.from_pretrained(folder)
    assert torch.allclose(
        pipe.features({"caption": ["a red cube"]})[0], torch.from_numpy(words[0]), atol=1e-5
    )


@pytest.mark.slow
def test_latents_of_any_encoder_are_cached_shard_by_shard_and_a_rerun_does_nothing(tmp_path):
    from fourm_data_prep.engine_options import EngineConfig
    from fourm_data_prep.importing import import_pictures
    from fourm_data_prep.label import label
    from fourm_data_prep.latents import cache_latents
    from PIL import Image

    from fourm.alignment.latents import open_latents, paired
    from fourm.data.shards import DamageReport, read_shard, shard_paths
    from fourm.resources import demo_model_folder

    (tmp_path / "pictures").mkdir()
    for i in range(30):
        Image.fromarray(PICTURES[i % 3]).save(tmp_path / "pictures" / f"p{i:02d}.png")
        (tmp_path / "pictures" / f"p{i:02d}.txt").write_text(f"a red cube and {i} more")
    config = tmp_path / "m.yaml"
    text = (
        "modalities:\n  rgb: {kind: grid, raw: {type: image, size: 48}, vocab_size: 8, grid: [2,"
        " 2]}\n"
        "  caption: {kind: sequence, raw: {type: text}, vocab_size: 300, max_tokens: 24}\n"
    )
    config.write_text(text)
    one = EngineConfig(workers=1)
    import_pictures(tmp_path / "pictures", config, tmp_path / "raw", engine=one)
    encoder = f"fourm:{demo_model_folder()}"
    for modality in ("rgb", "caption"):
        cache_latents(
            tmp_path / "raw",
            config,
            modality,
            encoder,
            tmp_path / modality,
            tokens=True,
            engine=one,
        )
    held = paired({name: open_latents(tmp_path / name) for name in ("rgb", "caption")})
    assert (
        len(held["rgb"]) == 30
        and held["rgb"].vectors.dtype == np.float16
        and held["rgb"].offsets[-1] == 30 * 64
    )
    again = cache_latents(
        tmp_path / "raw", config, "rgb", encoder, tmp_path / "rgb", tokens=True, engine=one
    )
    assert again.num_before == again.num_done == 2
    config.write_text(
        text
        + "  edges: {kind: grid, raw: {type: array, size: 24}, labeller: edges,"
        + " vocab_size: 8, grid: [2, 2]}\n"
    )
    label(tmp_path / "raw", config, [], engine=one)
    for split in ("train", "val"):
        keys = [
            [
                k
                for k, _ in read_shard(
                    shard_paths(tmp_path / "raw", split, n)[0], lambda d, _: d, e, DamageReport()
                )
            ]
            for n, e in (("rgb", ("png",)), ("edges", ("npy",)))
        ]
        assert keys[0] == keys[1]
    with pytest.raises(ValueError, match="nothing to make"):
        label(tmp_path / "raw", config, [], engine=one)
    with pytest.raises(ValueError, match="no modality of .* with a labeller"):
        label(tmp_path / "raw", config, ["rgb"], engine=one)


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
