"""Released 4M tokenizers, modality sets and pipelines: they code ordinary pictures and words as
the reference does; a damaged one is one error that names it.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fourm_tokenizers.released.codebooks import HeadCodes
from fourm_tokenizers.released.codec import relative_depth
from fourm_tokenizers.released.load import load_tokenizer
from parity_models import by_modality, state_of
from parity_tensors import read_tensors, unpacked
from released_folders import GOLDEN, edit_config, fresh, rewrite_weights

from fourm.codecs import open_codec
from fourm.modalities import Modality, ModalitySet
from fourm.model.model import FourM
from fourm.pipeline.pipeline import AnyToAnyPipeline, Tokens
from fourm.pipeline.preferred import preferred
from fourm.raw.image import Image
from fourm.raw.labels import Labels
from fourm.resources import configs_folder
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler


def test_the_modality_sets_have_the_published_vocabularies_lengths_and_positions():
    sets = {
        name: ModalitySet.load(configs_folder() / "modalities" / f"{name}.yaml")
        for name in ("4m_7", "4m_21", "4m_7_sr", "4m_7_t2i")
    }
    wide = sets["4m_21"]
    assert (len(wide.inputs), len(wide.outputs)) == (19, 17)
    assert {m.name: m.vocab_size for m in wide if m.kind in ("grid", "set")} == {
        "tok_rgb@224": 16384,
        "tok_semseg@224": 4096,
        **{
            n: 8192
            for n in (
                "tok_normal@224",
                "tok_depth@224",
                "tok_clip@224",
                "tok_dinov2@224",
                "tok_imagebind@224",
                "tok_dinov2_global",
                "tok_imagebind_global",
                "tok_sam_edge@224",
                "tok_canny_edge@224",
            )
        },
    }
    lengths = {
        "caption": 256,
        "det": 256,
        "metadata": 40,
        "human_poses": 275,
        "color_palette": 23,
        "sam_instance": 290,
    }
    assert {m.name: m.max_tokens for m in wide if m.kind == "sequence"} == lengths
    assert all(m.vocab_size == 30000 for m in wide if m.kind == "sequence")
    assert (
        wide["tok_dinov2@224"].num_tokens == 256 and wide["tok_imagebind_global"].num_tokens == 16
    )
    assert [m.name for m in sets["4m_7"].outputs] == [
        "caption",
        "det",
        "tok_rgb@224",
        "tok_depth@224",
        "tok_normal@224",
        "tok_semseg@224",
        "tok_clip@224",
    ]
    assert (
        all(m.name.endswith("@448") for m in sets["4m_7_sr"].outputs)
        and len(sets["4m_7_sr"].outputs) == 5
    )
    for other in sets.values():  # what two sets share, they share exactly
        for m in other:
            if m.name in wide:
                assert (m.grid, m.vocab_size, m.max_tokens, m.raw) == (
                    wide[m.name].grid,
                    wide[m.name].vocab_size,
                    wide[m.name].max_tokens,
                    wide[m.name].raw,
                )


def test_head_codes_equal_a_plain_loop_over_heads():
    torch.manual_seed(0)
    ours = HeadCodes(32, 24, 4)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    latents = torch.randn(5, 24, 1, 1)
    ids, codes = ours.ids(latents), ours.codes(ours.ids(latents))
    assert ids.shape == (5, 4, 1, 1)
    for b in range(5):
        for head in range(4):
            query = latents[b, head * 6 : head * 6 + 6, 0, 0]
            best = int((ours.codebooks[head] @ ours.to_k[head] @ query).argmax())
            assert ids[b, head, 0, 0] == best
            value = ours.codebooks[head, best] @ ours.to_v[head]
            assert torch.allclose(codes[b, head * 6 : head * 6 + 6, 0, 0], value, atol=1e-6)


def tokenizer_folder(name: str, into: Path) -> Path:
    into.mkdir(parents=True)
    return unpacked(GOLDEN / name, into)


def test_a_released_tokenizer_is_a_codec_of_ordinary_pictures(tmp_path):
    tokenizer_folder("vqvae_tiny", tmp_path / "rgb")
    tokenizer_folder("divae_tiny", tmp_path / "drawn")
    tokenizer_folder("vqvae_tiny/semseg", tmp_path / "classes")
    raw = Image(size=64)
    kinds = {
        "rgb": raw,
        "drawn": raw,
        "classes": Labels(size=64, classes=tuple(f"c{i}" for i in range(21))),
    }
    rng = np.random.default_rng(0)
    for name, spec in kinds.items():
        m = Modality(name=name, kind="grid", raw=spec, tokenizer=name, vocab_size=256, grid=(4, 4))
        codec = open_codec(m, ModalitySet((m,), {name: {"type": "released"}}), tmp_path)
        shape = (64, 64) if isinstance(spec, Labels) else (64, 64, 3)
        values = [rng.integers(0, 21, shape).astype(np.uint8) for _ in range(2)]
        ids = codec.encode(values)
        assert all(i.shape == (16,) for i in ids)
        if name == "drawn":
            codec.steps = 2
        for value, other in zip(codec.decode(ids), codec.decode(ids), strict=True):
            spec.check(value)
            assert np.array_equal(value, other)
        if name == "rgb":
            direct = codec.model.encode(
                torch.from_numpy(values[0]).permute(2, 0, 1)[None] / 127.5 - 1
            )
            assert np.array_equal(direct.reshape(-1).numpy(), ids[0])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: edit_config(f, latent_dims=3), "unknown key 'latent_dims'"),
        (lambda f: edit_config(f, enc_type="vit_z_enc"), "unknown network 'vit_z_enc'"),
        (
            lambda f: rewrite_weights(f, lambda w: w.pop("quant_proj.bias")),
            "lacks the weight 'quant_proj.bias'",
        ),
        (lambda f: edit_config(f, codebook_size=512), r"\[256, 8\].*asks for \[512, 8\]"),
        (lambda f: (f / "model.safetensors").rename(f / "model.pth"), "pickled"),
    ],
)
def test_a_damaged_tokenizer_is_one_error_that_names_it(change, message, tmp_path):
    folder = tokenizer_folder("vqvae_tiny", tmp_path / "t")
    change(folder)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(folder)


def test_relative_depth_ignores_the_outer_tenths_and_the_unit():
    depth = np.random.default_rng(0).uniform(1, 5, (2, 20, 20))
    spoiled = depth.copy()
    spoiled[0, 0, 0] = 1e6
    plain = relative_depth(depth)
    assert np.abs(relative_depth(depth * 7) - plain).max() < 1e-3
    assert np.abs(relative_depth(spoiled)[0, 1:] - plain[0, 1:]).max() < 0.02


def test_a_released_pipeline_opens_each_tokenizer_when_it_is_used_with_the_family_s_settings(
    tmp_path,
):
    """A tiny 4M-7 with local tokenizers: depth tokens from pixels, then from given tokens to a
    decoded picture.
    """
    _, folder = fresh(
        tmp_path,
        domains_in=("rgb@224", "tok_rgb@224", "tok_depth@224"),
        domains_out=("tok_rgb@224", "tok_depth@224"),
    )
    pipe = AnyToAnyPipeline.from_pretrained(folder, tokenizers=tmp_path / "tokenizers")
    assert (
        pipe.options["rgb@224->tok_depth@224"].steps == 1
        and pipe.options["tok_rgb@224"].steps == 25
    )
    state = pipe.encode({"rgb@224": np.zeros((300, 400, 3), np.uint8)})  # needs no tokenizer
    assert state.grids["rgb@224"].values.shape == (1, 196, 768)
    black = (0 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert np.allclose(state.grids["rgb@224"].values[0, 0, :3], black, atol=1e-5)
    options = preferred(pipe.options, pipe.modalities, state.present, "tok_depth@224")
    made = pipe.sampler.generate(state, "tok_depth@224", options, np.array([0]), state.present)
    assert made.grids["tok_depth@224"].known.all()
    with pytest.raises(
        ValueError,
        match="tokenizer 'depth' is neither in .* nor to be had from the hub as EPFL-VILAB",
    ):
        pipe({"tok_rgb@224": Tokens(np.zeros(196, np.int64))}, ["tok_depth@224"])


def test_text_embeddings_of_different_lengths_are_inputs_too(tmp_path):
    _, folder = fresh(tmp_path)
    pipe = AnyToAnyPipeline.from_pretrained(folder, tokenizers=tmp_path)
    rng = np.random.default_rng(0)
    lists = [rng.normal(size=(n, 4096)).astype(np.float32) for n in (3, 7)]
    state = pipe.encode({"t5_caption": lists})
    assert state.grids["t5_caption"].known.sum(1).tolist() == [3, 7]
    made = pipe.sampler.generate(
        state, "tok_depth@224", SamplingOptions(steps=1), np.array([0, 1]), []
    )
    alone = pipe.sampler.generate(
        pipe.encode({"t5_caption": lists[:1]}),
        "tok_depth@224",
        SamplingOptions(steps=1),
        np.array([0]),
        [],
    )
    assert np.array_equal(
        made.grids["tok_depth@224"].values[:1], alone.grids["tok_depth@224"].values
    )
    with pytest.raises(ValueError, match="78 vectors are more than the 77"):
        pipe.encode({"t5_caption": [np.zeros((78, 4096), np.float32)]})


def test_greedy_sampling_of_the_pipeline_s_own_sampler_gives_the_reference_s_words():
    """Not only the decoder (parity) but the whole sampler, gaps and cache included."""
    folder = GOLDEN / "fm_mod7_tiny"
    with tempfile.TemporaryDirectory() as scratch:
        model = FourM.from_pretrained(unpacked(folder, Path(scratch)))
    expected = read_tensors(folder, "generation")
    state = state_of(model, by_modality(expected, "ar/in/"))
    for name, scale in (("ar/greedy", 1.0), ("ar/greedy_cfg2", 2.0)):
        options = SamplingOptions(temperature=0.0, guidance_scale=scale)
        made = Sampler(model).generate(state, "caption", options, np.arange(2), ["tok_semseg@224"])
        for row, ids in zip(expected[name].numpy(), made.sequences["caption"], strict=True):
            assert ids[: len(row)].tolist() == row.tolist()
