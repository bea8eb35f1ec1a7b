"""What was made for a visitor: as pictures on the page, and as files in a zip.

Pictures lie inside of the page, at their own size; the browser enlarges them. Files are named after
what they hold: ``002/values/depth-seed7.npy``.
"""

from __future__ import annotations

import html
import io
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourm.app.pad import data_url
from fourm.data.npy import write_npy
from fourm.modalities import ModalitySet
from fourm.pipeline.generated import Generated, GenerationStep
from fourm.pipeline.given import Partial
from fourm.raw import Legend, Raw
from fourm.report.legend import legend_html

_UNSURE = (230, 60, 130)  # colour of a token of which nothing was known; white = none in doubt


@dataclass(frozen=True)
class Made:
    """The results of one call."""

    number: int  # of this visitor, from 1
    given: Mapping[str, Any]
    results: Mapping[str, Generated]
    seed: int
    settings: str
    names: tuple[str, ...]  # of the targets, also of those still to come
    step: GenerationStep | None = None  # while it is made: how far, with a look at it

    @property
    def num_samples(self) -> int:
        """How many of each target."""
        return max((len(result.values) for result in self.results.values()), default=0)

    @property
    def num_bytes(self) -> int:
        """About what it takes to keep it."""
        made = [(r.values, r.ids, r.entropy) for r in self.results.values()]
        return _num_bytes([list(self.given.values()), made])

    def html(self, modalities: ModalitySet, is_open: bool, with_doubt: bool) -> str:
        """A block of the page; everything that comes from data is escaped."""
        given = ", ".join(_told(name, modalities[name].raw, v) for name, v in self.given.items())
        title = f"<b>{self.number}.</b> {html.escape(given or 'nothing')} → {', '.join(self.names)}"
        note = f"{html.escape(self.settings)}, seed {self.seed}"
        samples = "".join(self._sample(i, with_doubt) for i in range(self.num_samples))
        legends = "".join(
            legend_html(_legend(result), name) for name, result in self.results.items()
        )
        return (
            f'<details class="made"{" open" if is_open else ""}><summary>{title}</summary>'
            f'<div class="made-note">{note}</div>{self._progress()}{samples}{legends}</details>'
        )

    def _progress(self) -> str:
        """How far it is, and what is there of the target that is being made."""
        if self.step is None:
            return ""
        name, done, of = self.step.target.name, self.step.done, self.step.num_steps
        raw = self.step.target.raw
        if raw.has_picture and self.step.target.kind != "sequence":
            shown = [
                f"<figure>{_linked(data_url(image), f'{name}, unfinished', name)}</figure>"
                for image in self.step.images
            ]
        else:
            glance = self.step.decode()
            shown = [_figure(name, raw, value, name) for value in glance.values]
        return (
            f'<div class="made-note" role="status">{html.escape(name)}: step {done} of {of}</div>'
            f'<div class="made-steps"><i style="width: {100 * done / max(of, 1):.0f}%"></i></div>'
            f'<div class="made-sample">{"".join(shown)}</div>'
        )

    def _sample(self, i: int, with_doubt: bool) -> str:
        figures = []
        for name, result in self.results.items():
            stem = f"{name}-seed{self.seed + i}"
            has_map = with_doubt and i < len(result.entropy) and result.modality.grid
            below = _doubt(result, i, stem) if has_map else ""
            figures.append(_figure(name, result.modality.raw, result.values[i], stem, below))
        return f'<div class="made-sample">{"".join(figures)}</div>'

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each file: values that can be given again, and pictures of them."""
        folder = f"{self.number:03d}"
        told = {
            "given": list(self.given),
            "targets": list(self.results),
            "settings": self.settings,
            "seeds": [self.seed + i for i in range(self.num_samples)],
        }
        yield f"{folder}/made.json", json.dumps(told, indent=1).encode()
        for name, result in self.results.items():
            for i, value in enumerate(result.values):
                stem = f"{name}-seed{self.seed + i}"
                yield from _files(folder, stem, result.modality.raw, value)
                if i < len(result.entropy):
                    yield f"{folder}/doubt/{stem}.npy", write_npy(result.entropy[i])


def page_of(history: Sequence[Made], modalities: ModalitySet, with_doubt: bool) -> str:
    """Finished results, the newest first, each closed."""
    return "".join(made.html(modalities, False, with_doubt) for made in reversed(history))


def write_zip(history: Sequence[Made], path: Path) -> Path:
    """All results as one file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for made in history:
            for name, data in made.files():
                archive.writestr(name, data)
    return path


def _num_bytes(value: Any) -> int:
    """Of arrays, texts and whatever holds them."""
    if isinstance(value, Partial):
        return _num_bytes([value.raw, value.keep])
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list | tuple):
        return sum(map(_num_bytes, value))
    return getattr(value, "nbytes", 0) or sys.getsizeof(value)


def _files(folder: str, stem: str, raw: Raw, value: Any) -> Iterator[tuple[str, bytes]]:
    extension = raw.extensions[0]
    written = raw.write(value)
    yield f"{folder}/values/{stem}.{extension}", written
    if isinstance(value, np.ndarray) and extension != "npy":
        yield f"{folder}/values/{stem}.npy", write_npy(value)
    if raw.has_picture:
        buffer = io.BytesIO()
        raw.picture(value).save(buffer, "PNG")
        yield f"{folder}/pictures/{stem}.png", buffer.getvalue()


def _figure(name: str, raw: Raw, value: Any, stem: str, below: str = "") -> str:
    shown, label = html.escape(raw.line(value)), f"<b>{html.escape(name)}</b>"
    if raw.has_picture:
        image = _linked(data_url(raw.picture(value)), f"{name}, generated", stem)
        return f"<figure>{image}<figcaption>{label} {shown}</figcaption>{below}</figure>"
    text = f'<div class="made-text">{shown or "(nothing)"}</div>'
    return f"<figure>{text}<figcaption>{label}</figcaption></figure>"


def _linked(url: str, alt: str, stem: str) -> str:
    """A picture that is saved under a name of its own."""
    stem, alt = html.escape(stem), html.escape(alt)
    return (
        f'<a href="{url}" download="{stem}.png" title="save {stem}.png">'
        f'<img src="{url}" alt="{alt}"></a>'
    )


def _doubt(result: Generated, i: int, stem: str) -> str:
    """How unsure the network was of each token, as a share of the most there can be."""
    share = np.clip(result.entropy[i] / np.log(max(result.modality.vocab_size, 2)), 0, 1)
    colors = 255 + share[..., None] * (np.array(_UNSURE) - 255)
    picture = Image.fromarray(colors.round().astype(np.uint8))
    image = _linked(data_url(picture), "how unsure the model was", f"{stem}-doubt")
    mean = f"doubt {100 * share.mean():.0f} %"
    return f'<div class="made-doubt">{image}<figcaption>{mean}</figcaption></div>'


def _told(name: str, raw: Raw, value: Any) -> str:
    """An input in a few words."""
    if isinstance(value, Partial):
        return f"part of {name}"
    text = raw.printed(value)
    return name if text is None else f"{name}: {(raw.line(value) or text)[:60]}"


def _legend(result: Generated) -> Legend:
    """Of classes those that occur."""
    raw = result.modality.raw
    legend = raw.legend()
    occur = {name for value in result.values for name in raw.counted(value)}
    return replace(legend, entries=tuple(e for e in legend.entries if e[0] in occur))
