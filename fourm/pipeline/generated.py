"""What a pipeline has generated, and a look at it while it is not finished.

Ids of what is found become raw values by the modality's codec. Tokens that are still open have no
value: pictures of a step show them grey.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from fourm.codecs import CodecSet, SoftCodec
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.progress import progress_bar
from fourm.sampling.state import GridState
from fourm.sampling.task import Step

_OPEN = 128  # grey of what is not found yet


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


@dataclass(frozen=True)
class Decoder:
    """From ids to raw values, with a model's codecs."""

    modalities: ModalitySet
    codecs: CodecSet

    def decode(self, found: GridState | list[np.ndarray], name: str) -> Generated:
        """A modality of which everything is known; of one with open tokens, those mean nothing."""
        m = self.modalities[name]
        if isinstance(found, list):
            return Generated(m, self.codecs[name].decode(found), found, [])
        ids, entropy = list(found.values), np.zeros(found.known.shape)
        if found.entropy is not None:
            entropy = found.entropy
        maps = list(entropy.reshape(-1, *(m.grid or (m.num_tokens,))))
        if found.probability is not None:
            mean = self.soft(name).decode_mean(list(found.probability))
            return Generated(m, mean, ids, maps)
        return Generated(m, self.codecs[name].decode(ids), ids, maps)

    def soft(self, name: str) -> SoftCodec:
        """The codec of a modality whose mean is to be decoded. Raises UserError if it cannot."""
        codec = self.codecs[name]
        if not isinstance(codec, SoftCodec):
            raise UserError(
                f"decode: mean needs a codec that decodes mixtures of codes; that of {name} does"
                " not: use decode: ids"
            )
        return codec


@dataclass(frozen=True)
class GenerationStep:
    """A look at a target that is being generated. It shows what is known now, so look before the
    next step. What is shown is a copy: nothing that is done to it changes the result.
    """

    target: Modality
    step: Step
    decoder: Decoder

    @property
    def done(self) -> int:
        """Steps taken."""
        return self.step.done

    @property
    def num_steps(self) -> int:
        """Steps in all, at most: a text ends where it ends."""
        return self.step.num_steps

    @property
    def known(self) -> list[np.ndarray]:
        """Masks (rows, columns) of the tokens found so far, of sets (n,). Nothing of sequences."""
        found = self.step.look()
        if isinstance(found, list):
            return []
        return list(found.known.reshape(-1, *(self.target.grid or (-1,))).copy())

    def decode(self) -> Generated:
        """What is found so far in raw form; takes as long as decoding a result."""
        found = self.step.look()
        if isinstance(found, GridState):
            copies = (None if a is None else a.copy() for a in (found.entropy, found.probability))
            found = GridState(np.where(found.known, found.values, 0), found.known.copy(), *copies)
        return self.decoder.decode(found, self.target.name)

    @property
    def images(self) -> list[Image.Image]:
        """Pictures of it, grey where nothing is found yet."""
        pictures = self.decode().images
        if self.target.grid is None:
            return pictures
        return [_with_open(p, known) for p, known in zip(pictures, self.known, strict=True)]


def _with_open(picture: Image.Image, known: np.ndarray) -> Image.Image:
    mask = Image.fromarray(known.astype(np.uint8) * 255).resize(
        picture.size, Image.Resampling.NEAREST
    )
    grey = Image.new("RGB", picture.size, (_OPEN,) * 3)
    return Image.composite(picture.convert("RGB"), grey, mask)


@dataclass
class Stream:
    """Steps of a call, taken as they are asked for; ``results`` holds the targets that are
    finished: after the last step what the call would have returned.
    """

    steps: Callable[[dict[str, Any]], Generator[GenerationStep, None, None]]
    results: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[GenerationStep]:
        return self.steps(self.results)

    def with_bar(self) -> Iterator[GenerationStep]:
        """The same beside a progress bar."""
        with progress_bar(unit="step") as bar:
            for step in self:
                bar.set_description(step.target.name, refresh=False)
                bar.total, bar.n = step.num_steps, step.done
                bar.refresh()
                yield step
