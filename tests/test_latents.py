"""Latents on disk, cached once by any encoder: written and read back, refused when broken or of
other samples, split by groups.
"""

import dataclasses

import numpy as np
import pytest
from latent_worlds import ABOUT

from fourm.alignment.latents import grouped_by, open_latents, paired, write_latents
from fourm.alignment.pairs import SplitConfig, split_subjects
from fourm.data.shards import shard_path, write_shard


def test_latents_round_trip_as_a_memory_map_with_tokens_and_groups(tmp_path):
    rows = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float16)
    write_latents(
        tmp_path / "t",
        rows,
        ["a", "b", "c"],
        offsets=np.array([0, 2, 3, 7]),
        groups=["x", "x", "y"],
        **ABOUT,
    )
    held = open_latents(tmp_path / "t")
    assert isinstance(held.vectors, np.memmap) and held.group_ids.tolist() == [0, 0, 1]
    tokens, mask = held.tokens(np.array([2, 0]))
    assert (
        mask.sum(1).tolist() == [4, 2]
        and np.allclose(tokens[1, :2], rows[:2])
        and (tokens[1, 2:] == 0).all()
    )
    assert np.allclose(held.rows(np.array([0])), rows[:2].astype(np.float32).mean(0))


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda f: (f / "latents.json").unlink(), "latents.json is missing"),
        (
            lambda f: np.save(f / "vectors.npy", np.full((3, 4), np.nan)),
            "those of 'a' are not finite",
        ),
        (lambda f: np.save(f / "vectors.npy", np.zeros((3, 5))), "inconsistent"),
        (lambda f: (f / "keys.txt").write_text("a\nb\n"), "inconsistent"),
        (lambda f: (f / "keys.txt").write_text("a\nc\nb\n"), "inconsistent"),
        (lambda f: (f / "vectors.npy").write_bytes(b"\x93NUMPY broken"), "cannot be read"),
        (
            lambda f: np.save(f / "vectors.npy", np.array([object()]), allow_pickle=True),
            "cannot be read",
        ),
    ],
)
def test_broken_latents_are_one_clear_error(tmp_path, broken, message):
    write_latents(tmp_path / "t", np.zeros((3, 4), np.float32), ["a", "b", "c"], **ABOUT)
    broken(tmp_path / "t")
    with pytest.raises(ValueError, match=message):
        open_latents(tmp_path / "t")


def test_latents_of_other_samples_are_not_paired(tmp_path):
    for name, keys in (("a", ["k0", "k1", "k2"]), ("b", ["k0", "k2", "k1"]), ("c", ["k0", "k1"])):
        write_latents(tmp_path / name, np.zeros((len(keys), 4), np.float32), keys, **ABOUT)
    a, b, c = (open_latents(tmp_path / name) for name in "abc")
    with pytest.raises(ValueError, match="sample 1 is 'k1' and 'k2'"):
        paired({"a": a, "b": b})
    with pytest.raises(ValueError, match="one ends earlier"):
        paired({"a": a, "c": c})


def test_no_subject_is_in_two_parts_of_a_split(tmp_path):
    keys = [f"{i // 3}~{i % 3}" for i in range(90)]
    write_latents(
        tmp_path / "t",
        np.zeros((90, 4), np.float32),
        keys,
        groups=[k.split("~")[0] for k in keys],
        **ABOUT,
    )
    held = open_latents(tmp_path / "t")
    config = SplitConfig(num_val=5, num_test=8, num_train=10)
    split = split_subjects(held, config)
    parts = [set(held.group_ids[p]) for p in (split.train, split.val, split.test)]
    diverse = split_subjects(held, dataclasses.replace(config, choose="diverse"))
    assert len(set(held.group_ids[diverse.train])) == 10 and (diverse.test == split.test).all()
    assert [len(p) for p in parts] == [10, 5, 8] and not (
        parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2]
    )


def test_the_test_is_the_data_s_own_split_and_groups_are_those_of_the_named_latents(tmp_path):
    num, rng = 40, np.random.default_rng(0)
    splits = ["val" if i % 4 == 0 else "train" for i in range(num)]
    texts = [f"t{i % 7}" for i in range(num)]
    for name, groups in (("image", None), ("text", texts)):
        write_latents(
            tmp_path / name,
            rng.normal(size=(num, 3)).astype(np.float32),
            [f"k{i}" for i in range(num)],
            groups=groups,
            splits=splits,
            **ABOUT,
        )
    held = {name: open_latents(tmp_path / name) for name in ("image", "text")}
    both = grouped_by(held, "text")
    assert both["image"].groups == texts and held["image"].groups != texts
    config = SplitConfig(num_val=2, num_test=0, test="val")
    split = split_subjects(both["image"], config)
    assert split.test.tolist() == list(range(0, num, 4))
    ids = both["image"].group_ids
    assert not set(ids[split.train]) & set(ids[split.val]) and len(set(ids[split.val])) == 2
    assert len(split.train) + len(split.val) + len(split.test) == num
    assert len(split_subjects(both["image"], dataclasses.replace(config, num_test=3)).test) == 3
    for name, message in (("test", "train, val"), ("elsewhere", "some of the latents' splits")):
        with pytest.raises(ValueError, match=message):
            split_subjects(both["image"], dataclasses.replace(config, test=name))
    with pytest.raises(ValueError, match="groups: 'sound' is none of"):
        grouped_by(held, "sound")
    write_latents(tmp_path / "old", np.zeros((4, 3), np.float32), list("abcd"), **ABOUT)
    with pytest.raises(ValueError, match="make them again"):
        split_subjects(open_latents(tmp_path / "old"), config)


def length_of_text(samples, raw):
    """An encoder that tells texts of different lengths from each other."""
    return [np.array([len(text), 1.0], np.float32) for text in samples.captions]


def test_latents_tell_shards_and_splits_of_keys_that_are_the_same_and_group_equal_texts(tmp_path):
    from fourm_data_prep.engine_options import EngineConfig
    from fourm_data_prep.latents import cache_latents

    config = tmp_path / "m.yaml"
    config.write_text(
        "modalities:\n  caption: {kind: sequence, raw: {type: text}, vocab_size: 9,"
        " max_tokens: 9}\n"
    )
    for split, texts in (("train", ["sea", "ice field", "sea"]), ("val", ["sea", "sand dune"])):
        write_shard(
            shard_path(tmp_path / "raw", split, "caption", 0),
            [(f"k{i}", "txt", text.encode()) for i, text in enumerate(texts)],
        )
    encoder, one = f"{__name__}:length_of_text", EngineConfig(workers=1)
    made = {}
    for name, together in (("own", False), ("equal", True)):
        arguments = tmp_path / "raw", config, "caption", encoder, tmp_path / name
        cache_latents(*arguments, equal_as_one=together, engine=one)
        made[name] = open_latents(tmp_path / name)
    assert made["own"].keys == [
        *(f"train/00000/k{i}" for i in range(3)),
        *(f"val/00000/k{i}" for i in range(2)),
    ]
    assert made["own"].splits == ["train"] * 3 + ["val"] * 2
    assert len(set(made["own"].groups)) == 5
    assert made["equal"].group_ids.tolist() == made["equal"].group_ids[[0, 1, 0, 0, 4]].tolist()
    assert len(set(made["equal"].groups)) == 3
    assert made["own"].info.fingerprint == made["equal"].info.fingerprint
