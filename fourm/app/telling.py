"""Every ending of a handler is a sentence for the visitor: the mistake's own, or that something
went wrong here. Tracebacks, and with them names of folders, stay in the server's log.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import gradio as gr

from fourm.errors import UserError

# of events whose work is too short for a sign of progress
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

_LOG = logging.getLogger("fourm.app")
_SECONDS = 12  # that a sentence stays on the page


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, a function or a generator, with endings that may be shown."""
    if inspect.isgeneratorfunction(handler):

        @wraps(handler)
        def steps(*values: Any) -> Iterator[Any]:
            with _told():
                yield from handler(*values)

        return steps

    @wraps(handler)
    def once(*values: Any) -> Any:
        with _told():
            return handler(*values)

    return once


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except UserError as error:
        raise _shown(str(error)) from None
    except Exception:
        _LOG.exception("a request failed")
        raise _shown("That went wrong here, not with you: the log of the server has it.") from None


def _shown(sentence: str) -> gr.Error:
    return gr.Error(sentence, duration=_SECONDS, title="That cannot be done", print_exception=False)
