"""The web page: everything that a model holds given, painted, drawn or typed, and generated.

``fourm app`` serves it on this machine alone and sends nothing anywhere. A modality's widget
follows from its raw type (``widget.py``), settings are in plain words (``wishes.py``), and what may
come in is bounded before gradio sees it (``guard.py``).
"""

import os

# read by gradio when it is imported
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
