"""Maps of classes: their colours, and what has no class, which no figure counts and no tokenizer
learns.
"""

import numpy as np
import pytest
import torch
from fourm_tokenizers.autoencoder import Autoencoder
from fourm_tokenizers.picture import from_values, to_values
from fourm_tokenizers.settings import TokenizerConfig

from fourm.errors import UserError
from fourm.evaluation.metrics import class_figures
from fourm.modalities import Modality
from fourm.raw.labels import Labels

S = 8


def labels(**more):
    return Labels(size=S, classes=("sea", "wood", "ice"), **more)


def test_classes_have_their_colours_and_what_has_no_class_is_grey():
    raw = labels(colors=("#0000ff", (0, 128, 0), "#ffffff"), ignore=255)
    value = np.zeros((S, S), np.uint8)
    value[0, :3] = [1, 2, 255]
    picture = np.asarray(raw.picture(raw.check(value)))
    grey = [128, 128, 128]
    assert picture[0, :4].tolist() == [[0, 128, 0], [255] * 3, grey, [0, 0, 255]]
    assert [name for name, _ in raw.legend().entries] == ["sea", "wood", "ice", "(ignored)"]
    assert raw.counted(value) == {"sea": 61, "wood": 1, "ice": 1, "(ignored)": 1}
    assert np.array_equal(raw.read(raw.write(value), "png"), value)
    assert raw.data_form == labels(ignore=255) != raw
    for wrong, why in (
        ({"colors": ("#fff",) * 3}, "is not of the form '#rrggbb'"),
        ({"colors": ((0, 0, 300),) * 3}, "its numbers are 0..255"),
        ({"colors": ("#ffffff",)}, "1 colors for 3 classes"),
        ({"ignore": -1}, "ignore -1 is no id"),
    ):
        with pytest.raises(UserError, match=why):
            labels(**wrong)
    with pytest.raises(UserError, match=r"0..2, not 7, 255; what has no class is named by ignore"):
        labels().check(np.array([[7, 255] * 4] * S))


def test_what_has_no_class_counts_in_no_figure():
    truth = np.zeros((2, S, S), np.uint8)
    truth[:, :2], truth[:, 2:4] = 255, 1
    wrong = truth.copy()
    wrong[:, :2], wrong[:, 2] = 2, 0
    raw = labels(ignore=255)
    there = truth != 255
    found = raw.figures(wrong, truth)
    assert found == class_figures(wrong[there], truth[there], 3)
    assert found["accuracy"] == pytest.approx(1 - 8 / 48)
    assert raw.baseline(list(truth))[0, 0] == 0  # not the ignored id, nor by its number
    assert labels(ignore=0).baseline(list(truth * (truth < 9)))[0, 0] == 1


def tokenizer(raw):
    m = Modality(name="m", kind="grid", raw=raw, vocab_size=16, grid=(2, 2))
    settings = TokenizerConfig(levels=(4, 4), patch_size=4, dim=8, num_heads=2, encoder_depth=1)
    torch.manual_seed(0)
    return Autoencoder(settings.model(m)), m


@pytest.mark.parametrize("ignore", [255, 1])
def test_a_tokenizer_neither_learns_nor_predicts_what_has_no_class(ignore):
    model, m = tokenizer(labels(ignore=ignore))
    rng = np.random.default_rng(0)
    value = rng.integers(0, 3, (4, S, S)).astype(np.uint8)
    value[:, :4] = ignore
    ids = to_values(value, m)
    output = torch.randn(4, 3, S, S, requires_grad=True)
    model.loss(output, ids).backward()
    assert output.grad is not None
    known = torch.from_numpy(value != ignore)[:, None].expand_as(output)
    assert not output.grad[~known].any() and output.grad[known].abs().min() > 0
    expected = torch.nn.functional.cross_entropy(
        output.permute(0, 2, 3, 1)[known[:, 0]], ids[known[:, 0]]
    )
    assert model.loss(output, ids).item() == pytest.approx(expected.item(), rel=1e-5)
    with torch.inference_mode():
        made = np.stack(from_values(model.decode(model.encode(ids)), m))
    assert made.max() < 3 and not (made == ignore).any()


def test_maps_without_gaps_are_coded_as_before():
    model, m = tokenizer(labels())
    ids = to_values(np.random.default_rng(0).integers(0, 3, (4, S, S)).astype(np.uint8), m)
    output = torch.randn(4, 3, S, S)
    expected = torch.nn.functional.cross_entropy(output, ids)
    assert model.loss(output, ids).item() == pytest.approx(expected.item(), rel=1e-6)
    channels = model._channels(ids, torch.float32)
    assert torch.equal(channels.argmax(1), ids) and bool((channels.sum(1) == 1).all())
