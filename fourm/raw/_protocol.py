"""What every raw type answers.

Defaults are those of a value without a picture, a place in the picture or a spelling, so a type
overrides what it has. ``extensions``, ``read`` and ``write`` it must give. What it overrides says
where it can be used:

* ``sequence`` modalities with a text tokenizer: ``to_text`` and ``from_text``
* ``grid`` and ``set`` modalities with a learned tokenizer: ``check``, ``network_form``,
  ``to_network`` and ``from_network``
* ``continuous`` modalities: ``to_floats`` for patches of pixels; without patches, ``read`` and
  ``accept`` give vectors float32 (L, C)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import PIL.Image

from fourm.choices import Choice
from fourm.data.crops import Crop
from fourm.errors import UserError
from fourm.raw._legend import Legend
from fourm.raw._spread import Spread


@dataclass(frozen=True, kw_only=True)
class NetworkForm:
    """What a learned tokenizer has to know of the numbers it codes."""

    image_size: int = 0  # pixels of both sides; 0 = vectors without a place
    channels: int = 1
    num_classes: int = 0  # > 0: class ids instead of numbers
    features: bool = False  # numbers on the scale of the network that made them, as they are


@dataclass(frozen=True, kw_only=True)
class Raw(Choice, family="raw type", package="fourm.raw"):
    """A raw type with its settings; the protocol."""

    # of files: read from any of them, written with the first
    extensions: ClassVar[tuple[str, ...]] = ()
    has_picture: ClassVar[bool] = False
    # True: says nothing of places, so a crop of the picture leaves it as it is
    placeless: ClassVar[bool] = False
    # of lists that are spelled item by item: coordinates v0= ... of each, before its label
    num_coordinates: ClassVar[int] = 0
    # figures that earlier releases called otherwise: their name then -> now
    renamed_figures: ClassVar[Mapping[str, str]] = {}

    # ---- sizes

    @property
    def pixels(self) -> int:
        """Pixels of both sides that its values refer to; 0 for what is no picture."""
        return 0

    @property
    def num_channels(self) -> int:
        """Numbers at each place."""
        return 1

    def resized(self, pixels: int) -> Self:
        """The same type at another size; itself if it has none."""
        return self

    @property
    def data_form(self) -> Self:
        """The type without the settings that only say how values are shown: what data, tokens and
        tokenizers depend on.
        """
        return self

    # ---- bytes and values

    def read(self, data: bytes, extension: str, native: bool = False) -> Any:
        """A value from one member of a shard. Raises UserError for anything that it is not.

        What is stored larger is reduced to the type's size; ``native`` gives it as it is stored.
        """
        raise NotImplementedError

    def read_part(self, data: bytes, extension: str, crop: Crop | None) -> Any:
        """The part of a file that a crop shows, at the type's size; None = read as it is.

        Types override it to do the same with less work.
        """
        if crop is None:
            return self.read(data, extension)
        return self.cut(self.read(data, extension, native=True), crop)

    def write(self, value: Any) -> bytes:
        """A value as a file of the first extension. Raises UserError for one of another form."""
        raise NotImplementedError

    def check(self, value: Any) -> Any:
        """A value in the one form that code relies on. Raises UserError for any other."""
        return value

    def accept(self, value: Any) -> Any:
        """What a user passes -> a value: more forms are taken than ``check`` takes."""
        return value

    def is_batch(self, value: Any) -> bool:
        """True for a list of values; False for one value, which may itself be a list."""
        return isinstance(value, (list, tuple))

    def from_argument(self, text: str) -> Any:
        """A value named on the command line: a file. Raises UserError where there is none."""
        path = Path(text)
        if not path.is_file():
            raise UserError(f"no file {text}")
        return self.read(path.read_bytes(), path.suffix.lstrip("."))

    # ---- what there is to say of values

    def remark(self, value: Any) -> str | None:
        """What looks wrong about a checked value and is put up with, or is lost of it, in words
        that are the same for all such values, so that they can be counted. What is surely wrong is
        refused by ``check`` and ``read``.
        """
        return None

    def measured(self, value: Any) -> Mapping[str, np.ndarray]:
        """Numbers of a value in its own units, by name: their spread tells of a data set."""
        return {}

    def counted(self, value: Any) -> Mapping[str, int]:
        """Names that occur in a value, and how often: their shares tell of a data set."""
        return {}

    @property
    def is_open(self) -> bool:
        """True while a setting is ``auto`` and has to be found in the training data."""
        return False

    def settled(self, found: Mapping[str, Spread]) -> Self:
        """The type with what was ``auto``, from the spread of ``measured`` over the training data.
        Raises UserError where that does not tell.
        """
        return self

    # ---- numbers

    def to_floats(self, values: np.ndarray) -> np.ndarray:
        """Stacked values (B, H, W[, C]) -> float32 (B, H, W, C) of about unit scale."""
        raise UserError(f"values of type {self.type_name} have no pixels to cut into patches")

    @property
    def byte_scale(self) -> np.ndarray | None:
        """For values that are bytes: divisor, mean and standard deviation of each channel, (3, C)
        float32, with which ``to_floats`` is (value / divisor - mean) / std. Patches of such values
        become floats where the model is. None for other values.
        """
        return None

    def network_form(self, patch_size: int) -> NetworkForm:
        """What a tokenizer with patches of this many pixels is told. Raises UserError for types
        that are not made of numbers.
        """
        raise UserError(f"values of type {self.type_name} cannot be learned by an autoencoder")

    def to_network(self, values: np.ndarray) -> np.ndarray:
        """Stacked values -> what a learned tokenizer reads: float32 (B, H, W, C) or (B, C), or
        class ids int64 (B, H, W).
        """
        return self.to_floats(values)

    def from_network(self, output: np.ndarray) -> list[Any]:
        """What it gives, float32 (B, H, W, C) or (B, C), for classes their logits -> values."""
        raise UserError(f"values of type {self.type_name} cannot be learned by an autoencoder")

    def figures(
        self, predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, float]:
        """The usual figures of stacked values; ``mask`` (B, H, W), True = counts, where a figure
        can be given on some pixels only.
        """
        return {}

    def baseline(self, values: Sequence[Any]) -> Any | None:
        """The one value that predicts others like these best without seeing anything of them: the
        most frequent class, the mean. None for types whose values have none.
        """
        return None

    # ---- crops

    @property
    def can_be_cut(self) -> bool:
        """True if the part that a crop shows can be told."""
        return self.placeless or type(self).cut is not Raw.cut

    def fit(self, value: Any) -> Any:
        """A value of another size at the type's size."""
        return value

    def cut(self, value: Any, crop: Crop) -> Any:
        """The part that a crop shows, at the type's size. Raises UserError if it cannot be cut."""
        if crop.whole or self.placeless:
            return value
        raise UserError(f"values of type {self.type_name} cannot be cropped")

    # ---- showing

    def picture(self, value: Any) -> PIL.Image.Image:
        """A value as a picture to look at. Raises UserError for types that have none."""
        raise UserError(f"{self.type_name} has no picture")

    def stretch(self, values: Sequence[Any]) -> tuple[float, float] | None:
        """Numbers that the darkest and the brightest colour of pictures of these values should
        stand for, so that what they have in common does not hide what they differ in. None where
        colours mean something by themselves.
        """
        return None

    def show(self, value: Any, over: tuple[float, float] | None = None) -> PIL.Image.Image:
        """``picture`` with its colours stretched over these numbers (``stretch``)."""
        return self.picture(value)

    def legend(self, over: tuple[float, float] | None = None) -> Legend:
        """What the colours of ``show`` mean; empty where pictures speak for themselves."""
        return Legend()

    def line(self, value: Any) -> str:
        """What is shown as text, beside the picture if there is one."""
        return ""

    def printed(self, value: Any) -> str | None:
        """A value as text that can be read back; None for what is no text."""
        return None

    # ---- spelling

    def to_text(self, value: Any, num_bins: int) -> str:
        """A value as a line for a text tokenizer with ``num_bins`` coordinate tokens ``v0=<bin>``
        an axis. Raises UserError that says what is wrong with the value.
        """
        raise UserError(f"raw type {self.type_name} is not spelled as text")

    def from_text(self, line: str, num_bins: int) -> Any:
        """A line back as a value. Never fails on what a model spells wrongly: it is left out."""
        raise UserError(f"raw type {self.type_name} is not spelled as text")
