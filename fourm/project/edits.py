"""What of a project an edit of its YAML files concerns.

Every stage's result is compared with what the files say now: raw and token shards by what was noted
when they were made (``made.json``), tokenizers by the record in their folders, the model by its
newest checkpoint. The stages do as little as they must by themselves; here it is decided whether
they have anything to do, it is told in one table, and a model that cannot be gone on with gets a
new run folder beside the old one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fourm.codecs import CodecSet
from fourm.config import from_mapping, load, read_yaml, to_mapping
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.files.formats import FORMAT, check_format
from fourm.files.model_files import read_description
from fourm.modalities import Modality, ModalitySet
from fourm.pipeline.preferred import check_options
from fourm.project.changes import changes, data_of, files_of
from fourm.project.project import Project
from fourm.records.tokenizer_settings import declared, note_if_lacking, state_of
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.differences import (
    by_vocabulary,
    changed_fields,
    differences,
    other_sizes,
    other_vocabularies,
    read_vocabularies,
)
from fourm.training.pretrain import PretrainConfig

State = Literal["new", "changed", "unchanged", "gone", "-"]
STAGES = ("raw", "tokenizer", "tokens", "model")
_MADE_FILE = "made.json"


@dataclass(frozen=True)
class NextRun:
    """Where pretraining goes on, or begins."""

    out: Path
    init: Path | None = None  # checkpoint whose weights it begins with
    why: str = ""  # what is other than in the run before
    steps: int = 0  # that are asked for now; 0 = as many as it was begun with

    def overrides(self, config: PretrainConfig) -> tuple[str, ...]:
        """What the project's own config does not say."""
        out = () if Path(config.out) == self.out else (f"out={self.out}",)
        return out if self.init is None else (*out, f"init={self.init}")

    @property
    def is_finished(self) -> bool:
        """True if it has trained to its end, and that is as far as is asked for."""
        done = self.out / "done.json"
        if not done.is_file():
            return False
        return json.loads(done.read_text()).get("step", self.steps) >= self.steps


class Edits:
    """A project's results beside its YAML files as they are now.

    Raises UserError where these do not fit each other: the pretraining or the sampling settings
    name a modality that the set has not, or another project's folders.

    Args:
        asked: ``KEY=VALUE`` changes of ``pretrain.yaml`` for a run now.
    """

    def __init__(self, project: Project, asked: Sequence[str] = ()) -> None:
        self.project = project
        self.modalities = ModalitySet.load(project.modalities)
        self.config = load(PretrainConfig, project.pretrain_config)
        self.asked = load(PretrainConfig, project.pretrain_config, [*asked])
        self._check()
        self._made = _read_made(project.root / _MADE_FILE)
        self._newest = newest_checkpoint(project.pretrain / "checkpoints")
        self._described = (read_description(self._newest) if self._newest else None) or {}
        self._trained = _set_of(self._described, str(self._newest)) if self._described else None
        self.states = self._states()

    def _check(self) -> None:
        """Hold both files to the modality set, so that one run names all that is left over."""
        named = self.config.modalities
        if Path(named).resolve() != self.project.modalities.resolve():
            raise UserError(
                f"{self.project.pretrain_config} trains on {named}, which is not"
                f" {self.project.modalities}: its paths are relative to where fourm is called; call"
                " it from there, or correct them"
            )
        faults = []
        try:
            for masking in self.config.maskings:
                masking.check(self.modalities)
        except UserError as error:
            faults.append(f"{self.project.pretrain_config}: masking: {error}")
        settings = self.project.root / "generation.yaml"
        if settings.is_file():
            try:
                check_options(read_yaml(settings), self.modalities, str(settings))
            except UserError as error:
                faults.append(str(error))
        if faults:
            raise UserError("; and ".join(faults))

    # ---- what is told ----------------------------------------------------------------------------

    def _states(self) -> dict[str, dict[str, State]]:
        """State of each modality at each stage: modality -> stage -> state."""
        states = {m.name: self._of(m) for m in self.modalities}
        known = [*self._noted("raw"), *self._noted("tokens")]
        known += [m.name for m in self._trained or ()]
        for name in dict.fromkeys(known):
            if name not in states:
                states[name] = dict.fromkeys(STAGES, "gone")
        return states

    def _of(self, m: Modality) -> dict[str, State]:
        raw: State = "-"
        tokenizer: State = "-"
        tokens: State = "-"
        if not m.source:
            raw = self._state_of_shards("raw", m.name, _raw_description(m))
            if raw == "unchanged" and "raw" in self._other_files(m):
                raw = "changed"
        if m.tokenizer is not None:
            found = state_of(self.project.tokenizers / m.tokenizer, m.tokenizer, self.modalities)
            tokenizer = "new" if found == "unfinished" else found
            tokens = self._state_of_shards("tokens", m.name, self._description(m))
        if tokens == "unchanged" and ("changed" in (raw, tokenizer) or self._other_files(m)):
            tokens = "changed"
        model: State = "new"
        if self._trained is not None and m.name in self._trained:
            other = changed_fields(self._trained[m.name], m) or self._other_use(m)
            other = other or {"new", "changed"} & {raw, tokenizer, tokens}
            other = other or self._noted("model").get(m.name, now := self._description(m)) != now
            model = "changed" if other else "unchanged"
        return {"raw": raw, "tokenizer": tokenizer, "tokens": tokens, "model": model}

    def _other_files(self, m: Modality) -> list[str]:
        """Which files are others than its tokens were made from, as far as that was noted."""
        now = files_of(self.project, m)
        was = self._noted("files").get(m.name, now)
        return [kind for kind in now if was.get(kind) != now[kind]]

    def _other_use(self, m: Modality) -> str:
        """What has changed of how the model learns it, which is nothing of its tokens."""
        return changes(self._noted("use").get(m.name, now := _use(m)), now)

    def why(self, name: str) -> str:
        """What has changed of a modality since it was made, where it is known."""
        if name not in self.modalities:
            return "no longer in the set"
        m = self.modalities[name]
        was, now = self._noted("tokens").get(name), self._description(m)
        told = changes(_named(was), _named(now)) if was else ""
        files = [f"other {kind} files" for kind in self._other_files(m)]
        told_use = [use] if (use := self._other_use(m)) else []
        return "; ".join([*([told] if told else files), *told_use])

    def _state_of_shards(self, stage: Literal["raw", "tokens"], name: str, now: Any) -> State:
        """Projects of earlier releases have no notes: what is there counts as unchanged."""
        folder = self.project.raw if stage == "raw" else self.project.tokens
        noted = self._noted(stage).get(name)
        if noted is None:
            found = [*folder.glob(f"*/{name}/*.tar"), *folder.glob(f"*/{name}/*.chunk")]
            return "unchanged" if found else "new"
        return "unchanged" if noted == now else "changed"

    def table(self) -> str:
        """A line for each modality; empty if nothing has changed, or nothing is made yet."""
        found = {state for of in self.states.values() for state in of.values()} - {"-"}
        if found in ({"unchanged"}, {"new"}):
            return ""
        rows: list[tuple[str, ...]] = [("", *STAGES, "why")]
        for name, of in self.states.items():
            moved = set(of.values()) - {"unchanged", "-"}
            rows.append((name, *of.values(), self.why(name) if moved else ""))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    # ---- what is to do ---------------------------------------------------------------------------

    def is_made(self, stage: Literal["raw", "tokens"]) -> bool:
        """True if a stage has ended and its shards are what the files say."""
        folder = self.project.raw if stage == "raw" else self.project.tokens
        states = {of[stage] for of in self.states.values()}
        return (folder / "done.json").is_file() and not states & {"new", "changed"}

    def note(self, stage: Literal["raw", "tokens", "model"]) -> None:
        """Note that a stage has ended with the files as they were read."""
        if stage == "raw":
            now = {m.name: _raw_description(m) for m in self.modalities if not m.source}
        else:
            now = {m.name: self._description(m) for m in self.modalities}
        self._made = {**self._made, "format": FORMAT, stage: now}
        if stage == "tokens":
            self._made["files"] = {m.name: files_of(self.project, m) for m in self.modalities}
            for name in self.modalities.tokenizers:
                note_if_lacking(self.project.tokenizers / name, name, self.modalities)
        if stage == "model":
            self._made["pretrain"] = _comparable(self.config)
            self._made["steps"] = self.config.loop.steps
            self._made["data"] = self._data()
            self._made["use"] = {m.name: _use(m) for m in self.modalities}
        write_json_atomic(self.project.root / _MADE_FILE, self._made)

    def next_run(self) -> NextRun:
        """The run to go on with, or a new one beside it; to be asked when the tokenizers are
        trained.

        A new one begins with the old one's weights where it is the modalities that have changed,
        and from nothing where ``pretrain.yaml`` has.
        """
        out = self.project.pretrain
        if self._newest is None or self._trained is None:
            return NextRun(out, _began_with(out))
        noted = self._noted("model")
        found = differences(self._trained, self.modalities)
        known = by_vocabulary(self.modalities, self._fingerprints())
        found += [
            f"the tokenizer of {name} is another"
            for name in sorted(
                other_vocabularies(
                    self._trained, self.modalities, read_vocabularies(self._newest), known
                )
            )
        ]
        found += [
            f"the data of {m.name} is made otherwise"
            for m in self.modalities
            if m.name in noted and noted[m.name][0] != _raw_description(self._raw(m))
        ]
        found += [f"{m.name} has {use}" for m in self.modalities if (use := self._other_use(m))]
        if not found:
            was = self._noted("data")
            found = [
                f"there is other data of {name}"
                for name, now in self._data().items()
                if was.get(name, now) != now
            ]
        sizes = other_sizes(self._described["model"], to_mapping(self.asked.model))
        if found or sizes:
            init = None if sizes else self._newest
            return NextRun(self.project.new_run(), init, "; ".join([*found, *sizes]))
        config = self._made.get("pretrain")
        if config is not None and _read_again(config) != _comparable(self.config):
            why = f"{self.project.pretrain_config.name} has changed"
            return NextRun(self.project.new_run(), None, why)
        if self.asked != self.config and (why := self._otherwise(out)):
            return NextRun(self.project.new_run(), None, why)
        return NextRun(out, steps=self._steps())

    def _otherwise(self, run: Path) -> str:
        """What is asked for now and is not how a run was trained; its length is no matter."""
        try:
            was = load(PretrainConfig, run / "config.yaml")
        except UserError:  # of an earlier release
            return ""
        return changes(_comparable(was), _comparable(self.asked))

    def _steps(self) -> int:
        """Steps that are asked for now and were not when the newest run began; 0 = none."""
        was, now = self._made.get("steps"), self.config.loop.steps
        if self.asked.loop.steps != now:
            return self.asked.loop.steps
        return now if was not in (None, now) else 0

    def _data(self) -> dict[str, str]:
        return {m.name: data_of(self.project, m, self.config.data.split) for m in self.modalities}

    def _fingerprints(self) -> dict[str, str]:
        codecs = CodecSet(self.modalities, self.project.tokenizers)
        return {m.name: codecs[m.name].fingerprint for m in self.modalities if m.tokenizer}

    def _noted(self, stage: str) -> Mapping[str, Any]:
        return self._made.get(stage, {})

    def _description(self, m: Modality) -> Any:
        """What the tokens of a modality (or its vectors) depend on, but for how they are used."""
        alone = replace(
            m, raw=m.raw.data_form, input=True, output=True, loss_weight=1.0, chunk_size=1
        )
        tokenizer = declared(m.tokenizer, self.modalities) if m.tokenizer is not None else None
        described = to_mapping(alone)
        del described["places"]  # the model's alone, and told as its difference
        return _plain([_raw_description(self._raw(m)), described, tokenizer])

    def _raw(self, m: Modality) -> Modality:
        """The modality whose raw data a modality is made from."""
        return next((other for other in self.modalities if other.name == m.raw_name), m)


def _raw_description(m: Modality) -> Any:
    return _plain([to_mapping(m.raw.data_form), m.labeller, m.labeller_size])


def _use(m: Modality) -> dict[str, Any]:
    return {"loss_weight": m.loss_weight, "chunk_size": m.chunk_size}


def _named(description: Any) -> dict[str, Any]:
    """What is noted of tokens, with names to tell changes by."""
    (raw, labeller, size), described, tokenizer = description
    tokenizer = (tokenizer or {}).get("settings")
    return {
        "raw": raw,
        "labeller": labeller,
        "labeller_size": size,
        **{key: value for key, value in described.items() if key != "raw"},
        "tokenizer": tokenizer or described.get("tokenizer"),
    }


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def _read_made(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        made = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is not valid JSON: delete it") from None
    check_format(made, path)
    return made


def _set_of(described: Mapping[str, Any], where: str) -> ModalitySet:
    """The modality set in a model's description."""
    declared_then = {k: described[k] for k in ("tokenizers", "modalities") if k in described}
    return ModalitySet.from_mapping(declared_then, where)


def _began_with(out: Path) -> Path | None:
    """What a run that has no checkpoint yet was to begin with."""
    path = out / "config.yaml"
    init = read_yaml(path).get("init") if path.is_file() else None
    return Path(init) if init else None


def _read_again(noted: Any) -> Any:
    """A noted config with the defaults of what it does not know yet; None if it cannot be read."""
    try:
        return _comparable(from_mapping(PretrainConfig, noted, _MADE_FILE))
    except UserError:
        return None


def _comparable(config: PretrainConfig) -> Any:
    """A config without what projects give on the command line."""
    return _plain(to_mapping(replace(config, out="", init="", loop=replace(config.loop, steps=1))))
