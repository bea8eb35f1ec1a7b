"""What stands on exported modules: backbones and the model of ``transformers`` give the features
of a pipeline, and come back from their folders as they were.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model
from PIL import Image
from transformers import AutoConfig, AutoModel

from fourm.cli import main
from fourm.demo.held_out import held_out_scenes
from fourm.errors import UserError
from fourm.export.backbone import Backbone
from fourm.interop.transformers import FourMConfig, FourMModel
from fourm.model.model import FourM
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.resources import demo_model_folder

CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def pipe():
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@pytest.fixture(scope="module")
def scenes(pipe):
    return held_out_scenes(3, 4, pipe.modalities["rgb"].raw.size).raw


def values_of(modality, raw):
    """Raw values as a backbone takes them."""
    values = modality.raw.to_floats(np.stack(raw))
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("name", ["rgb", "depth"])
@torch.no_grad()
def test_a_backbone_gives_the_features_of_a_pipeline(pipe, scenes, name):
    backbone, raw = Backbone(pipe, name), list(scenes[name])
    values = values_of(pipe.modalities[name], raw)
    expected = pipe.encode_features({name: raw}, pool="none")
    torch.testing.assert_close(
        backbone.forward_features(values).flatten(0, 1), expected.vectors, **CLOSE
    )
    torch.testing.assert_close(backbone(values), pipe.encode_features({name: raw}).vectors, **CLOSE)
    layers = pipe.encode_features({name: raw}, layers=(0, -1), pool="none")
    maps = torch.cat(backbone.feature_maps(values, (0, -1)), 1)
    torch.testing.assert_close(maps, layers.maps(backbone.modality.name), **CLOSE)
    assert backbone.num_features == pipe.model.config.dim and maps.shape[2:] == backbone.grid


def test_pixels_that_the_model_reads_itself_have_gradients(modalities, tmp_path):
    backbone = Backbone(AnyToAnyPipeline(make_model(modalities, num_registers=2), tmp_path), "rgb")
    assert backbone.modality.name == "pixels"
    pictures = torch.randn(2, 3, 16, 16, requires_grad=True)
    backbone(pictures).square().sum().backward()
    assert pictures.grad is not None and (pictures.grad.abs().flatten(1).sum(1) > 0).all()
    assert backbone.encoder.model.encoder_norm.weight.grad is not None


def test_what_is_no_picture_or_no_layer_is_refused(pipe):
    with pytest.raises(UserError, match="caption is no picture-like input"):
        Backbone(pipe, "caption")
    with pytest.raises(UserError, match="no layer 7: the encoder has 3"):
        Backbone(pipe, "rgb").feature_maps(torch.zeros(1, 3, 64, 64), (7,))


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("transformers")
    FourMModel.from_pretrained(demo_model_folder()).save_pretrained(out)
    return out


@torch.no_grad()
def test_automodel_opens_what_was_saved_and_gives_the_features_of_a_pipeline(folder, pipe, scenes):
    model = AutoModel.from_pretrained(folder)
    assert isinstance(model, FourMModel) and not model.training
    assert AutoConfig.from_pretrained(folder).hidden_size == pipe.model.config.dim
    given = {"rgb": list(scenes["rgb"]), "caption": list(scenes["caption"])}
    prepared = model.prepare(given)
    out = model(**prepared)
    torch.testing.assert_close(out.pooler_output, pipe.encode_features(given).vectors, **CLOSE)
    rows = pipe.encode_features(given, pool="none")
    there = out.last_hidden_state.abs().sum(-1) > 0
    assert np.array_equal(there.sum(1), rows.lengths)
    state = pipe.model.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in model.fourm.state_dict().items())


def test_a_folder_of_transformers_is_a_pipeline_folder_still(folder, scenes):
    assert json.loads((folder / "config.json").read_text())["model_type"] == "fourm"
    given = {"rgb": scenes["rgb"][0]}
    again = AnyToAnyPipeline.from_pretrained(folder).encode_features(given)
    torch.testing.assert_close(
        again.vectors,
        AnyToAnyPipeline.from_pretrained(demo_model_folder()).encode_features(given).vectors,
    )


def test_a_config_alone_makes_a_fresh_model(modalities):
    config = FourMConfig.of(make_model(modalities))
    again = FourMConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    model = FourMModel(again)
    assert isinstance(model.fourm, FourM) and model.config.hidden_size == 32
    with pytest.raises(UserError, match="forward takes no pixel_values: use prepare"):
        model(*[torch.zeros(1, 1, dtype=torch.long)] * 4, pixel_values=torch.zeros(1))


@pytest.mark.slow
def test_a_picture_is_captioned_and_measured_without_this_package(pipe, scenes, tmp_path):
    chosen = ["--what", "backbone,decoder,tokenizers", "--inputs", "rgb"]
    chosen += ["--targets", "caption,depth"]
    main(["export", str(demo_model_folder()), "--format", "onnx", *chosen, "--out", str(tmp_path)])
    program = Path(__file__).parents[1] / "examples" / "onnx_alone.py"
    settings = {"temperature": 0.0, "guidance_scale": 1.0}
    assert not re.search(r"(import|from) fourm", program.read_text())
    for picture in scenes["rgb"]:
        Image.fromarray(picture).save(tmp_path / "p.png")
        line = [sys.executable, "-I", str(program), str(tmp_path), str(tmp_path / "p.png")]
        done = subprocess.run(
            [*line, "--depth", str(tmp_path / "d.npy")], capture_output=True, text=True, check=True
        )
        said = pipe({"rgb": picture}, ["caption"], **settings)["caption"].texts
        assert done.stdout.strip() == said[0]
        depth = pipe({"rgb": picture}, ["depth"], steps=1, decode="ids", **settings)["depth"].values
        assert np.abs(np.load(tmp_path / "d.npy") - depth[0]).max() < 1e-3
