"""Released 4M models: computed alike, written back alike, refused with one clear error when
damaged.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from released_folders import GOLDEN, edit_config, fresh, rewrite_weights
from safetensors.torch import load_file, save_file

from fourm.cli import main
from fourm.interop.released import save_released
from fourm.model.model import FourM
from fourm.resources import configs_folder
from tests import parity


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
            lambda f: rewrite_weights(f, lambda w: w.pop("encoder.0.attn.qkv.weight")),
            "lacks the weight 'encoder.0.attn.qkv.weight'",
        ),
        (
            lambda f: rewrite_weights(
                f, lambda w: w.update({"encoder_norm.weight": torch.ones(7)})
            ),
            r"'encoder_norm.weight' has shape \[7\]",
        ),
        (
            lambda f: rewrite_weights(f, lambda w: w.update({"strange": torch.ones(7)})),
            "unknown weight 'strange'",
        ),
        (lambda f: edit_config(f, num_head=3), "unknown key 'num_head'; did you mean 'num_heads'"),
        (lambda f: edit_config(f, domains_in=["rgb@225"]), "unknown modality 'rgb@225'"),
        (lambda f: edit_config(f, decoder_sep_mask=False), "decoder_sep_mask"),
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
