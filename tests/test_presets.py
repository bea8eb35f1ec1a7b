"""The presets of 4M are the runs that the papers describe: sizes, mixtures, lengths and rates; each
trains as it is, made small, on made-up data; what their headers promise is what the doctor finds.
"""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from fourm_data_prep.labellers import open_labeller

from fourm.cli import main
from fourm.cli.program import verbs
from fourm.config import dump, load
from fourm.doctor.estimate import Cluster, estimate
from fourm.doctor.made_up import with_made_up_data
from fourm.doctor.needs import Sizes
from fourm.errors import UserError
from fourm.interop.released import ReleasedConfig
from fourm.modalities import ModalitySet
from fourm.model.model import FourM, ModelConfig
from fourm.training.loop import Loop
from fourm.training.loop_config import LoopConfig
from fourm.training.optimizers import parameter_groups
from fourm.training.pretrain import PretrainConfig, PretrainTask, pretrain
from fourm.training.schedules import ScheduleConfig, learning_rate

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "pretrain"
PRESETS = sorted(path.stem for path in FOLDER.glob("4m_*.yaml"))
B, L, XL = (768, 12, 12), (1024, 24, 16), (2048, 24, 32)
HEADER = re.compile(
    r"^# Hardware: (?P<ranks>\d+) x (?P<gpu>.+?), (?P<way>one rank|DDP|FSDP2), (?P<gib>[\d.]+) GiB"
    r" each; (?P<hours>[\d.]+) hours at an assumed (?P<mfu>\d+) % MFU",
    re.MULTILINE,
)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Where presets are typed."""
    monkeypatch.chdir(ROOT)


def preset(name: str, *overrides: str) -> PretrainConfig:
    return load(PretrainConfig, FOLDER / f"{name}.yaml", list(overrides))


def network(config: ModelConfig, modalities: ModalitySet) -> tuple[int, int]:
    """Parameters of encoder and decoder, and of everything."""
    with torch.device("meta"):
        model = FourM(config, modalities)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    parts = ("encoder", "encoder_norm", "context", "decoder", "decoder_norm")
    return sum(n for name, n in sizes.items() if name.split(".")[0] in parts), sum(sizes.values())


def test_there_is_a_preset_for_each_model_that_was_released():
    sizes = [f"4m_{num}_{size}" for num in (7, 21) for size in ("b", "l", "xl")]
    assert set(PRESETS) == {*sizes, "4m_7_sr", "4m_7_t2i"}


# ---- as the papers have them ---------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_are_those_published(name):
    config = preset(name)
    size = {"b": B, "l": L, "xl": XL, "sr": L, "t2i": B}[name.rpartition("_")[2]]
    c = config.model
    assert (c.dim, c.encoder_depth, c.num_heads) == size and c.decoder_depth == c.encoder_depth
    parameters, everything = network(c, ModalitySet.load(config.modalities))
    published = {B: 198e6, L: 705e6, XL: 2.8e9}[size]
    assert parameters == pytest.approx(published, rel=0.01)
    assert Sizes(c, ModalitySet.load(config.modalities)).parameters == everything


@pytest.mark.parametrize(
    "name, total",
    [("4m_7_b", 441.5e6), ("4m_7_l", 1029e6), ("4m_7_xl", 3470e6), ("4m_21_b", 834e6)],
)
def test_with_untied_tables_they_are_the_released_files(name, total):
    config = preset(name)
    modalities = ModalitySet.load(config.modalities)
    c = config.model
    untied = replace(c, tie_heads=False)
    # the released files also hold the decoder's tables of image modalities, which nothing reads
    dead = sum(m.vocab_size for m in modalities.outputs if m.kind != "sequence") * c.dim
    assert network(untied, modalities)[1] + dead == pytest.approx(total, rel=0.001)
    released = ReleasedConfig(
        domains_in=(),
        domains_out=(),
        dim=c.dim,
        encoder_depth=c.encoder_depth,
        decoder_depth=c.decoder_depth,
        num_heads=c.num_heads,
        qkv_bias=False,
        proj_bias=False,
        mlp_bias=False,
        norm_bias=False,
        gated_mlp=True,
        act_layer="SiLU",
        image_size=224,
        patch_size=16,
        share_modality_embeddings=name.startswith("4m_7"),
    )
    assert released.model() == untied


# name: (billions of slots in all and to warm up, batch, slots of a sample, rate for 256, clip)
RECIPES = {
    "4m_7_b": (500, 10, 8192, 256, 1e-4, 0.0),
    "4m_7_l": (500, 10, 8192, 256, 1e-4, 0.0),
    "4m_7_xl": (500, 10, 8192, 256, 2e-5, 3.0),
    "4m_21_b": (500, 10, 8192, 512, 1e-4, 0.0),
    "4m_21_l": (500, 10, 8192, 512, 1e-4, 0.0),
    "4m_21_xl": (500, 10, 8192, 512, 2e-5, 3.0),
    "4m_7_t2i": (100, 10, 4096, 512, 1e-4, 0.0),
    "4m_7_sr": (100, 5, 4096, 2048, 1e-4, 3.0),
}


@pytest.mark.parametrize("name", PRESETS)
def test_lengths_and_rates_are_those_published(name):
    total, warmup, batch, slots, rate, clip = RECIPES[name]
    config = preset(name)
    loop, o = config.loop, config.loop.optimizer
    assert sum(config.most_rows) == slots and loop.batch_size == batch
    assert loop.steps == round(total * 1e9 / (slots * batch))
    assert loop.schedule.warmup == round(warmup * 1e9 / (slots * batch))
    assert (o.lr, o.per_samples, o.clip) == (rate, 256, clip)
    assert (o.name, o.betas, o.weight_decay) == ("adamw", (0.9, 0.95), 0.05)
    assert (config.loss, loop.precision, loop.schedule.name) == ("modality", "bf16", "cosine")
    assert learning_rate(loop.schedule, loop.steps, loop.steps) == 0


def alphas(name: str, masking: int = 0) -> list[tuple[dict[str, float], dict[str, float], dict]]:
    """Of each component: inputs, targets and kept, every modality by name."""
    config = preset(name)
    modalities = ModalitySet.load(config.modalities)
    own = config.data.sources[masking].modalities
    used = [m for m in modalities if not own or m.name in own]
    return [
        (
            {m.name: c.input.get(m.name, c.input_default) for m in used if m.input},
            {m.name: c.target.get(m.name, c.target_default) for m in used if m.output},
            c.keep,
        )
        for c in config.maskings[masking].components
    ]


def even(names, value: float, **others: float) -> dict[str, float]:
    return {n: others.get(n.replace("@", "_"), value) for n in names}


def test_mixtures_are_those_published():
    (pixels, to, _), (inputs, targets, _) = alphas("4m_7_b")
    assert pixels == even(pixels, 0, rgb_224=1000) and to == even(to, 0.5)
    assert inputs == even(inputs, 0.5) and targets == even(targets, 0.5) and len(inputs) == 8
    components = alphas("4m_21_b")
    assert len(components[0][0]) == 19 and len(components[0][1]) == 17
    for alpha, (inputs, targets, keep) in zip((0.01, 0.1, 1, 10), components, strict=False):
        assert inputs == even(inputs, alpha) and targets == even(targets, alpha)
        assert keep == {"color_palette": "binary"}
    pixels, captions, t5 = components[4:]
    assert pixels[0] == even(pixels[0], 0, rgb_224=1000) and pixels[1] == even(pixels[1], 0.5)
    assert captions[0] == even(captions[0], 0.05, caption=5, t5_caption=0)
    assert captions[1] == even(captions[1], 0.5, caption=0) and captions[2]["caption"] == "all"
    assert t5[0] == even(t5[0], 0.05, caption=0, t5_caption=5) and t5[1] == even(t5[1], 0.5)
    weights = [c.weight for c in preset("4m_21_b").maskings[0].components]
    assert weights == [1, 1, 1, 1, 1, 0.5, 0.5]


def test_each_source_of_4m_21_has_its_share_modalities_and_masks():
    config = preset("4m_21_b")
    assert [s.weight for s in config.data.sources] == [0.6, 0.2, 0.2]
    coyo = alphas("4m_21_b", 1)
    assert len(coyo) == 6 and len(coyo[0][0]) == 8 and len(coyo[0][1]) == 7
    assert coyo[5][0] == even(coyo[5][0], 0.05, caption=5) and coyo[5][2] == {"caption": "all"}
    assert alphas("4m_21_b", 2) == [({"caption": 1}, {"caption": 1}, {})]
    assert {m.num_inputs for m in config.maskings} == {(256, 256)}


def test_specialists_have_the_mixtures_and_budgets_published():
    captions, few, one = alphas("4m_7_t2i")
    assert captions[0] == even(captions[0], 0.05, caption=5) and captions[2] == {"caption": "all"}
    assert few[0] == even(few[0], 0.2) and one[0] == even(one[0], 1)
    assert all(c[1] == even(c[1], 1) for c in (captions, few, one))
    assert preset("4m_7_t2i").maskings[0].num_inputs == (64, 256)
    up, *others = alphas("4m_7_sr")
    assert up[0] == even(up[0], 0.05, tok_rgb_224=5, tok_rgb_448=5)
    assert up[1] == even(up[1], 0.05, tok_rgb_448=5) and len(up[1]) == 5
    assert [c[0]["tok_depth@224"] for c in others] == [0.05, 0.2, 1]
    assert all(c[1] == even(c[1], 1) for c in others)
    assert preset("4m_7_sr").maskings[0].num_inputs == (64, 1024)
    dense = load(PretrainConfig, FOLDER / "4m_7_b.yaml").masking
    assert dense is not None and not dense.redistribute


def test_second_stages_begin_where_the_first_ended():
    for name in PRESETS:
        config = preset(name)
        if name in ("4m_7_b", "4m_7_l", "4m_7_xl"):
            assert not config.init
            continue
        size = {"sr": "l", "t2i": "b"}.get(name.rpartition("_")[2], name.rpartition("_")[2])
        first = preset(f"4m_7_{size}")
        assert config.init == f"{first.out}/checkpoints/step_{first.loop.steps:08d}"
        assert config.model.dim == first.model.dim


def test_tables_are_decayed_where_a_config_says_so():
    config = preset("4m_7_b")
    with torch.device("meta"):
        model = FourM(config.model, ModalitySet.load(config.modalities))

    def decayed(tables: bool) -> set[str]:
        groups = parameter_groups(model, replace(config.loop.optimizer, decay_tables=tables))
        return {name for group in groups if group.weight_decay for name in group.names}

    assert decayed(True) - decayed(False) == {"tokens.table", "decoder_tokens.table", "modality"}


# ---- they train, and their headers are true ------------------------------------------------------

SMALL = (
    "model.dim=32",
    "model.encoder_depth=1",
    "model.decoder_depth=1",
    "model.num_heads=2",
    "loop.batch_size=4",
    "loop.total_tokens=0",
    "loop.steps=1",
    "loop.schedule.warmup_tokens=0",
    "loop.num_workers=0",
    "loop.log_every=1",
    "loop.threads=1",
    "eval_samples=2",
    "init=''",
)


@pytest.fixture
def precision_is_free():
    """Accelerate holds a process to the precision of the first run in it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", [*PRESETS, "own_data"])
@pytest.mark.usefixtures("precision_is_free")
def test_a_step_of_each_made_small_trains_on_made_up_data(name, tmp_path):
    config = preset(name, *SMALL, f"out={tmp_path / 'run'}")
    modalities = ModalitySet.load(config.modalities)
    figures = pretrain(with_made_up_data(config, modalities, tmp_path))
    assert 2 < figures["loss"] < 12
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert any("grad_norm" in json.loads(line) for line in lines)


def test_what_a_preset_trains_is_written_in_the_released_format_and_computes_the_same(tmp_path):
    config = preset("4m_21_b", *SMALL)
    modalities = ModalitySet.load(config.modalities)
    config = with_made_up_data(config, modalities, tmp_path)
    batch = PretrainTask(config, modalities).batches(0, 1)[0][0]
    model = FourM(config.model, modalities)
    model.save_pretrained(tmp_path / "ours")
    main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "released"])
    theirs = FourM.from_pretrained(tmp_path / "theirs")
    assert model.config.tie_heads and not theirs.config.tie_heads
    names = [m.name for m in modalities]
    order = [names.index(m.name) for m in theirs.modalities]
    assert order == list(range(len(names)))
    torch.testing.assert_close(theirs(batch).sums, model(batch).sums, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", [*PRESETS, "own_data"])
def test_the_header_says_command_hardware_hours_and_what_is_planned(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    comment = "".join(line for line in text.splitlines(True) if line.startswith("#"))
    assert f"configs/pretrain/{name}.yaml" in comment and "Planned" in comment
    said = HEADER.search(comment)
    assert said is not None
    cluster = Cluster(int(said["ranks"]), said["gpu"], int(said["mfu"]) / 100)
    found = estimate(preset(name), 1.0, cluster).plan
    assert str(found.as_it_is.way.ranks) == said["way"] and found.as_it_is.fits
    assert found.as_it_is.needs.memory / 2**30 == pytest.approx(float(said["gib"]), rel=0.05)
    assert found.hours == pytest.approx(float(said["hours"]), rel=0.05)


# ---- lengths in tokens ---------------------------------------------------------------------------


def test_a_length_in_tokens_is_one_in_steps_whatever_the_ranks():
    given = ("loop.total_tokens=1.0e9", "loop.schedule.warmup_tokens=1e8", "loop.batch_size=1024")
    loop = preset("4m_7_b", *given).loop
    assert (loop.steps, loop.schedule.warmup) == (3815, 381) and loop.total_tokens == 0
    assert preset("4m_7_b", *given, "loop.micro_batches=4").loop.steps == loop.steps
    longer = preset("4m_7_b", *given, "masking.num_targets=[256, 256]").loop
    assert longer.steps == round(1e9 / (1024 * 384))
    rates = [learning_rate(loop.schedule, step, loop.steps) for step in (0, 190, 381, 3814)]
    assert rates[0] == pytest.approx(1 / 381) and rates[1] == pytest.approx(191 / 381)
    assert rates[2] == 1 and rates[3] < 1e-5


def test_what_a_run_writes_down_is_read_back_as_the_same_run(tmp_path):
    config = preset("4m_21_xl")
    dump(config, tmp_path / "config.yaml")
    assert load(PretrainConfig, tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["loop.steps=3"], "steps (3) and total_tokens (5e+11) are both given: leave one out"),
        (["loop.total_tokens=0"], "steps must be at least 1, not 0 (or total_tokens given)"),
        (["loop.total_tokens=1e9"], "must be more than schedule.warmup_tokens (1e+10)"),
        (["loop.total_tokens=-1"], "total_tokens (-1) must be more than"),
        (["loop.schedule.warmup=9"], "warmup (9 steps) and warmup_tokens (1e+10) are both given"),
        (["loop.micro_batches=3"], "batch_size 8192 is not a multiple of micro_batches 3"),
        (["loop.totaltokens=5"], "unknown key 'totaltokens'; did you mean 'total_tokens'?"),
        (["loop.sharding=fsdp"], "'fsdp' is not one of none, all, node"),
    ],
)
def test_mistakes_in_lengths_are_a_sentence(overrides, told):
    with pytest.raises(UserError, match=re.escape(told)):
        preset("4m_7_b", *overrides)


@pytest.mark.parametrize(
    "config",
    [
        LoopConfig(batch_size=4, total_tokens=1e6),
        LoopConfig(batch_size=4, steps=3, schedule=ScheduleConfig(warmup_tokens=5)),
    ],
)
def test_only_a_pretraining_counts_in_tokens(config, tmp_path):
    with pytest.raises(UserError, match="only a pretraining counts in tokens"):
        Loop(torch.nn.Linear(1, 1), None, config, tmp_path)  # type: ignore[arg-type]


# ---- the page that tells how ---------------------------------------------------------------------


def commands_of(title: str) -> list[list[str]]:
    """Command lines of a section of docs/training.md, words without comments."""
    text = (ROOT / "docs" / "training.md").read_text()
    section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize(
    "title, verbs_in_order",
    [
        ("The full-size run", "download import inspect label train-tokenizer tokenize doctor"),
        ("Own data at any size", "import train-tokenizer tokenize doctor pretrain"),
    ],
)
def test_every_command_of_the_page_has_the_options_that_it_is_given(title, verbs_in_order):
    told = []
    for words in commands_of(title):
        program, *arguments = words
        if program == "sbatch":
            script, config = arguments
            assert (ROOT / script).is_file() and load(PretrainConfig, config)
        elif program == "cp":
            assert all((ROOT / name).exists() for name in arguments if name.startswith("configs"))
        else:
            assert program == "fourm", words
            name, *rest = arguments
            verbs()[name].load().make_context(name, rest)  # refuses what it does not know
            told.append(name)
            for config in (word for word in rest if word.startswith("configs/modalities/")):
                assert len(ModalitySet.load(config)) > 1
    assert " ".join(told).startswith(verbs_in_order)


def test_labellers_of_the_full_size_run_are_known():
    modalities = ModalitySet.load("configs/modalities/4m_7_labels.yaml")
    released = ModalitySet.load("configs/modalities/4m_7.yaml")
    assert [m.name for m in modalities] == [m.name for m in released]
    assert [m.vocab_size for m in modalities] == [m.vocab_size for m in released]
    named = [m.labeller for m in modalities if m.labeller]
    assert len(named) == 5 and all(map(open_labeller, named))
