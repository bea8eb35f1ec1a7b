"""The page: what is given on the left, what is made on the right.

Only what is ticked under *Give* has a panel and is given; results appear as they are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from fourm.app.desk import WELCOME, Desk, busy
from fourm.app.limits import LIMITS, Limits
from fourm.app.panels import Panels, speaking, widgets_of
from fourm.app.sessions import Sessions
from fourm.app.shelf import Shelf
from fourm.app.telling import QUIET, told
from fourm.app.widget import Widget
from fourm.app.wishes import OWN, QUALITY, VARIETY
from fourm.pipeline.pipeline import AnyToAnyPipeline

CSS = Path(__file__).with_name("page.css").read_text()
# one generation at a time, whoever asks
_MODEL: dict[str, Any] = {
    "api_visibility": "private",
    "concurrency_limit": 1,
    "concurrency_id": "model",
}
# asked and answered beside the queue, whose stream may be closing just then
_ALWAYS: dict[str, Any] = {**QUIET, "queue": False}
_EVERY = 600  # seconds after which old files are looked for
# where results lie below what is given
_TO_RESULTS = (
    "() => { if (innerWidth < 720) document.querySelector('#now')"
    ".scrollIntoView({behavior: 'smooth'}); }"
)


def build_page(pipe: AnyToAnyPipeline, files: Path, limits: Limits = LIMITS) -> gr.Blocks:
    """The page of a pipeline; ``files`` is the folder of what visitors download."""
    names = [widget.modality.name for widget in widgets_of(pipe.modalities)]
    outputs = [m.name for m in pipe.modalities.outputs]
    first = names[:1]
    age = int(limits.kept_seconds)
    with gr.Blocks(title="fourm: any to any", delete_cache=(_EVERY, age)) as blocks:
        gr.Markdown("# Any to any", elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                ticked = gr.CheckboxGroup(names, value=first, label="Give", elem_id="give")
                panels = Panels.build(pipe.modalities, first)
                targets = gr.CheckboxGroup(
                    outputs,
                    value=[name for name in outputs if name not in first][:1],
                    label="Make",
                    info="In the order in which they are ticked: each is given all before it.",
                    elem_id="make",
                )
                settings = _settings(limits, speaking(widgets_of(pipe.modalities)))
                buttons = _Buttons.build()
            with gr.Column(scale=6, min_width=320):
                view = _View.build()
        desk = Desk(pipe, panels, Shelf(files, limits), Sessions(blocks), limits)
        ticked.change(told(panels.show), ticked, panels.columns, **QUIET)
        _wire_generation(desk, buttons, view, [ticked, targets, *settings, *panels.components])
        buttons.example.click(told(desk.example), ticked, panels.components, **_MODEL)
        view.doubt.change(told(desk.view), view.doubt, [view.now, view.past], **QUIET)
        view.take.click(
            told(desk.take),
            [view.choice, ticked],
            [ticked, *panels.components],
            **QUIET,
        )
        view.download.click(told(desk.check_download), None, None, **QUIET)
        view.forget.click(told(desk.forget), None, view.outputs, **QUIET)
        blocks.unload(desk.leave)
    blocks.queue(max_size=limits.waiting, api_open=False)
    return blocks


def _wire_generation(desk: Desk, buttons: _Buttons, view: _View, asked: list[Any]) -> None:
    """The button and the Enter key start it, another button stops it."""
    texts = [c for c in desk.panels.components if isinstance(c, gr.Textbox)]
    starts = [buttons.go.click, *(text.submit for text in texts)]
    both = [buttons.go, buttons.stop]
    running = gr.on(
        starts,
        told(desk.generate),
        [view.doubt, *asked],
        [*view.outputs, *both],
        show_progress="hidden",
        trigger_mode="once",
        **_MODEL,
    )
    buttons.go.click(None, None, None, js=_TO_RESULTS, **QUIET)
    running.then(told(desk.settle), None, both, **_ALWAYS)
    running.failure(told(desk.settle), None, both, **_ALWAYS)
    buttons.stop.click(lambda: busy(False), None, both, cancels=[running], **QUIET)


@dataclass(frozen=True)
class _Buttons:
    go: gr.Button
    stop: gr.Button
    example: gr.Button

    @classmethod
    def build(cls) -> _Buttons:
        with gr.Row(elem_id="buttons"):
            go = gr.Button("Generate", variant="primary", scale=2, min_width=120, elem_id="go")
            stop = gr.Button("Stop", variant="stop", visible=False, min_width=80, elem_id="stop")
            example = gr.Button("Example", min_width=90, elem_id="example")
        return cls(go, stop, example)


@dataclass(frozen=True)
class _View:
    """Where results are seen, and what can be done with them."""

    now: gr.HTML
    past: gr.HTML
    tools: Any
    doubt: gr.Checkbox
    download: gr.DownloadButton
    choice: gr.Dropdown
    take: gr.Button
    forget: gr.Button

    @classmethod
    def build(cls) -> _View:
        with gr.Column(visible=False, elem_id="tools") as tools:
            with gr.Row(equal_height=False, elem_id="again"):
                choice = gr.Dropdown([], label="Give a result again", elem_id="choice", scale=3)
                take = gr.Button("Give it", elem_id="take", min_width=90)
            with gr.Row():
                download = gr.DownloadButton(
                    "Download all", elem_id="download", size="md", min_width=110
                )
                forget = gr.Button("Forget all", elem_id="forget", size="md", min_width=110)
            doubt = gr.Checkbox(
                False,
                label="Show where the model was unsure",
                info="The pinker, the less it knew; 100 % is a mere guess.",
                elem_id="doubt",
            )
        bare: dict[str, Any] = {"js_on_load": None, "apply_default_css": False}
        now = gr.HTML(WELCOME, elem_id="now", **bare)
        past = gr.HTML("", elem_id="past", **bare)
        return cls(now, past, tools, doubt, download, choice, take, forget)

    @property
    def outputs(self) -> list[Any]:
        """What a generation changes."""
        return [self.now, self.past, self.tools, self.download, self.choice]


def _settings(limits: Limits, speaks: Widget | None) -> list[Any]:
    """Number of samples, seed, whether it is new, how closely to follow, variety, quality, and what
    is not wanted.
    """
    num = gr.Slider(1, limits.samples, value=1, step=1, label="How many", elem_id="num")
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        follow = gr.Textbox(
            label="How closely to follow what is given",
            info="Empty: as the model prefers. 1: no emphasis; 3: strongly; 0: not at all.",
            placeholder="as the model prefers",
            elem_id="follow",
        )
        variety = gr.Radio(
            list(VARIETY),
            value=OWN,
            label="Variety",
            info="None: the likeliest answer each time. Much: samples differ, and err, more.",
            elem_id="variety",
        )
        quality = gr.Radio(
            list(QUALITY),
            value="default",
            label="Quality",
            info="Fast: half the steps, worse. Thorough: twice the steps and one sweep more.",
            elem_id="quality",
        )
        unwanted = gr.Textbox(
            label="Not wanted",
            info="Pictures and maps are led away from it. It works with what is given, or alone.",
            placeholder="" if speaks is None else f"a {speaks.modality.name}",
            visible=speaks is not None,
            elem_id="unwanted",
        )
        with gr.Row():
            seed = gr.Textbox("0", label="Seed", info="The same gives the same.", elem_id="seed")
            is_new = gr.Checkbox(False, label="A new seed each time", elem_id="new-seed")
    return [num, seed, is_new, follow, variety, quality, unwanted]
