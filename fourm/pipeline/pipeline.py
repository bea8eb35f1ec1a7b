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
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch
import yaml
from huggingface_hub import HfApi
from safetensors.torch import load_file

import fourm
from fourm.codecs import CodecSet
from fourm.config import to_mapping
from fourm.errors import UserError
from fourm.files.tensor_file import save_tensors
from fourm.model.model import FourM, load_model
from fourm.pipeline.call import Call, Engine, as_called_here, checked_targets
from fourm.pipeline.feature_rows import FeatureRows, feature_rows
from fourm.pipeline.generated import Decoder, Generated, GenerationStep, Stream
from fourm.pipeline.given import Partial as Partial
from fourm.pipeline.given import Tokens as Tokens
from fourm.pipeline.given import at_least_one, seeds_of
from fourm.pipeline.inputs import InputEncoder, Inputs
from fourm.pipeline.mixing import between, varied
from fourm.pipeline.output_types import output_type as form_of
from fourm.pipeline.preferred import GENERATION_FILE, options_of
from fourm.pipeline.scoring import Method, Scorer
from fourm.pipeline.tiled import GeneratedMap, TiledCall, negative_of_windows, split_inputs
from fourm.places import device_of, dtype_of, is_dtype
from fourm.records.hub import find_model
from fourm.records.model_card import HERE, model_card, write_card
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.state import SampleState

TOKENIZERS_FOLDER = "tokenizers"


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
        self.sampler = Sampler(model, self.num_sentinels, self.codecs.form_of)
        self._runs_on: torch.device | None = None  # where it is during a call, if not where it is
        self._engine = Engine(
            self.sampler,
            InputEncoder(self.modalities, self.codecs, self.num_sentinels),
            Decoder(self.modalities, self.codecs),
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        tokenizers: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = torch.float32,
    ) -> AnyToAnyPipeline:
        """Open a pipeline folder or hub repository, ours or a released one
        (``EPFL-VILAB/4M-21_B``).

        Args:
            tokenizers: folder with one sub-folder for each tokenizer. Those that are not there and
                have a hub repository in the
                modality set are fetched when their modality is first used.
            dtype: of the model's weights in memory, also by name (``"bfloat16"``); None = as
                stored.

        Raises:
            UserError: says which file is missing or damaged.
        """
        folder = find_model(name)
        inner = folder / "model"
        if not (folder / "config.json").is_file() and (inner / "config.json").is_file():
            raise UserError(f"{folder} is a project, not a model: its model is {inner}")
        model = load_model(folder, None if dtype is None else dtype_of(dtype))
        options = options_of(folder, model.modalities)
        return cls(model, tokenizers or folder / TOKENIZERS_FOLDER, options).to(device)

    @property
    def components(self) -> dict[str, Any]:
        """What another pipeline can be made of: ``AnyToAnyPipeline(**pipe.components)``."""
        return {
            "model": self.model,
            "tokenizers": self.tokenizers_folder,
            "options": self.options,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return next(self.model.parameters()).dtype

    def to(self, *places: torch.device | torch.dtype | str) -> Self:
        """Move the model to a device, a dtype (also by name), or both. Codecs stay on the CPU in
        float32. Raises UserError for what this machine does not have.
        """
        for place in places:
            self.model.to(dtype_of(place) if is_dtype(place) else device_of(place))
        return self

    def enable_model_cpu_offload(self, device: torch.device | str = "cuda") -> None:
        """Have the model on ``device`` only while a call runs, and on the CPU else."""
        self._runs_on = device_of(device)
        self.model.to("cpu")

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
            save_tensors(
                path,
                {k: t.half() if t.is_floating_point() else t for k, t in load_file(path).items()},
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
        seed: Any = 0,
        num_samples: int = 1,
        chain: bool | None = None,
        negative: Mapping[str, Any] | None = None,
        paste: bool = True,
        options: Mapping[str, SamplingOptions] | None = None,
        output_type: str = "raw",
        callback_on_step_end: Callable[[GenerationStep], Any] | None = None,
        progress_bar: bool = False,
        **settings: Any,
    ) -> dict[str, Any]:
        """Generate ``targets`` one after another from ``inputs``.

        Args:
            inputs: name -> raw value, file, ``Partial``, ``Tokens``, or a list of them (one a
                sample; what is no list is given to all).
            targets: names, in the order of generation; each is given all before it. Or one name.
            seed: of the first sample; sample i uses seed + i. Or one seed for each
                sample. A ``torch.Generator`` draws them.
            num_samples: in all; of lists of inputs as many of each.
            chain: True = each target is given all that came before it, False = the inputs alone.
                None = as True, but targets in a row whose likeliest tokens one pass finds (depth
                from a picture) are found together and not given one another.
            negative: what is not wanted, as inputs are given: guidance leads away from it.
            paste: pixels that a ``Partial`` gives stay as they are; False = as its tokens decode.
            options: settings of some targets; ``settings`` (e.g. ``guidance_scale=3.0, steps=8``)
                change those of all targets. ``num_inference_steps`` and ``generator`` are read as
                ``steps`` and ``seed``.
            output_type: of each target: ``raw`` (``Generated``), ``pil``, ``np``, ``pt`` or
                ``tokens``.
            callback_on_step_end: called with each step, at which it may look.
            progress_bar: shows one on standard error.

        Raises:
            UserError: for an unknown name, a raw value that is not what its modality holds, or
                lists of different lengths.
        """
        if not callable(callback_on_step_end or repr):
            raise UserError(f"callback_on_step_end is a function, not {callback_on_step_end!r}")
        stream = self.stream(
            inputs,
            targets,
            seed=seed,
            num_samples=num_samples,
            chain=chain,
            negative=negative,
            paste=paste,
            options=options,
            output_type=output_type,
            **settings,
        )
        for step in stream.with_bar() if progress_bar else stream:
            if callback_on_step_end is not None:
                callback_on_step_end(step)
        return stream.results

    def stream(
        self,
        inputs: Mapping[str, Any],
        targets: Sequence[str] | str,
        *,
        seed: Any = 0,
        num_samples: int = 1,
        chain: bool | None = None,
        negative: Mapping[str, Any] | None = None,
        paste: bool = True,
        options: Mapping[str, SamplingOptions] | None = None,
        output_type: str = "raw",
        **settings: Any,
    ) -> Stream:
        """A call as an iterator of its steps; leaving the loop ends it.

        stream = pipe.stream({"caption": "a red cube"}, "rgb")
        for step in stream:
            step.images[0].save(f"{step.done}.png")
        stream.results["rgb"].images[0].save("scene.png")
        """
        settings, seed = as_called_here(settings, seed)
        values = Inputs.of(inputs, num_samples, self.modalities)
        given = self._engine.encoder.state(values)
        call = Call(
            engine=self._engine,
            targets=checked_targets(targets, options, self.modalities),
            values=values,
            given=given,
            seeds=seeds_of(seed, given.num_samples),
            chain=chain,
            negative=self._engine.negative(negative, given, targets),
            paste=paste,
            own=self.options,
            options=options or {},
            settings=settings,
            form=form_of(output_type),
        )
        return Stream(partial(self._steps, call))

    def _steps(self, call: Call, results: dict[str, Any]) -> Generator[GenerationStep, None, None]:
        if self._runs_on is None:
            yield from call.steps(results)
            return
        self.model.to(self._runs_on)
        try:
            yield from call.steps(results)
        finally:
            self.model.to("cpu")

    def tiled(
        self,
        inputs: Mapping[str, Any],
        targets: Sequence[str] | str,
        *,
        seed: int = 0,
        overlap: float = 0.25,
        max_windows: int = 64,
        negative: Mapping[str, Any] | None = None,
        options: Mapping[str, SamplingOptions] | None = None,
        **settings: Any,
    ) -> dict[str, GeneratedMap]:
        """Generate maps of any size from maps of any size, e.g. land cover from a large picture.

        Args:
            inputs: name -> array (H, W[, C]), picture or file, in proportion to the sizes that the
                model reads; what is no map (a text) is given to every window.
            overlap: share of a window's side that it has in common with its neighbour.
            max_windows: held at a time; those behind are given what was found in the overlap.
            negative: what is not wanted in any window, such as a text; no map.

        Raises:
            UserError: for targets that are no maps, and maps that do not go together.
        """
        settings, first = as_called_here(settings, seed)
        targets = checked_targets(targets, options, self.modalities)
        maps, others = split_inputs(inputs, targets, self._engine)
        return TiledCall(
            engine=self._engine,
            targets=targets,
            negative=negative_of_windows(negative, self._engine),
            maps=maps,
            others=others,
            own=self.options,
            options=options or {},
            settings=settings,
            seed=int(seeds_of(first, 1)[0]),
            overlap=overlap,
            max_windows=at_least_one(max_windows, "max_windows"),
        ).results()

    def vary(self, name: str, value: Any, keep: float = 0.5, seed: int = 0) -> Tokens:
        """A part of a value's tokens, spread at random, to give as an input of a call that
        generates the rest: variations of it.
        """
        return varied(self._ids(name, value), self.modalities[name], keep, seed)

    def between(self, name: str, first: Any, second: Any, share: float, seed: int = 0) -> Tokens:
        """An input between two values: ``share`` of the first's tokens are the second's; a larger
        one includes a smaller.
        """
        ids = self._ids(name, first), self._ids(name, second)
        return between(*ids, self.modalities[name], share, seed)

    def _ids(self, name: str, value: Any) -> np.ndarray:
        """Of one whole value of a modality with a codec."""
        m = self.modalities[name]
        if m.tokenizer is None:
            raise UserError(f"{name} has no tokens")
        try:
            return self._engine.encoder.ids(m, [value])[0][0]
        except ValueError as error:
            raise UserError(f"value of {name}: {error}") from None

    def encode(self, inputs: Mapping[str, Any], num_samples: int = 1) -> SampleState:
        """Raw inputs as the sampler's state."""
        return self._engine.encoder.state(Inputs.of(inputs, num_samples, self.modalities))

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
            method: how parts are asked (``fourm/pipeline/scoring.py``).
        """
        scorer = Scorer(self.model, parts, method)
        if not isinstance(values, Mapping) or not values:
            raise UserError("values are a mapping of targets to what is to be scored")
        checked_targets(list(values), None, self.modalities)
        if set(values) & set(inputs):
            raise UserError(f"{', '.join(set(values) & set(inputs))}: given and to be scored")
        every = Inputs.of({**inputs, **values}, 1, self.modalities)
        seen, found = [name for name in every.values if name not in values], {}
        for name in values:
            given = Inputs(every.num_samples, {key: every.values[key] for key in seen})
            m = self.modalities[name]
            try:
                ids, keep = self._engine.encoder.ids(m, every.values[name])
            except ValueError as error:
                raise UserError(f"value of {name}: {error}") from None
            if not np.concatenate(keep).all() or self._engine.encoder.num_gapped(name, ids):
                raise UserError(f"value of {name}: whole values are scored, this has parts")
            found[name] = scorer.score(self._engine.encoder.state(given), m, ids)
            seen.append(name)
        return found

    def decode(self, state: SampleState, name: str) -> Generated:
        """One modality of a state in raw form."""
        return self._engine.decoder.decode(state.found(name), name)
