"""Maps larger than the model: ``pipe.tiled``.

Overlapping windows are sampled jointly. A token that several of them show is asked in the one in
which it lies deepest, where most of its surroundings are seen, and what is found is shown to all of
them before the next step. Where one pass is all there is, nothing is shared: each window answers
for itself. Either way the map is the mean of what the windows show, weighted by depth; of classes
it is what most of that weight says.

Memory is bounded: at most ``max_windows`` are sampled at a time; those that follow are given what
was found where they overlap. Shapes: R x C tokens of a map, W windows of n tokens.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pictures

from fourm.codecs import SoftCodec
from fourm.data.npy import read_npy
from fourm.data.pictures import open_picture, to_rgb
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.pipeline import automatic
from fourm.pipeline.call import Engine
from fourm.pipeline.inputs import Inputs
from fourm.pipeline.preferred import preferred
from fourm.pipeline.together import is_determined, is_one_pass
from fourm.pipeline.windows import Mosaic, Windows
from fourm.raw._dense import Dense
from fourm.raw.image import Image
from fourm.sampling.options import SamplingOptions
from fourm.sampling.schemes import Answers, Canvas, Scheme
from fourm.sampling.state import GridState, SampleState
from fourm.sampling.task import Steps


@dataclass(frozen=True)
class GeneratedMap:
    """One target over the whole map."""

    modality: Modality
    value: np.ndarray  # raw, (H, W) or (H, W, C)
    ids: np.ndarray  # (R, C)
    entropy: np.ndarray  # (R, C), nats: how unsure the network was

    @property
    def image(self) -> Pictures.Image:
        """As a picture."""
        return self.modality.raw.picture(self.value)


@dataclass(frozen=True, kw_only=True)
class Owned(Scheme):
    """A scheme over each window's own tokens; the others are as good as given to it."""

    inner: Scheme
    owned: np.ndarray  # (W, n)

    def ask(self, canvas: Canvas, step: int) -> np.ndarray:
        return self.inner.ask(self._own(canvas), step)

    def keep(self, canvas: Canvas, step: int, answers: Answers) -> np.ndarray:
        return self.inner.keep(self._own(canvas), step, answers)

    def _own(self, canvas: Canvas) -> Canvas:
        others = ~self.owned
        return replace(canvas, given=canvas.given | others, known=canvas.known | others)


@dataclass
class TokenMap:
    """What is found of a target, by place on the map (R * C,)."""

    ids: np.ndarray
    known: np.ndarray
    entropy: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> TokenMap:
        """Of R x C tokens, none of which is known."""
        num = shape[0] * shape[1]
        return cls(np.zeros(num, np.int64), np.zeros(num, bool), np.zeros(num, np.float32))

    def seen(self, places: np.ndarray) -> GridState:
        """What windows see of it."""
        return GridState(self.ids[places], self.known[places])

    def add(self, grid: GridState, places: np.ndarray, owned: np.ndarray) -> None:
        """What windows have found of their own."""
        assert grid.entropy is not None
        new = owned & ~self.known[places]
        at = places[new]
        self.ids[at], self.known[at], self.entropy[at] = grid.values[new], True, grid.entropy[new]


@dataclass(frozen=True)
class TiledCall:
    """Targets to generate over maps."""

    engine: Engine
    targets: Sequence[str]
    maps: Mapping[str, np.ndarray]  # inputs with a place at each pixel
    others: Mapping[str, Any]  # inputs that every window is given
    negative: Mapping[str, Any]  # what is not wanted in any window
    own: Mapping[str, SamplingOptions]  # the model's
    options: Mapping[str, SamplingOptions]
    settings: dict[str, Any]
    seed: int
    overlap: float
    max_windows: int

    def results(self) -> dict[str, GeneratedMap]:
        """All targets, each given those before it; those in a row that one pass determines are
        given what came before the row, as in a plain call.
        """
        windows, made = self._windows(), {}
        given: dict[str, TokenMap] = {}
        row: dict[str, TokenMap] = {}  # of one pass, and not given one another
        for name in self.targets:
            said = self._said(name, [*self.maps, *self.others, *given])
            determined = said is not None and is_determined(said)
            if not determined:
                given, row = {**given, **row}, {}
            made[name], tokens = self._target(name, windows, given)
            (row if determined else given)[name] = tokens
        return made

    def _windows(self) -> Windows:
        """Over the map in the largest units of which all its modalities have whole numbers."""
        sides = [self._modality(name).raw.pixels for name in self.maps]
        for name in self.targets:
            sides += list(self._modality(name).grid or ())
        side = math.gcd(*sides)
        shapes = {
            name: tuple(math.ceil(n * side / self._modality(name).raw.pixels) for n in m.shape[:2])
            for name, m in self.maps.items()
        }
        if len(set(shapes.values())) != 1:
            raise UserError(
                "maps of one region have sizes in proportion to those that the model reads: "
                + ", ".join(f"{n} {m.shape[0]} x {m.shape[1]}" for n, m in self.maps.items())
            )
        return Windows.over(next(iter(shapes.values())), (side, side), self.overlap)

    def _modality(self, name: str) -> Modality:
        return self.engine.modalities[name]

    def _target(
        self, name: str, windows: Windows, before: Mapping[str, TokenMap]
    ) -> tuple[GeneratedMap, TokenMap]:
        m = self._modality(name)
        fine, chosen = windows.scaled(_tokens_of(m) // windows.size[0]), None
        tokens, pixels = TokenMap.empty(fine.shape), m.raw.pixels // windows.size[0]
        mosaic, rows = _mosaic_of(m, windows.shape[1] * pixels), []
        for which in windows.blocks(self.max_windows):
            state = self._state(which, windows, before)
            grid = None
            if chosen is None:
                chosen, grid = self._options(name, state)
            places, owned = fine.places(which), fine.owned(which)
            if not is_one_pass(chosen):
                state.grids[name] = tokens.seen(places)
            if grid is None:  # else the pass that told how has found it
                grid = self._found(name, state, chosen, which, places, owned)
            tokens.add(grid, places, owned)
            values = self.engine.decoder.decode(grid, name).values
            for value, (row, column) in zip(values, windows.corners(which), strict=True):
                mosaic.add(_votes(m, value), row * pixels, column * pixels)
            rows.append(mosaic.above(windows.finished(which) * pixels))
        height, width = next(self._size_in(m.raw.pixels, n) for n in self.maps)
        value = np.concatenate([m.raw.from_network(part[None])[0] for part in rows if len(part)])
        ids, entropy = (a.reshape(fine.shape) for a in (tokens.ids, tokens.entropy))
        return GeneratedMap(m, value[:height, :width], ids, entropy), tokens

    def _size_in(self, pixels: int, name: str) -> tuple[int, int]:
        """Size of the map in pixels of another modality."""
        height, width = self.maps[name].shape[:2]
        own = self._modality(name).raw.pixels
        return height * pixels // own, width * pixels // own

    def _state(
        self, which: np.ndarray, windows: Windows, before: Mapping[str, TokenMap]
    ) -> SampleState:
        """What windows are given."""
        values: dict[str, list[Any]] = {n: [v] * len(which) for n, v in self.others.items()}
        for name, whole in self.maps.items():
            side = self._modality(name).raw.pixels
            unit = side // windows.size[0]
            values[name] = [
                _cut(whole, row * unit, column * unit, side)
                for row, column in windows.corners(which)
            ]
        state = self.engine.encoder.state(Inputs(len(which), values))
        for name, tokens in before.items():
            fine = windows.scaled(_tokens_of(self._modality(name)) // windows.size[0])
            state.grids[name] = tokens.seen(fine.places(which))
        return state

    def _options(self, name: str, state: SampleState) -> tuple[SamplingOptions, GridState | None]:
        """As the call says, else the model; else what a first pass over some windows tells, and
        what that has found if no other is needed.
        """
        engine, conditions = self.engine, state.present
        chosen = self._said(name, conditions)
        if chosen is None:
            mean, seeds = isinstance(engine.decoder.codecs[name], SoftCodec), np.arange
            return automatic.settings(
                engine.sampler, state, name, seeds(state.num_samples), conditions, mean
            )
        return chosen, None

    def _said(self, name: str, conditions: Sequence[str]) -> SamplingOptions | None:
        """By the call, else by the model, if at all."""
        chosen = self.options.get(name)
        chosen = chosen or preferred(self.own, self.engine.modalities, conditions, name)
        if chosen is None and not self.settings and not self.negative:
            return None
        return (chosen or SamplingOptions()).changed(self.settings)

    def _found(
        self,
        name: str,
        state: SampleState,
        options: SamplingOptions,
        which: np.ndarray,
        places: np.ndarray,
        owned: np.ndarray,
    ) -> GridState:
        conditions = [n for n in state.present if n != name]
        if not is_one_pass(options):
            options = replace(options, scheme=Owned(inner=options.scheme, owned=owned))
        negative = self.engine.negative(self.negative, state, self.targets)
        seeds = self.seed + which
        steps = self.engine.sampler.steps(state, name, options, seeds, conditions, negative)
        source = None if is_one_pass(options) else _owner_of(places, owned)
        return _shared(steps, source).grids[name]


def _shared(steps: Steps[SampleState], source: np.ndarray | None) -> SampleState:
    """All steps; after each, tokens are those of their owners: ``source`` (W * n,)."""
    while True:
        try:
            grid = next(steps).look()
        except StopIteration as end:
            return end.value
        assert isinstance(grid, GridState)
        if source is None:
            continue
        for array in (grid.values, grid.known, grid.entropy, grid.probability):
            if array is not None:
                flat = array.reshape(len(source), *array.shape[2:])
                flat[:] = flat[source]


def _owner_of(places: np.ndarray, owned: np.ndarray) -> np.ndarray:
    """For each token of each window (W * n,) where its owner's copy lies."""
    flat = places.reshape(-1)
    at = np.zeros(flat.max() + 1, np.int64)
    own = np.flatnonzero(owned.reshape(-1))
    at[flat[own]] = own
    return at[flat]


def _tokens_of(m: Modality) -> int:
    assert m.grid is not None
    return m.grid[0]


def _mosaic_of(m: Modality, width: int) -> Mosaic:
    form = m.raw.network_form(1)
    return Mosaic(width, m.raw.pixels, form.num_classes or form.channels)


def _votes(m: Modality, value: Any) -> np.ndarray:
    """A value as numbers whose mean means something (H, W, C): of classes one for each."""
    numbers = m.raw.to_network(np.asarray(value)[None])[0]
    num_classes = m.raw.network_form(1).num_classes
    return np.eye(num_classes, dtype=np.float32)[numbers] if num_classes else numbers


def _cut(whole: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """A window; what lies past the far edges repeats them."""
    part = whole[top : top + side, left : left + side]
    missing = [(0, side - length) for length in part.shape[:2]]
    return np.pad(part, [*missing, *[(0, 0)] * (part.ndim - 2)], mode="edge")


def read_map(value: Any, m: Modality) -> np.ndarray:
    """An array (H, W[, C]) of any size from one, a picture, or a file of either."""
    assert isinstance(m.raw, Dense)
    if isinstance(value, (str, os.PathLike)):
        path = Path(value)
        if not path.is_file():
            raise UserError(f"no file {path}")
        data = path.read_bytes()
        value = read_npy(data) if path.suffix.lower() == ".npy" else open_picture(data)
    if isinstance(value, Pictures.Image):
        is_color = isinstance(m.raw, Image)
        value = np.asarray(to_rgb(value)) if is_color else m.raw.from_picture(value)
    if not isinstance(value, np.ndarray) or value.ndim not in (2, 3) or not value.size:
        raise UserError("a map is an array (H, W) or (H, W, C), a picture, or a file of either")
    return value


def negative_of_windows(inputs: Mapping[str, Any] | None, engine: Engine) -> dict[str, Any]:
    """What is not wanted in any window. Raises UserError for a map, which windows would share."""
    found = {}
    for name, value in (inputs or {}).items():
        m = engine.modalities[name]
        if isinstance(m.raw, Dense):
            raise UserError(
                f"negative {name} is a map, and each window would be led away from all of it: say"
                " what is not wanted by a text or a list"
            )
        found[name] = m.raw.from_argument(value) if isinstance(value, str) else value
    return found


def split_inputs(
    inputs: Any, targets: Sequence[str], engine: Engine
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Maps, and what every window is given. Raises UserError for what cannot be tiled."""
    maps, others = {}, {}
    for name in targets:
        m = engine.modalities[name]
        if m.grid is None or not isinstance(m.raw, Dense):
            raise UserError(f"{name} has no map: what can be tiled lies on a grid of pixels")
        if name in inputs:
            raise UserError(f"{name} is a target and given: maps are generated whole")
    for name, value in inputs.items():
        m = engine.modalities[name]
        try:
            if not isinstance(m.raw, Dense):
                others[name] = m.raw.from_argument(value) if isinstance(value, str) else value
                continue
            maps[name] = read_map(value, m)
        except ValueError as error:
            raise UserError(f"input {name}: {error}") from None
    if not maps:
        raise UserError("a map is needed among the inputs: it says how large the result is")
    return maps, others
