"""Any-to-any generation in a few lines, in the style of diffusers.

    pipe = AnyToAnyPipeline.from_pretrained("folder-or-hub-id")
    given = {"caption": "a red cube left of a blue sphere"}
    out = pipe(given, targets=["depth", "rgb"], guidance_scale=3.0, seed=0)
    out["rgb"].images[0].save("scene.png")

Inputs and outputs are raw forms: PIL pictures or arrays, strings, lists of boxes. Targets are
generated in their order, each one given all that came before it. A pipeline folder is a model
folder with ``tokenizers/`` beside the weights and, if the model has preferred settings,
``generation.yaml``.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file, save_file

import fourm
from fourm import automatic
from fourm.codecs import CodecSet, SoftCodec
from fourm.config import read_yaml, to_mapping
from fourm.errors import UserError, nearest
from fourm.feature_rows import FeatureRows, feature_rows
from fourm.given import Partial as Partial
from fourm.given import Tokens as Tokens
from fourm.given import pasted, seeds_of
from fourm.hub import find_model
from fourm.inputs import InputEncoder, Inputs
from fourm.modalities import Modality, ModalitySet
from fourm.model import FourM, load_model
from fourm.model_card import HERE, model_card, write_card
from fourm.resources import configs_folder
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.state import SampleState
from fourm.sampling.task import Progress
from fourm.scoring import Method, Scorer

GENERATION_FILE, TOKENIZERS_FOLDER = "generation.yaml", "tokenizers"


@dataclass(frozen=True)
class Generated:
    """One modality of the output."""

    modality: Modality
    values: list[Any]  # raw values, one a sample
    ids: list[np.ndarray]
    # how unsure the network was, in nats a token: maps (rows, columns), of sets (n,); 0 = given.
    # Nothing of sequences.
    entropy: list[np.ndarray]

    @property
    def images(self) -> list[Image.Image]:
        """The values as pictures (depth, normals and classes in colour, boxes drawn)."""
        return [self.modality.raw.picture(value) for value in self.values]

    @property
    def texts(self) -> list[str]:
        """The values as text."""
        return [str(value) for value in self.values]


class AnyToAnyPipeline:
    """A model, its codecs and its preferred sampling settings."""

    def __init__(
        self,
        model: FourM,
        tokenizers: str | Path,
        options: dict[str, SamplingOptions] | None = None,
    ) -> None:
        self.model = model.eval()
        self.modalities = model.modalities
        self.codecs = CodecSet(model.modalities, tokenizers)
        self.options = options or {}
        self.tokenizers_folder = Path(tokenizers)
        self.num_sentinels = {
            m.name: int(
                self.modalities.tokenizers.get(m.tokenizer or "", {}).get("num_sentinels", 200)
            )
            for m in self.modalities
        }
        self.sampler = Sampler(model, self.num_sentinels)
        self._encoder = InputEncoder(self.modalities, self.codecs, self.num_sentinels)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        tokenizers: str | Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = torch.float32,
    ) -> AnyToAnyPipeline:
        """Open a pipeline folder or hub repository, ours or a released one
        (``EPFL-VILAB/4M-21_B``).

        Args:
            tokenizers: folder with one sub-folder for each tokenizer. Those that are not there and
                have a hub repository in the
                modality set are fetched when their modality is first used.
            dtype: of the weights in memory; None = as stored.

        Raises:
            UserError: says which file is missing or damaged.
        """
        folder = find_model(name)
        inner = folder / "model"
        if not (folder / "config.json").is_file() and (inner / "config.json").is_file():
            raise UserError(f"{folder} is a project, not a model: its model is {inner}")
        model = load_model(folder, dtype).to(device)
        options_path = folder / GENERATION_FILE
        if not options_path.is_file():
            options_path = (
                configs_folder() / "generate" / "4m.yaml" if is_released(model.modalities) else None
            )
        options = read_options(options_path) if options_path is not None else {}
        # those of the released family's settings that this one lacks are for its other models
        if not is_released(model.modalities):
            check_options(options, model.modalities, f"{options_path}")
        return cls(model, tokenizers or folder / TOKENIZERS_FOLDER, options)

    def save_pretrained(self, folder: str | Path, half: bool = False, name: str = HERE) -> None:
        """Write model, tokenizers, settings and a card as one folder that ``from_pretrained``
        opens.

        ``half`` stores weights in 16 bits (they are read back into 32): half the size, results
        equal to rounding. ``name`` of the repository that it is for is told in the card.
        """
        folder = Path(folder)
        self.model.save_pretrained(folder)
        for tokenizer in self.modalities.tokenizers:
            target = folder / TOKENIZERS_FOLDER / tokenizer
            target.mkdir(parents=True, exist_ok=True)
            for path in (self.tokenizers_folder / tokenizer).glob("*"):
                copy = target / path.name
                if path.is_file() and not (copy.exists() and copy.samefile(path)):
                    shutil.copy(path, copy)
        (folder / GENERATION_FILE).write_text(
            yaml.safe_dump({k: to_mapping(v) for k, v in self.options.items()})
        )
        for path in folder.rglob("*.safetensors") if half else ():
            save_file(
                {k: t.half() if t.is_floating_point() else t for k, t in load_file(path).items()},
                path,
            )
        write_card(folder, model_card(self.model, name, folder / TOKENIZERS_FOLDER))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        half: bool = False,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Upload what ``save_pretrained`` writes to a hub repository, which is made if it is not
        there. Returns the address of the commit.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, half, repo_id)
            message = f"Model, tokenizers and settings, written by fourm {fourm.__version__}"
            return api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=message, repo_type="model"
            )

    def __call__(
        self,
        inputs: Mapping[str, Any],
        targets: Sequence[str] | str,
        *,
        seed: int | Sequence[int] = 0,
        num_samples: int = 1,
        chain: bool = True,
        paste: bool = True,
        options: dict[str, SamplingOptions] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        **settings: Any,
    ) -> dict[str, Generated]:
        """Generate ``targets`` one after another from ``inputs``.

        Args:
            inputs: name -> raw value, file, ``Partial``, ``Tokens``, or a list of them (one a
                sample; what is no list is given to all).
            targets: names, in the order of generation; each is given all before it. Or one name.
            seed: of the first sample; sample i uses seed + i. Or one seed for each sample.
            num_samples: in all; of lists of inputs as many of each.
            chain: False = each target is given the inputs alone, none that came before it.
            paste: pixels that a ``Partial`` gives stay as they are; False = as its tokens decode.
            options: settings of some targets; ``settings`` (e.g. ``guidance_scale=3.0, steps=8``)
                change those of all targets.
            progress: called with (target, steps done, steps).

        Raises:
            UserError: for an unknown name, a raw value that is not what its modality holds, or
                lists of different lengths.
        """
        targets = self._checked(targets, options)
        values = Inputs.of(inputs, num_samples, self.modalities)
        given = state = self._encoder.state(values)
        seeds = seeds_of(seed, state.num_samples)
        conditions, found = state.present, {}
        for i, name in enumerate(targets):
            start = self._encoder.with_whole(state, values, name)
            num_whole = self._encoder.num_whole(start, name)
            if num_whole:
                warnings.warn(
                    f"{name} is a target and given whole: it stays as it is given. Leave it out of"
                    " the inputs to generate it, or give a part of it",
                    stacklevel=2,
                )
            if num_whole == state.num_samples:
                found[name] = start
                continue
            chosen = (options or {}).get(name) or self._preferred(conditions, name)
            if not isinstance(chosen, SamplingOptions | None):
                raise UserError(f"options of {name} must be SamplingOptions, not {chosen!r}")
            report = (
                None if progress is None else (lambda done, of, name=name: progress(name, done, of))
            )
            own = self._weighted_as_given(settings, conditions, targets[i:])
            if chosen is not None:
                weights = {"condition_weights": chosen.condition_weights}
                chosen = replace(
                    chosen, **self._weighted_as_given(weights, conditions, targets[i:])
                )
            state = self._generate(start, name, seeds, conditions, report, chosen, own)
            found[name] = state
            if chain:
                conditions = [*conditions, name]
            else:
                state = given
        return {
            name: self._pasted(self.decode(state, name), values if paste else None)
            for name, state in found.items()
        }

    def _checked(self, targets: Any, options: Any) -> Sequence[str]:
        """Targets of a call, whose options are theirs. Raises UserError."""
        targets = [targets] if isinstance(targets, str) else targets
        if not isinstance(targets, Sequence):
            raise UserError(
                f"targets are names in an order, e.g. ['depth', 'rgb'], not {targets!r}"
            )
        if not isinstance(options or {}, Mapping):
            raise UserError(f"options map targets to SamplingOptions, they are not {options!r}")
        if not targets:
            raise UserError("no targets: name at least one modality to generate")
        for name in (*targets, *(options or {})):
            if not self.modalities[name].output:
                raise UserError(
                    f"{name} cannot be generated; outputs are"
                    f" {', '.join(m.name for m in self.modalities.outputs)}"
                )
        for name in options or {}:
            if name not in targets:
                raise UserError(
                    f"options name {name}, which is no target of this call; targets are"
                    f" {', '.join(targets)}"
                )
        if len(set(targets)) < len(targets):
            raise UserError(f"a target is named twice: {', '.join(targets)}")
        return targets

    def _weighted_as_given(
        self, settings: dict[str, Any], conditions: list[str], targets: Sequence[str]
    ) -> dict[str, Any]:
        """Settings whose weights name what the model sees: an input by the name under which it is
        read (rgb as pixels), none of the ``targets`` that are yet to come.
        """
        weights = settings.get("condition_weights")
        if not isinstance(weights, Mapping):
            return settings
        seen = {}
        for name, weight in weights.items():
            raw_name = self.modalities[name].raw_name
            alike = [c for c in conditions if self.modalities[c].raw_name == raw_name]
            if name in conditions or alike or name not in targets:
                seen[name if name in conditions or not alike else alike[0]] = weight
        return {**settings, "condition_weights": seen}

    def _pasted(self, result: Generated, inputs: Inputs | None) -> Generated:
        """With given pixels where they were given."""
        m = result.modality
        given = inputs.values.get(m.name) if inputs is not None else None
        if given is None:
            return result
        pairs = zip(given, result.values, strict=True)
        return replace(
            result, values=[pasted(g, m, v) if isinstance(g, Partial) else v for g, v in pairs]
        )

    def _generate(
        self,
        state: SampleState,
        name: str,
        seeds: np.ndarray,
        conditions: list[str],
        report: Progress | None,
        chosen: SamplingOptions | None,
        settings: dict[str, Any],
    ) -> SampleState:
        """One target more. Where neither the model nor the call says how, a first pass tells."""
        is_sequence = self.modalities[name].kind == "sequence"
        if chosen is None and not settings and not is_sequence:
            mean = isinstance(self.codecs[name], SoftCodec)
            return automatic.generate(self.sampler, state, name, seeds, conditions, report, mean)
        chosen = (chosen or SamplingOptions()).changed(settings)
        if chosen.decode == "mean" and not is_sequence:
            self._soft_codec(name)  # refused before anything is generated
        return self.sampler.generate(state, name, chosen, seeds, conditions, report)

    def _preferred(self, conditions: list[str], target: str) -> SamplingOptions | None:
        """The model's settings of a target given one of the inputs (``caption->rgb``), else of the
        target alone (``rgb``), if it has any.
        """
        for condition in conditions:
            raw_name = self.modalities[condition].raw_name
            for name in (condition, raw_name):
                if f"{name}->{target}" in self.options:
                    return self.options[f"{name}->{target}"]
        return self.options.get(target)

    def encode(self, inputs: Mapping[str, Any], num_samples: int = 1) -> SampleState:
        """Raw inputs as the sampler's state."""
        return self._encoder.state(Inputs.of(inputs, num_samples, self.modalities))

    def features(self, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Encoder output for each sample (n_i, D) on the CPU, to probe or to align with; its mean
        over rows is a good vector.

        A row for each input token, in the order of the modality set; with a latent encoder N
        latents instead.
        """
        return self.encode_features(inputs, pool="none").split()

    def encode_features(
        self, inputs: Mapping[str, Any], layers: Sequence[int] = (-1,), pool: str = "mean"
    ) -> FeatureRows:
        """Encoder output of samples that have any of the modalities, with where each row comes
        from; ``maps`` of it are feature maps of a dense modality.

        Args:
            inputs: as those of generation; lists are batches.
            layers: numbers of encoder layers; the rows of several lie side by side.
            pool: ``mean`` of a sample's tokens, of each ``modality``'s, or ``none``: all tokens.
        """
        return feature_rows(self.model, self.encode(inputs), layers, pool)

    def score(
        self,
        inputs: Mapping[str, Any],
        values: Mapping[str, Any],
        *,
        parts: int = 1,
        method: Method = "chain",
    ) -> dict[str, np.ndarray]:
        """Log-likelihood of ``values`` given ``inputs``: name -> nats (B,), of whole values.

        Each target is given the inputs and all targets before it. What is no list stands for all
        samples, so one input and a list of captions tells which of them fits best.

        Args:
            values: name of a target -> raw value, ``Tokens``, or a list of them.
            parts: of grids and sets; with as many parts as tokens each token is asked alone.
                Sequences are exact.
            method: how parts are asked (``fourm/scoring.py``).
        """
        scorer = Scorer(self.model, parts, method)
        if not isinstance(values, Mapping) or not values:
            raise UserError("values are a mapping of targets to what is to be scored")
        self._checked(list(values), None)
        if set(values) & set(inputs):
            raise UserError(f"{', '.join(set(values) & set(inputs))}: given and to be scored")
        every = Inputs.of({**inputs, **values}, 1, self.modalities)
        seen, found = [name for name in every.values if name not in values], {}
        for name in values:
            given = Inputs(every.num_samples, {key: every.values[key] for key in seen})
            m = self.modalities[name]
            try:
                ids, keep = self._encoder.ids(m, every.values[name])
            except ValueError as error:
                raise UserError(f"value of {name}: {error}") from None
            if not np.concatenate(keep).all() or self._encoder.num_gapped(name, ids):
                raise UserError(f"value of {name}: whole values are scored, this has parts")
            found[name] = scorer.score(self._encoder.state(given), m, ids)
            seen.append(name)
        return found

    def decode(self, state: SampleState, name: str) -> Generated:
        """One modality of a state in raw form."""
        m = self.modalities[name]
        if name not in state.grids:
            ids = state.sequences[name]
            return Generated(m, self.codecs[name].decode(ids), ids, [])
        grid = state.grids[name]
        ids, entropy = list(grid.values), np.zeros(grid.known.shape)
        if grid.entropy is not None:
            entropy = grid.entropy
        maps = list(entropy.reshape(-1, *(m.grid or (m.num_tokens,))))
        if grid.probability is not None:
            return Generated(
                m, self._soft_codec(name).decode_mean(list(grid.probability)), ids, maps
            )
        return Generated(m, self.codecs[name].decode(ids), ids, maps)

    def _soft_codec(self, name: str) -> SoftCodec:
        codec = self.codecs[name]
        if not isinstance(codec, SoftCodec):
            raise UserError(
                f"decode: mean needs a codec that decodes mixtures of codes; that of {name} does"
                " not: use decode: ids"
            )
        return codec


def read_options(path: Path) -> dict[str, SamplingOptions]:
    """Sampling settings by target, or by ``condition->target``."""
    return {
        name: SamplingOptions.read(entry, f"{path}: {name}")
        for name, entry in read_yaml(path).items()
    }


def check_options(options: dict[str, Any], modalities: ModalitySet, where: str) -> None:
    """Raise UserError where a key is neither an output nor ``condition->output``."""
    outputs = [m.name for m in modalities.outputs]
    conditions = {name for m in modalities for name in (m.name, m.raw_name)}
    for key in options:
        condition, arrow, target = key.rpartition("->")
        if target not in outputs:
            raise UserError(
                f"{where}: {target!r} is no output of this model; it has"
                f" {', '.join(outputs)}{nearest(target, outputs)}"
            )
        if arrow and condition not in conditions:
            raise UserError(
                f"{where}: {condition!r} in {key!r} is no modality of this model"
                f"{nearest(condition, conditions)}"
            )


def is_released(modalities: ModalitySet) -> bool:
    """True if the set's tokenizers are those of the released 4M family."""
    return any(settings.get("type") == "released" for settings in modalities.tokenizers.values())
