"""Progress bars do not fill log files."""

import io
import sys

from fourm.progress import progress_bar


def test_a_log_file_gets_a_few_lines_of_a_bar_however_long_it_is(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with progress_bar(total=5000, unit="step") as bar:
        for _ in range(5000):
            bar.update()
    assert "5000/5000" in written.getvalue() and len(written.getvalue()) < 500
