"""What gradio keeps of visitors, and forgets when they have left.

It keeps all that it ever sent to a page for links to it, which the page does not have, and a closed
page for an hour, though a page that is opened again is a new session to it: .3 MB of each visitor.
Both are its own matters (gradio 6.31), so ``tests/test_app.py`` holds that they still are these.
"""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr


@dataclass(frozen=True)
class Sessions:
    """Of one page."""

    blocks: gr.Blocks

    def lighten(self, session: str) -> None:
        """Forget what was shown; it is made again from the page itself where it is needed."""
        if session in self.blocks.state_holder:
            self.blocks.state_holder[session].config_values.clear()

    def end(self, session: str) -> None:
        """Forget all, messages that nobody reads included."""
        holder, queue = self.blocks.state_holder, self.blocks._queue
        kept = (
            holder.session_data,
            holder.time_last_used,
            queue.pending_messages_per_session,
            queue.pending_event_ids_session,
        )
        for of in kept:
            of.pop(session, None)
