"""What users of diffusers expect of a pipeline: the promises of its ``PipelineTesterMixin`` (33 of
them), in our words. ``docs/generation.md`` says which are left out, and why.
"""

import inspect
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from fourm import AnyToAnyPipeline, Tokens
from fourm.errors import UserError
from fourm.pipeline.generated import GenerationStep
from fourm.pipeline.output_types import OUTPUT_TYPES
from fourm.resources import demo_model_folder

CAPTION = {"caption": "a large red cube left of a small blue sphere"}
STEPS = {"steps": 2, "sweeps": 0, "temperature": 0.5, "temperature_end": None}


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@pytest.fixture(scope="module")
def picture(pipe) -> np.ndarray:
    return pipe(CAPTION, "rgb", seed=3)["rgb"].values[0]


@pytest.fixture(scope="module")
def expected(pipe) -> list[np.ndarray]:
    return rgb(pipe)


def rgb(pipe, **options) -> list[np.ndarray]:
    """Ids of a picture from the caption."""
    return pipe(CAPTION, "rgb", **{**STEPS, "seed": 5, **options})["rgb"].ids


def alike(first: list, second: list) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


# ---- saving and loading --------------------------------------------------------------------------


def test_a_saved_pipeline_opens_and_gives_the_same(pipe, expected, tmp_path):  # 1
    pipe.save_pretrained(tmp_path / "saved")
    again = AnyToAnyPipeline.from_pretrained(tmp_path / "saved")
    assert alike(rgb(again), expected) and again.options == pipe.options


def test_a_pipeline_can_be_saved_onto_itself_again_and_again(expected, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(demo_model_folder(), folder)
    for _ in range(2):
        own = AnyToAnyPipeline.from_pretrained(folder)
        own.save_pretrained(folder)
        assert alike(rgb(own), expected)  # the one that is open goes on
    assert alike(rgb(AnyToAnyPipeline.from_pretrained(folder)), expected)


def test_settings_of_the_model_are_optional_and_stay_left_out(pipe, tmp_path):  # 9
    AnyToAnyPipeline(pipe.model, pipe.tokenizers_folder).save_pretrained(tmp_path / "plain")
    again = AnyToAnyPipeline.from_pretrained(tmp_path / "plain")
    assert again.options == {}
    (tmp_path / "plain" / "generation.yaml").unlink()
    assert AnyToAnyPipeline.from_pretrained(tmp_path / "plain").options == {}


@pytest.fixture(scope="module")
def halved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half") / "model"
    pipe.save_pretrained(folder, half=True)
    return folder


def test_half_stores_16_bits_and_is_read_back_into_32(pipe, halved):  # 22, 23
    stored = load_file(halved / "model.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    again = AnyToAnyPipeline.from_pretrained(halved)
    assert again.dtype == torch.float32
    for name, weight in pipe.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight.half().to(weight.dtype)), name


def test_a_pipeline_in_16_bits_is_saved_and_opened_in_16_bits(halved, tmp_path):  # 8
    half = AnyToAnyPipeline.from_pretrained(halved, dtype=None)
    assert half.dtype == torch.float16
    half.save_pretrained(tmp_path / "again")
    again = AnyToAnyPipeline.from_pretrained(tmp_path / "again", dtype=None)
    assert again.dtype == torch.float16
    for name, weight in half.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dtype": "fp16"}, "dtype 'fp16' is not one of float32, bfloat16, float16"),
        ({"dtype": torch.int8}, "dtype 'int8' is not one of"),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be had here"),
        ({"device": "gpu"}, "device 'gpu' cannot be had here"),
    ],
)
def test_weights_that_are_not_there_are_refused_in_a_sentence(options, message):  # 24
    with pytest.raises(UserError, match=message):
        AnyToAnyPipeline.from_pretrained(demo_model_folder(), **options)


# ---- devices and dtypes --------------------------------------------------------------------------


def test_to_moves_the_model_and_gives_the_pipeline_back(pipe, expected):  # 10
    assert pipe.to("cpu") is pipe and pipe.device == torch.device("cpu")
    assert pipe.to(torch.device("cpu"), torch.float32).dtype == torch.float32
    assert alike(rgb(pipe), expected)


@pytest.fixture
def own(pipe) -> AnyToAnyPipeline:
    """A pipeline whose model may be changed."""
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_to_changes_the_dtype_by_value_or_name_and_back(own, dtype):  # 11, 30
    own.to(dtype)
    floating = [p for p in own.model.parameters() if p.is_floating_point()]
    assert all(p.dtype == torch.bfloat16 for p in floating) and own.dtype == torch.bfloat16
    assert own.to("cpu", "float32").dtype == torch.float32


def test_the_model_alone_is_in_another_dtype_codecs_are_not(own, picture):  # 29
    ids = own.codecs["rgb"].encode([picture])
    made = own.to("bfloat16").codecs["rgb"]
    assert alike(made.encode([picture]), ids)


def test_in_16_bits_the_same_is_computed_to_their_rounding(pipe, own, picture):  # 7
    plain, half = (p.features({"rgb": picture})[0] for p in (pipe, own.to("bfloat16")))
    error = (half.float() - plain).norm() / plain.norm()
    assert 0 < error < 0.02
    assert rgb(own)[0].shape == (64,)


def test_with_offload_the_model_is_elsewhere_only_while_a_call_runs(own, monkeypatch):  # 14, 15
    places = []
    monkeypatch.setattr(own.model, "to", lambda place: places.append(str(place)))
    own.enable_model_cpu_offload("meta")
    expected = rgb(own)
    assert places == ["cpu", "meta", "cpu"]
    assert alike(rgb(own), expected) and places == ["cpu", "meta", "cpu", "meta", "cpu"]
    for _ in own.stream(CAPTION, "rgb", seed=5, **STEPS):
        break  # leaving the loop ends the call
    assert places[-1] == "cpu"


@pytest.mark.parametrize("is_blockwise", [True, False])
def test_every_way_to_compute_attention_gives_the_same(  # 12, 17
    pipe, expected, monkeypatch, is_blockwise
):
    monkeypatch.setattr("fourm.model.attention.worth_it", lambda layout: is_blockwise)
    assert alike(rgb(pipe), expected)


# ---- calls ---------------------------------------------------------------------------------------


def test_a_call_has_the_arguments_that_pipelines_have():  # 2
    parameters = inspect.signature(AnyToAnyPipeline.__call__).parameters
    optional = {n for n, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert {
        "seed",
        "num_samples",
        "options",
        "output_type",
        "callback_on_step_end",
        "progress_bar",
    } <= optional
    assert list(parameters)[1:3] == ["inputs", "targets"]


def test_the_names_of_diffusers_are_read_but_nothing_is_said_twice(pipe, expected):
    settings = {k: v for k, v in STEPS.items() if k != "steps"}
    out = pipe(CAPTION, "rgb", num_inference_steps=2, seed=5, **settings)
    assert alike(out["rgb"].ids, expected)
    with pytest.raises(UserError, match="steps and num_inference_steps are two names"):
        rgb(pipe, num_inference_steps=2)
    with pytest.raises(UserError, match="seed and generator are two names"):
        rgb(pipe, generator=torch.Generator())


@pytest.mark.parametrize("seed", [np.int64(5), np.uint8(5), torch.tensor(5), np.array([5]), [5]])
def test_a_seed_is_any_whole_number(pipe, expected, seed):
    assert alike(rgb(pipe, seed=seed), expected)


def test_a_generator_draws_seeds_and_moves_on(pipe):
    first, again = (torch.Generator().manual_seed(1) for _ in range(2))
    one, two = (rgb(pipe, seed=0, generator=first) for _ in range(2))
    assert not alike(one, two)
    assert alike([*one, *two], [rgb(pipe, seed=again)[0] for _ in range(2)])
    each = [torch.Generator().manual_seed(i) for i in (1, 1)]
    same = rgb(pipe, seed=0, generator=each, num_samples=2)
    assert alike(same[:1], same[1:]) and alike(same[:1], one)


def test_batches_of_every_kind_of_input_have_a_result_a_sample(pipe, picture):  # 3
    for given in (
        {"caption": ["a red cube", "a small blue sphere", "a green cone"]},
        {"rgb": np.stack([picture] * 3)},
        {"rgb": picture, "caption": ["a red cube", "a blue sphere", "a cone"]},
    ):
        out = pipe(given, ["depth", "boxes"], **STEPS)
        assert [len(made.values) for made in out.values()] == [3, 3]


def test_a_batch_is_its_singles(pipe):  # 4
    texts = ["a red cube", "a small blue sphere", "a green cone right of a red cube"]
    together = pipe({"caption": texts}, "rgb", seed=7, **STEPS)["rgb"]
    for i, text in enumerate(texts):
        alone = pipe({"caption": text}, "rgb", seed=7 + i, **STEPS)["rgb"]
        assert np.array_equal(together.ids[i], alone.ids[0])


def test_of_each_input_there_are_as_many_samples_as_asked_for(pipe, expected):  # 18
    out = pipe({"caption": ["a red cube", *CAPTION.values()]}, "rgb", num_samples=4, **STEPS)
    assert len(out["rgb"].values) == 4
    own = rgb(pipe, num_samples=3)
    assert alike(own[:1], expected) and not alike(own[:1], own[1:2])


def test_every_output_type_is_the_same_result(pipe, picture):  # 5
    given = {**CAPTION, "rgb": picture}
    made = {
        form: pipe(given, ["depth", "boxes"], output_type=form, num_samples=2, **STEPS)
        for form in OUTPUT_TYPES
    }
    raw = made["raw"]["depth"]
    assert np.array_equal(made["np"]["depth"], np.stack(raw.values))
    assert np.array_equal(made["pt"]["depth"].numpy(), made["np"]["depth"])
    assert all(map(np.array_equal, made["pil"]["depth"], raw.images))
    assert alike(made["tokens"]["depth"], raw.ids)
    assert made["np"]["boxes"] == made["raw"]["boxes"].values == made["pt"]["boxes"]
    with pytest.raises(UserError, match="output_type 'numpy' is not one of raw, np, pt"):
        rgb(pipe, output_type="numpy")


def test_a_picture_is_the_same_input_in_every_form(pipe, picture):
    tensor = torch.from_numpy(picture).movedim(-1, 0) / 255
    forms = [picture, Image.fromarray(picture), tensor, tensor[None], [tensor]]
    states = [pipe.encode({"rgb": form}).grids["pixels"].values for form in forms]
    assert all(np.array_equal(state, states[0]) for state in states)
    made = pipe(CAPTION, "rgb", output_type="pt", num_samples=2, **STEPS)["rgb"]
    assert made.shape == (2, 3, 64, 64) and 0 <= made.min() < made.max() <= 1
    assert pipe.encode({"rgb": made}).num_samples == 2


def test_a_pipeline_is_made_of_its_components(pipe, expected):  # 6
    assert set(pipe.components) == set(inspect.signature(AnyToAnyPipeline.__init__).parameters) - {
        "self"
    }
    assert alike(rgb(AnyToAnyPipeline(**pipe.components)), expected)


def test_what_is_encoded_apart_can_be_given_instead(pipe, expected):  # 25
    ids = pipe.encode(CAPTION).sequences["caption"][0]
    out = pipe({"caption": Tokens(ids)}, "rgb", seed=5, **STEPS)
    assert alike(out["rgb"].ids, expected)


def test_guidance_changes_what_is_made_and_needs_a_condition(pipe):  # 19
    off, on = (rgb(pipe, guidance_scale=scale) for scale in (1.0, 3.0))
    assert not alike(off, on)
    free = [pipe({}, "rgb", seed=5, guidance_scale=s, **STEPS)["rgb"].ids for s in (1.0, 3.0)]
    assert alike(*free)


# ---- steps ---------------------------------------------------------------------------------------


def test_a_callback_sees_each_step_and_changes_nothing(pipe, expected):  # 20
    seen = []

    def look(step: GenerationStep) -> None:
        made = step.decode()
        known = step.known[0]
        seen.append((step.target.name, step.done, step.num_steps, int(known.sum())))
        assert step.images[0].size == (64, 64)
        for array in (known, made.ids[0], made.entropy[0]):
            array[:] = 0

    assert alike(rgb(pipe, callback_on_step_end=look), expected)
    assert [s[:3] for s in seen] == [("rgb", 1, 2), ("rgb", 2, 2)]
    assert 0 < seen[0][3] < seen[1][3] == 64


def test_a_stream_is_the_call_step_by_step(pipe, picture):
    given = {"rgb": picture}
    stream = pipe.stream(given, ["depth", "caption"], seed=2)
    texts, names = [], []
    for step in stream:
        names.append(step.target.name)
        if step.target.name == "caption":
            assert "depth" in stream.results  # what is finished is there
            texts.append(step.decode().texts[0])
    out = pipe(given, ["depth", "caption"], seed=2)
    assert list(stream.results) == ["depth", "caption"] == list(dict.fromkeys(names))
    assert stream.results["caption"].texts == out["caption"].texts == texts[-1:]
    assert alike(stream.results["depth"].ids, out["depth"].ids)
    assert len(texts) > 3 and len(texts[0]) < len(texts[2]) < len(texts[-1])


def test_a_stream_that_is_left_costs_no_further_step(pipe, monkeypatch):
    passes = []
    decode = pipe.model.decode
    monkeypatch.setattr(pipe.model, "decode", lambda *a: passes.append(1) or decode(*a))
    for step in pipe.stream(CAPTION, "rgb", steps=8):
        if step.done == 2:
            break
    assert len(passes) == 2


def test_a_wrong_call_is_refused_before_its_first_step(pipe):
    with pytest.raises(UserError, match="cannot be generated"):
        pipe.stream(CAPTION, "pixels")


def test_a_progress_bar_is_shown_only_where_it_is_asked_for(pipe, capsys):
    rgb(pipe)
    assert capsys.readouterr().err == ""
    rgb(pipe, progress_bar=True)
    assert "rgb: 100%" in capsys.readouterr().err


def test_the_settings_that_are_saved_are_those_of_the_pipeline(pipe, tmp_path):
    AnyToAnyPipeline(pipe.model, pipe.tokenizers_folder, pipe.options).save_pretrained(tmp_path)
    assert set(yaml.safe_load((tmp_path / "generation.yaml").read_text())) == set(pipe.options)
