"""Released 4M files: computed alike, written back alike, refused with one clear error when damaged;
their masking, drawn alike.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fourm_tokenizers.released.codebooks import HeadCodes
from fourm_tokenizers.released.codec import relative_depth
from fourm_tokenizers.released.load import load_tokenizer
from safetensors.torch import load_file, save_file

from fourm.cli import main
from fourm.codecs import open_codec
from fourm.interop.released import ReleasedConfig, released_modalities, save_released
from fourm.modalities import Modality, ModalitySet
from fourm.model import FourM
from fourm.pipeline import AnyToAnyPipeline, Tokens
from fourm.preferred import preferred
from fourm.raw.image import Image
from fourm.raw.labels import Labels
from fourm.resources import configs_folder
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from tests import parity

GOLDEN = Path(__file__).parent / "data" / "golden"
TINY = dict(
    domains_in=("caption", "t5_caption", "rgb@224", "tok_depth@224", "tok_dinov2_global"),
    domains_out=("caption", "t5_caption", "tok_depth@224", "tok_dinov2_global"),
    dim=32,
    encoder_depth=1,
    decoder_depth=2,
    num_heads=4,
    norm_bias=False,
    act_layer="SiLU",
    image_size=224,
    patch_size=16,
    gated_mlp=True,
    qkv_bias=False,
    proj_bias=False,
    mlp_bias=False,
)


@pytest.mark.parametrize(
    "folder", parity.folders_under(GOLDEN), ids=lambda f: str(f.relative_to(GOLDEN))
)
def test_every_golden_tensor_of_the_reference_is_met(folder):
    comparisons = list(parity.check(folder))
    assert len(comparisons) > 5
    assert not [c for c in comparisons if not c.good]


def test_the_parity_program_names_what_misses_and_exits_1(tmp_path, capsys):
    shutil.copytree(GOLDEN / "vqvae_tiny" / "mlp", tmp_path / "mlp")
    outputs = load_file(tmp_path / "mlp" / "outputs.safetensors")
    outputs["decoded"] += 0.01
    save_file(outputs, tmp_path / "mlp" / "outputs.safetensors")
    assert parity.main([str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert (
        "MISS decoded" in captured.out
        and "decoded" in captured.err
        and "ok   latents" in captured.out
    )


def fresh(tmp_path, **changes) -> tuple[FourM, Path]:
    """A released folder with random weights, and its model."""
    config = ReleasedConfig(**{**TINY, **changes})
    torch.manual_seed(0)
    model = FourM(config.model(), released_modalities(config, "test"))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
        if name.endswith("learned"):
            parameter.data[0] = 0.0
    rows = [m.input for m in model.modalities]
    model.modality.data[~torch.tensor(rows)] = 0.0
    if model.decoder_modality is not None:
        model.decoder_modality.data[~torch.tensor([m.output for m in model.modalities])] = 0.0
    save_released(model, tmp_path / "released")
    return model, tmp_path / "released"


VARIANTS = [
    {},
    {"num_register_tokens": 3},
    {"qk_norm": True},
    {"share_modality_embeddings": False},
    {
        "gated_mlp": False,
        "act_layer": "GELU",
        "qkv_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "norm_bias": True,
        "qk_norm": True,
    },
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda v: ",".join(v) or "plain")
def test_ours_to_released_to_ours_is_bit_exact_with_all_keys_of_the_format(changes, tmp_path):
    model, folder = fresh(tmp_path, **changes)
    again = FourM.from_pretrained(str(folder))
    assert again.config == model.config and again.modalities == model.modalities
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    keys = load_file(folder / "model.safetensors")
    assert keys["encoder_embeddings.caption.pos_emb"].shape == (1, 512, 32)
    assert keys["decoder_embeddings.tok_depth@224.token_emb.weight"].shape == (8192, 32)
    assert keys["encoder_embeddings.t5_caption.emb_proj.bias"].shape == (32,)
    assert ("encoder.0.norm1.bias" in keys) and (
        "decoder_embeddings.t5_caption.mod_emb" not in keys
    )


def test_a_shared_embedding_is_found_under_whichever_name_was_kept(tmp_path):
    model, folder = fresh(tmp_path, share_modality_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    for name in ("caption", "tok_depth@224", "tok_dinov2_global"):
        weights[f"decoder_embeddings.{name}.mod_emb"] = weights.pop(
            f"encoder_embeddings.{name}.mod_emb"
        )
    save_file(weights, folder / "model.safetensors")
    assert torch.equal(FourM.from_pretrained(str(folder)).modality, model.modality)


def test_the_config_may_lie_in_the_header_alone_and_weights_in_shards_and_in_16_bits(tmp_path):
    model, folder = fresh(tmp_path)
    (folder / "config.json").unlink()
    assert torch.equal(FourM.from_pretrained(str(folder)).mask_token, model.mask_token)
    assert torch.equal(
        FourM.from_pretrained(str(folder / "model.safetensors")).mask_token, model.mask_token
    )
    save_released(model, folder)
    weights = {k: v.bfloat16() for k, v in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({n: weights[n] for n in part}, folder / file)
    index = {"weight_map": {n: file for file, part in parts.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = FourM.from_pretrained(str(folder))
    assert loaded.mask_token.dtype == loaded.positions.fixed.dtype == torch.bfloat16
    assert torch.equal(loaded.heads.table, model.heads.table.bfloat16())
    assert FourM.from_pretrained(str(folder), dtype=torch.float32).mask_token.dtype == torch.float32


def _edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def _rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:5000]
            ),
            r"model\.safetensors is damaged",
        ),
        (
            lambda f: _rewrite(f, lambda w: w.pop("encoder.0.attn.qkv.weight")),
            "lacks the weight 'encoder.0.attn.qkv.weight'",
        ),
        (
            lambda f: _rewrite(f, lambda w: w.update({"encoder_norm.weight": torch.ones(7)})),
            r"'encoder_norm.weight' has shape \[7\]",
        ),
        (
            lambda f: _rewrite(f, lambda w: w.update({"strange": torch.ones(7)})),
            "unknown weight 'strange'",
        ),
        (lambda f: _edit(f, num_head=3), "unknown key 'num_head'; did you mean 'num_heads'"),
        (lambda f: _edit(f, domains_in=["rgb@225"]), "unknown modality 'rgb@225'"),
        (lambda f: _edit(f, decoder_sep_mask=False), "decoder_sep_mask"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            r"pytorch_model\.bin is a pickled file",
        ),
        (
            lambda f: (f / "model.safetensors").rename(f / "model.pth"),
            r"model\.pth is a pickled file",
        ),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not valid JSON"),
    ],
)
def test_a_wrong_or_damaged_file_is_one_error_that_names_it(damage, message, tmp_path):
    _, folder = fresh(tmp_path)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        FourM.from_pretrained(str(folder))


def test_convert_writes_ours_and_writes_the_released_format_back(tmp_path, capsys):
    _, folder = fresh(tmp_path)
    main(["convert", str(folder), str(tmp_path / "ours")])
    main(["convert", str(tmp_path / "ours"), str(tmp_path / "back"), "--to", "released"])
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(
        (folder / "config.json").read_text()
    )
    with pytest.raises(SystemExit, match="2"):
        main(
            [
                "convert",
                str(Path(configs_folder().parent, "fourm/demo/model")),
                str(tmp_path / "x"),
                "--to",
                "released",
            ]
        )
    assert "the released format cannot hold this model" in capsys.readouterr().err


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
    return parity.unpacked(GOLDEN / name, into)


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
        (lambda f: _edit(f, latent_dims=3), "unknown key 'latent_dims'"),
        (lambda f: _edit(f, enc_type="vit_z_enc"), "unknown network 'vit_z_enc'"),
        (
            lambda f: _rewrite(f, lambda w: w.pop("quant_proj.bias")),
            "lacks the weight 'quant_proj.bias'",
        ),
        (lambda f: _edit(f, codebook_size=512), r"\[256, 8\].*asks for \[512, 8\]"),
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
        model = FourM.from_pretrained(parity.unpacked(folder, Path(scratch)))
    expected = parity.read_tensors(folder, "generation")
    state = parity._state(model, parity._by_modality(expected, "ar/in/"))
    for name, scale in (("ar/greedy", 1.0), ("ar/greedy_cfg2", 2.0)):
        options = SamplingOptions(temperature=0.0, guidance_scale=scale)
        made = Sampler(model).generate(state, "caption", options, np.arange(2), ["tok_semseg@224"])
        for row, ids in zip(expected[name].numpy(), made.sequences["caption"], strict=True):
            assert ids[: len(row)].tolist() == row.tolist()
