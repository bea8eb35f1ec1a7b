"""Small networks of random weights as ``transformers`` writes them, pictures and texts for them:
what labellers of pretrained networks are tested on.
"""

import numpy as np
import pytest
import torch
from fourm_data_prep.samples import Samples

PICTURES = [
    np.random.default_rng(i).integers(0, 255, (48, 48, 3)).astype(np.uint8) for i in range(3)
]
SAMPLES = Samples(PICTURES, ["a cat", "two dogs in the sky", ""])


def write_networks(root):
    """In ``root`` a folder for each network: small ones of random weights."""
    t = pytest.importorskip("transformers")
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
