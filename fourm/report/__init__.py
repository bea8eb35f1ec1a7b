"""One self-contained HTML page about a trained project, to look at and to send to a colleague.

``page.py`` has the sections, ``gallery.py`` samples as pictures, ``figures.py`` numbers between
their bounds, ``line_chart.py`` curves; ``page.css`` and ``page.js`` are put into the page, so that
nothing is loaded from elsewhere.
"""

from fourm.report.figures import Figure as Figure
from fourm.report.gallery import Gallery as Gallery
from fourm.report.gallery import embed as embed
from fourm.report.page import Report as Report
