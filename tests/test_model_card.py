"""A model's card says what is known of it, and nothing else."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml
from conftest import make_model
from huggingface_hub import HfApi, ModelCard

import fourm
from fourm import AnyToAnyPipeline, FourM, ModalitySet
from fourm.records.model_card import HERE, model_card
from fourm.records.provenance import Provenance, flat_figures
from fourm.resources import demo_model_folder

KNOWN = Provenance(
    steps=1200,
    batch_size=32,
    max_inputs=96,
    max_targets=90,
    num_samples=5000,
    num_held_out=400,
    held_out={"loss": 2.5, "loss/rgb": 3.25},
    figures={"rgb psnr": 25.125},
)


@pytest.fixture
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


def head_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def code_of(card: str, folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.S)
    assert found is not None
    return found[1].replace(HERE, str(folder))


def test_the_head_is_what_the_hub_reads_and_states_no_licence(model):
    card = model_card(model)
    head = head_of(card)
    assert head["library_name"] == "fourm" and head["pipeline_tag"] == "any-to-any"
    assert "license" not in head and "# license:" in card
    assert "Not stated" in card and "More Information Needed" not in card
    assert ModelCard(card).data.to_dict()["tags"] == head["tags"]


def test_the_card_tells_what_is_known(modalities):
    model = make_model(modalities)
    assert "not recorded" in model_card(model) and "Held-out loss" not in model_card(model)
    model.provenance = KNOWN
    card = model_card(model)
    num = sum(p.numel() for p in model.parameters())
    for told in (
        f"{num:,} parameters",
        "5,000 samples, 400 held out",
        "1,200 steps of 32 samples",
        f"at most {1200 * 32 * 90:,} predicted tokens",
        f"| rgb | 3.250 | {math.log(60):.3f} |",
        "| all | 2.500 | - |",
        "| rgb psnr | 25.12 |",
        f"fourm {fourm.__version__}",
    ):
        assert told in card, told
    for m in modalities:
        assert f"| {m.name} | {m.kind} |" in card


def test_what_is_known_goes_with_a_model_wherever_it_is_saved(modalities, tmp_path):
    model = make_model(modalities)
    model.provenance = KNOWN
    model.save_pretrained(tmp_path / "one")
    again = FourM.from_pretrained(tmp_path / "one")
    assert again.provenance == KNOWN
    again.save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / "README.md").read_text() == model_card(model)


def test_the_snippet_of_a_pipeline_runs(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert str(tmp_path) not in card and str(demo_model_folder()) not in card
    assert "## Tokenizers" in card and "| text | text |" in card
    exec(code_of(card, tmp_path), {})
    assert capsys.readouterr().out.strip()


def test_the_snippet_of_a_model_alone_runs(modalities, tmp_path):
    make_model(modalities).save_pretrained(tmp_path)
    found: dict = {}
    exec(code_of((tmp_path / "README.md").read_text(), tmp_path), found)
    assert isinstance(found["model"], FourM)


@pytest.mark.parametrize("kept", ["rgb", "depth"])
def test_a_snippet_needs_no_text(kept):
    """Pictures are given where there is no text; nothing, where there is neither."""
    grid = {"kind": "grid", "vocab_size": 8, "grid": [2, 2]}
    raws = {"rgb": {"type": "image", "size": 8}, "depth": {"type": "depth", "size": 8}}
    names = {"rgb": ("rgb", "depth"), "depth": ("depth",)}[kept]
    given = {name: {**grid, "raw": raws[name]} for name in names}
    card = model_card(
        make_model(ModalitySet.from_mapping({"modalities": given})), tokenizers=Path("x")
    )
    wanted = 'Image.new("RGB", (8, 8))' if kept == "rgb" else "pipe({},"
    assert wanted in card
    compile(code_of(card, Path("x")), "card", "exec")


def test_a_card_that_a_person_has_finished_is_left_alone(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    path = tmp_path / "README.md"
    first = path.read_text()
    path.write_text("stale\n" + first)
    pipe.save_pretrained(tmp_path)
    assert path.read_text() == first
    mine = "\n".join(line for line in first.splitlines() if not line.startswith("<!--"))
    path.write_text(mine)
    pipe.save_pretrained(tmp_path)
    pipe.model.save_pretrained(tmp_path)
    assert path.read_text() == mine


@pytest.mark.parametrize("what", ["pipeline", "model"])
def test_what_is_pushed_names_its_repository(pipe, what, monkeypatch):
    class Repository:
        repo_id = "someone/something"

    pushed = {}

    def upload(self, *, folder_path, **options) -> str:
        pushed.update({p.name: p.read_bytes() for p in Path(folder_path).glob("*") if p.is_file()})
        return "address"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, **options: Repository())
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    pushing = pipe if what == "pipeline" else pipe.model
    assert pushing.push_to_hub("someone/something") == "address"
    card = pushed["README.md"].decode()
    assert 'from_pretrained("someone/something")' in card and HERE not in card
    assert ("AnyToAnyPipeline" in card) == (what == "pipeline")


def test_a_run_is_told_as_far_as_it_went(tmp_path):
    masking = {"num_inputs": [1, 96], "components": [{"num_inputs": [2, 130]}, {}]}
    config = {"loop": {"batch_size": 8}, "masking": {**masking, "num_targets": [4, 40]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    known = Provenance.of_run(tmp_path, 20)
    assert known == Provenance(steps=20, batch_size=8, max_inputs=130, max_targets=40)
    done = {"step": 40, "num_samples": 9, "num_held_out": 2, "loss": 1.0, "loss/rgb": 2.0}
    (tmp_path / "done.json").write_text(json.dumps(done))
    assert Provenance.of_run(tmp_path, 20).held_out == {}
    ended = Provenance.of_run(tmp_path, 40)
    assert ended.held_out == {"loss": 1.0, "loss/rgb": 2.0} and ended.num_samples == 9


def test_what_was_learned_from_what_follows_from_the_masking_mixture(tmp_path, modalities):
    masking = {
        "components": [
            {"input": {"pixels": 9.0, "caption": 0.0}, "target": {"depth": 1.0}},
            {"input": {"depth": 1.0}, "target": {"caption": 1.0}, "weight": 0.0},
            {"input": {"caption": 1.0}, "target_default": 0.5, "target": {"depth": 0.0}},
        ]
    }
    config = {"data": {"sources": [{"masking": masking}]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    known = Provenance.of_run(tmp_path, 20, modalities)
    assert known.trained == {
        "rgb": ["caption"],
        "depth": ["pixels"],
        "code": ["caption"],
        "caption": ["caption"],
        "boxes": ["caption"],
    }
    known.write(tmp_path)
    assert Provenance.read(tmp_path) == known
    # what other weights were trained on is not known
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "init": "elsewhere"}))
    assert Provenance.of_run(tmp_path, 20, modalities).trained == {}


def test_a_pair_that_was_never_trained_is_warned_about(pipe, recwarn):
    caption = {"caption": "a red cube"}
    own = AnyToAnyPipeline(pipe.model, pipe.tokenizers_folder, pipe.options)
    before = pipe.model.provenance
    try:
        pipe.model.provenance = None
        own(caption, "depth", steps=1, sweeps=0)
        assert not recwarn.list  # a folder without the record says nothing
        trained = {"depth": ["pixels", "caption"], "semseg": ["pixels"]}
        pipe.model.provenance = Provenance(trained=trained)
        own(caption, "depth", steps=1, sweeps=0)
        assert not recwarn.list
        with pytest.warns(UserWarning, match="semseg was never learned from caption, depth: what"):
            own(caption, ["depth", "semseg"], steps=1, sweeps=0)
    finally:
        pipe.model.provenance = before


def test_figures_of_a_project_are_told_by_name():
    metrics = {"rgb": {"psnr": {"value": 20.5}, "num": 3}, "seconds": {"import": 1.0}}
    assert flat_figures(metrics) == {"rgb psnr": 20.5, "rgb num": 3.0}
