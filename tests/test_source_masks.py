"""Several data sets, each with its own modalities and masks: one pass draws what a masker of each
would; budgets, held-out figures and mixtures are each source's own.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ALL_TO_ALL, make_tokens
from test_masking import rows_of
from worlds import curve, write_project

from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig
from fourm.batches.tokens import SampleTokens
from fourm.config import from_mapping, load
from fourm.data.store import SourceConfig, open_sources
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.records.provenance import Provenance
from fourm.training.mixture import AdaptiveConfig, Mixture
from fourm.training.pretrain import PretrainConfig, PretrainTask, pretrain

SMALL = MaskingConfig(
    num_inputs=(2, 3),
    num_targets=(40, 40),
    redistribute=False,
    components=(MaskingComponent(input={"depth": 1.0}, target={"rgb": 1.0, "boxes": 1.0}),),
)


def test_each_sample_has_the_masks_that_a_masker_of_its_source_alone_draws(modalities):
    tokens, draws = make_tokens(modalities, 60, lacking="caption"), np.arange(60) + 7
    source = np.arange(60) % 3
    maskings = [ALL_TO_ALL, SMALL, ALL_TO_ALL]
    together = Masker(modalities, maskings, seed=5)(
        SampleTokens(tokens.samples, tokens.content, source), draws
    )
    alone = [Masker(modalities, masking, seed=5)(tokens, draws) for masking in maskings]
    for b in range(60):
        for found, wanted in zip(rows_of(together, b), rows_of(alone[source[b]], b), strict=True):
            assert np.array_equal(found, wanted)


def test_a_source_without_masks_of_its_own_has_the_run_s_and_one_of_the_two_is_needed(tmp_path):
    path = write_project(tmp_path)
    config = yaml.safe_load(path.read_text())
    first = config["data"]["sources"][0]
    masking = {**config["masking"], "num_targets": [50, 50]}
    config["data"]["sources"] = [first, {**first, "masking": masking}]
    both = from_mapping(PretrainConfig, config, "run.yaml")
    assert [m.num_targets for m in both.maskings] == [(4, 16), (50, 50)]
    del config["masking"]
    with pytest.raises(UserError, match="missing key 'masking'.*how .*tokens is masked"):
        from_mapping(PretrainConfig, config, "run.yaml")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"modalities": ["rbg"]}, "unknown modality 'rbg'.*mean 'rgb'"),
        ({"modalities": ["rgb", "depth"]}, r"has no shards of depth, .* it has rgb"),
        ({"modalities": ["rgb"], "masking": {"input": "depth"}}, "names depth, which is not among"),
    ],
)
def test_a_modality_that_a_source_lacks_is_named(tmp_path, given, message):
    path = write_project(tmp_path)
    config = load(PretrainConfig, path)
    shutil.rmtree(Path(config.data.sources[0].tokens, "val", "depth"))
    mapping = yaml.safe_load(path.read_text())
    if "masking" in given:
        component = {"input": {"depth": 1.0}, "target_default": 1.0}
        given = {**given, "masking": {**mapping["masking"], "components": [component]}}
    mapping["data"]["sources"][0] |= given
    with pytest.raises(UserError, match=message):
        data = from_mapping(PretrainConfig, mapping, "run.yaml").data
        open_sources(data, "val", ModalitySet.load(config.modalities))


def test_equal_maskings_share_one_mixture_of_components_others_have_their_own():
    pair = MaskingConfig(
        num_inputs=(4, 4),
        num_targets=(4, 4),
        components=(MaskingComponent(), MaskingComponent(weight=3.0)),
    )
    adaptive = AdaptiveConfig(of="components")
    mixture = Mixture([9, 9, 9], [1.0] * 3, [pair, SMALL, pair], 0, 4, adaptive)
    assert [(m.source, m.number) for m in mixture.members] == [(0, 0), (0, 1), (1, 0)]
    mixture.update(1, [], [5.0, 5.0, 2.0])
    mixture.update(2, [], [5.0, 2.5, 1.0])
    of_pair, of_small, again = ([c.weight for c in m.components] for m in mixture.masks())
    assert of_pair == again and of_small == [pytest.approx(1.0)]
    # what stays hard has stopped falling: it is drawn less, and so is what is known
    assert sum(of_pair) == pytest.approx(1.0) and of_pair != [0.25, 0.75]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Captions and pictures here, depth there: two sources, each with its own masks."""
    path = write_project(tmp_path_factory.mktemp("pictures"), keep_checkpoints=9)
    second = write_project(tmp_path_factory.mktemp("depth"), num=20)
    config, other = (yaml.safe_load(p.read_text()) for p in (path, second))
    depth = {
        "num_inputs": [3, 3],
        "num_targets": [13, 13],
        "components": [{"input": {"depth": 1}, "target": {"depth": 1}}],
    }
    config["data"]["sources"] = [
        {**config["data"]["sources"][0], "modalities": ["rgb", "pixels", "caption"]},
        {
            **other["data"]["sources"][0],
            "weight": 0.5,
            "modalities": ["depth"],
            "masking": depth,
        },
    ]
    config["constant_shapes"] = True
    config["adaptive"] = {"of": "both", "every": 6, "window": 1, "probe_samples": 8}
    path.write_text(yaml.safe_dump(config))
    return path


def test_batches_hold_what_each_source_s_masks_ask_for(project):
    config = load(PretrainConfig, project)
    modalities = ModalitySet.load(config.modalities)
    batch = PretrainTask(config, modalities).batches(0, 1)[0][0]
    depth = modalities.index("depth")
    seen = []
    for b in range(len(batch.samples)):
        encoder, decoder = rows_of(batch, b)
        if depth in encoder[0]:
            assert set(encoder[0]) == set(decoder[0]) == {depth}
            assert (encoder.shape[1], decoder.shape[1]) == (3, 13)
        seen.append(depth in decoder[0])
    assert any(seen) and not all(seen)


@pytest.mark.slow
def test_a_run_of_sources_with_masks_of_their_own_resumes_bit_for_bit(project, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    figures = pretrain(load(PretrainConfig, project, [f"out={whole}"]))
    # the first source has no depth: its figure is the second's, under the second's masks
    assert figures["loss/depth"] == pytest.approx(
        next(v for k, v in figures.items() if k.startswith("loss of "))
    )
    assert Provenance.of_run(whole, 24).max_targets == 16
    shutil.copytree(whole, cut)
    for step in (15, 20, 24):
        shutil.rmtree(cut / "checkpoints" / f"step_{step:08d}")
    pretrain(load(PretrainConfig, project, [f"out={cut}"]))
    assert curve(cut) == curve(whole)
    # the resolved config, with each source's own tree, is read again as it was written
    assert (
        load(PretrainConfig, whole / "config.yaml").maskings
        == load(PretrainConfig, project).maskings
    )


def test_a_source_s_masking_is_read_from_python_too():
    source = SourceConfig(tokens="a", masking=SMALL)
    assert source.masking == SMALL and source.name == "a"
