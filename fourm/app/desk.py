"""What the page's buttons do."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from fourm.app.asked import Request, watched
from fourm.app.guard import GONE, Rate
from fourm.app.limits import LIMITS, Limits
from fourm.app.panels import Panels
from fourm.app.results import page_of
from fourm.app.sessions import Sessions
from fourm.app.shelf import Shelf
from fourm.app.wishes import Wishes, seed_of
from fourm.errors import UserError
from fourm.pipeline.pipeline import AnyToAnyPipeline

WELCOME = (
    '<div class="welcome">Tick what you give, choose what is to be made, press <b>Generate</b>.<br>'
    "Nothing given is fine, too: the model makes something up.</div>"
)
_SEEDS = 10**6  # that chance chooses from


@dataclass
class Desk:
    """Handlers of one page."""

    pipe: AnyToAnyPipeline
    panels: Panels
    shelf: Shelf
    sessions: Sessions
    limits: Limits = LIMITS
    _rate: Rate = field(init=False)

    def __post_init__(self) -> None:
        self._rate = Rate(self.limits.generations_a_minute)

    def generate(
        self,
        who: gr.Request,
        doubt: bool,
        ticked: list[str],
        targets: list[str],
        num: Any,
        seed: Any,
        is_new: bool,
        follow: Any,
        variety: Any,
        quality: Any,
        unwanted: Any,
        *values: Any,
    ) -> Iterator[Any]:
        """Results as they are made: (now, past, tools, download, choice, go, stop)."""
        self._admit(who)
        session = _session_of(who)
        visit = self.shelf[session]
        given = self._given(ticked, values)
        number = secrets.randbelow(_SEEDS) if is_new else seed_of(seed)
        wishes, avoided = Wishes.of(follow, variety, quality), self.panels.unwanted(unwanted)
        asked = Request(given, targets or [], num, number, wishes, avoided)
        asked.check(self.pipe, self.limits)
        for remark in asked.remarks():
            gr.Warning(remark, title="")
        modalities = self.pipe.modalities
        past: Any = page_of(visit.made, modalities, doubt)
        made = None
        for made in watched(self.pipe, asked, visit.count + 1):
            now = made.html(modalities, True, doubt)
            yield (now, past, *(gr.skip() for _ in range(3)), *busy(True))
            past = gr.skip()
        assert made is not None
        visit = self.shelf.add(session, made)
        choices = visit.choices(self.panels.can_take)
        yield (
            *self.view(who, doubt),
            gr.Column(visible=True),
            gr.DownloadButton(value=str(visit.file)),
            gr.Dropdown(choices=choices, value=choices[0][1] if choices else None),
            # not before this has ended: gradio drops what starts while it runs
            *(gr.skip() for _ in busy(False)),
        )

    def settle(self, who: gr.Request) -> tuple[Any, Any]:
        """What the buttons are when a generation has ended, however it ended."""
        self.sessions.lighten(_session_of(who))
        return busy(False)

    def view(self, who: gr.Request, doubt: bool) -> tuple[str, str]:
        """The newest result and those before it."""
        made, modalities = self.shelf[_session_of(who)].made, self.pipe.modalities
        if not made:
            return WELCOME, ""
        return made[-1].html(modalities, True, doubt), page_of(made[:-1], modalities, doubt)

    def example(self, who: gr.Request, ticked: list[str]) -> list[Any]:
        """Something that the model makes up for each open panel, all of it of one sample."""
        self._admit(who)
        outputs = [m.name for m in self.pipe.modalities.outputs]
        made_up = [p.name for p in self.panels.panels if p.name in ticked and p.name in outputs]
        if not made_up:
            raise UserError("tick what an example is wanted of; the model makes none of the others")
        found = self.pipe({}, made_up, seed=secrets.randbelow(_SEEDS))
        return self.panels.filled({name: result.values[0] for name, result in found.items()})

    def take(self, who: gr.Request, key: Any, ticked: list[str]) -> list[Any]:
        """A result becomes an input: (ticked, all components)."""
        m, value = self.shelf[_session_of(who)].result(key)
        panel = self.panels.of(m)
        more = list(dict.fromkeys([*ticked, panel.name]))
        return [more, *self.panels.filled({panel.name: value})]

    def check_download(self, who: gr.Request) -> None:
        """Raise UserError where the file behind the button is gone."""
        if not self.shelf[_session_of(who)].has_file:
            raise UserError(GONE)

    def forget(self, who: gr.Request) -> tuple[Any, ...]:
        """What the page shows when a visitor's results are gone."""
        self.shelf.drop(_session_of(who))
        return (WELCOME, "", gr.Column(visible=False), gr.DownloadButton(value=None), None)

    def leave(self, who: gr.Request) -> None:
        """A visitor has closed the page, or opened it anew."""
        self.shelf.drop(_session_of(who))
        self.sessions.end(_session_of(who))

    def _admit(self, who: gr.Request) -> None:
        if not self._rate.admits(who.client.host if who.client else ""):
            raise UserError(f"more than {self._rate.most} generations in a minute: wait a little")

    def _given(self, ticked: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
        given = self.panels.given(ticked, values)
        empty = [name for name, value in given.items() if value is None]
        if empty:
            gr.Warning(f"Ticked but empty, so not given: {', '.join(empty)}.", title="")
        return {name: value for name, value in given.items() if value is not None}


def _session_of(who: gr.Request) -> str:
    return who.session_hash or ""


def busy(is_busy: bool) -> tuple[Any, Any]:
    """The buttons that start and stop while something is made, and else."""
    return gr.Button(interactive=not is_busy), gr.Button(visible=is_busy)
