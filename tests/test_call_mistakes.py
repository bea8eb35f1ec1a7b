"""A user's mistake in a call of the pipeline is one sentence that names it."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import make_model
from PIL import Image

from fourm.errors import UserError
from fourm.pipeline.pipeline import AnyToAnyPipeline, Tokens
from fourm.pipeline.preferred import check_options
from fourm.resources import demo_model_folder
from fourm.sampling.options import SamplingOptions


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


PICTURE = Image.new("RGB", (64, 64), "red")
GIVEN = {"rgb": PICTURE}
CALLS = {
    "seed None": ({"seed": None}, "seed must be a number"),
    "seed half": ({"seed": 0.5}, "seed must be a whole number, not 0.5"),
    "seed in words": ({"seed": "1"}, "seed must be a whole number, not '1'"),
    "seed too large": ({"seed": 2**63}, "seeds must fit 64 bits"),
    "last seed too large": ({"seed": 2**63 - 1, "num_samples": 2}, "seeds must fit 64 bits"),
    "seeds of another number": ({"seed": [1, 2, 3]}, "3 seeds for 1 samples"),
    "a seed half": ({"seed": [0.5]}, "a seed must be a whole number"),
    "steps half": ({"steps": 2.5}, "steps: expected int, found 2.5"),
    "no steps": ({"steps": 0}, "steps must be at least 1"),
    "an unknown setting": ({"stepz": 2}, "unknown sampling option 'stepz'.*mean 'steps'"),
    "an unknown scheme": ({"scheme": "maskgti"}, "maskgti.*did you mean 'maskgit'"),
    "temperature in words": ({"temperature": "hot"}, "temperature: expected a number"),
    "no samples": ({"num_samples": 0}, "num_samples must be at least 1, not 0"),
    "samples half": ({"num_samples": 1.5}, "num_samples must be a whole number"),
    "no targets": ({"targets": []}, "no targets"),
    "targets that are no names": ({"targets": 3}, "targets are names in an order"),
    "options for no target": ({"options": 5}, "options map targets to SamplingOptions"),
    "an empty picture": (
        {"inputs": {"rgb": np.zeros((0, 0, 3), np.uint8)}},
        r"image has shape \(0, 0, 3\)",
    ),
    "an unknown target": ({"targets": "dpeth"}, "unknown modality 'dpeth'.*mean 'depth'"),
    "a target that is no output": ({"targets": "pixels"}, "pixels cannot be generated"),
    "options of no target": ({"options": {"x": SamplingOptions()}}, "unknown modality 'x'"),
    "options of a wrong type": ({"options": {"depth": {"steps": 1}}}, "must be SamplingOptions"),
    "inputs that are no mapping": ({"inputs": "a red cube"}, "inputs are a mapping of names"),
    "an unknown input": ({"inputs": {"rbg": PICTURE}}, "unknown modality 'rbg'.*mean 'rgb'"),
    "a path": ({"inputs": {"rgb": "a.png"}}, "input rgb: no file a.png"),
    "a Path": ({"inputs": {"depth": Path("a.npy")}}, "input depth: no file a.npy"),
    "nothing": ({"inputs": {"rgb": None}}, "input rgb: image has shape"),
    "text that is a number": ({"inputs": {"caption": 5}}, "caption: text must be a string"),
    "an empty list": ({"inputs": {"rgb": []}}, "input rgb is an empty list"),
    "lists that differ": (
        {"inputs": {"rgb": [PICTURE] * 2, "caption": ["a"] * 3}},
        "different numbers of samples: rgb 2, caption 3",
    ),
    "a list and num_samples": (
        {"inputs": {"rgb": [PICTURE] * 2}, "num_samples": 3},
        "rgb is a list of 2, num_samples is 3",
    ),
    "ids that are no numbers": (
        {"inputs": {"depth": Tokens(np.array([0.5] * 64))}},
        "input depth: ids must be integers, not float64",
    ),
    "too many ids": ({"inputs": {"depth": Tokens(np.zeros(65, int))}}, "given are 65"),
    "too few ids": ({"inputs": {"depth": Tokens(np.array([1, 2]))}}, "depth has 64 tokens"),
}


@pytest.mark.parametrize("call, message", CALLS.values(), ids=CALLS)
def test_a_mistake_in_a_call_of_the_pipeline_is_named(call, message, pipe):
    with pytest.raises(UserError, match=message):
        pipe(**{"inputs": GIVEN, "targets": ["depth"], **call})


def test_numbers_of_numpy_and_one_target_s_name_are_taken(pipe):
    plain = pipe(GIVEN, targets=["depth"], seed=3, steps=1, temperature=0.5)
    numpy = pipe(
        GIVEN, targets="depth", seed=np.int64(3), steps=np.int32(1), temperature=np.float32(0.5)
    )
    assert np.array_equal(plain["depth"].ids[0], numpy["depth"].ids[0])
    many = pipe(GIVEN, targets="depth", seed=np.array([3]), num_samples=np.int64(1), steps=1)
    assert len(many["depth"].ids) == 1


@pytest.mark.parametrize(
    "key, message",
    [
        ("dpeth", "'dpeth' is no output of this model.*did you mean 'depth'"),
        ("rgb->pixels", "'pixels' is no output"),
        ("rbg->depth", "'rbg' in 'rbg->depth' is no modality.*did you mean 'rgb'"),
        ("->depth", "'' in '->depth' is no modality"),
    ],
)
def test_settings_for_a_target_that_the_model_has_not_are_refused(key, message, modalities):
    with pytest.raises(UserError, match=message):
        check_options({"depth": None, key: None}, modalities, "generation.yaml")


def test_a_pipeline_folder_with_an_unknown_target_is_refused_on_opening(modalities, tmp_path):
    make_model(modalities).save_pretrained(tmp_path)
    (tmp_path / "generation.yaml").write_text(yaml.safe_dump({"dpeth": {"steps": 2}}))
    with pytest.raises(UserError, match="generation.yaml: 'dpeth' is no output"):
        AnyToAnyPipeline.from_pretrained(tmp_path)
