"""Rows of an encoder, our own or a pretrained one: they do not depend on neighbours and are cached
shard by shard.
"""

import numpy as np
import pytest
import torch
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples
from labeller_networks import PICTURES, SAMPLES

from fourm.raw.vectors import Vectors


def test_fourm_s_own_encoder_gives_rows_that_do_not_depend_on_neighbours():
    from fourm.pipeline.pipeline import AnyToAnyPipeline
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
