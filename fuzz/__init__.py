"""Bad input at scale: ``python -m fuzz`` gives every reader of this project what nobody should.

A *target* (``fuzz.target``) is a reader with a strategy of inputs. A child process of bounded
memory runs its cases, each of bounded time, under an audit of what Python does (``fuzz.bounded``).
A case passes if it succeeds or ends in the project's own error of one sentence; any other
exception, a hang, memory beyond the bound, a process started, something unpickled or a file written
outside of the case's folder is a finding. What was found once is a test of
``tests/test_fuzz_findings.py`` (``test_fuzz_findings_in_files.py``) and, where it is a file, lies
in ``fuzz/corpus`` and is tried first in every run.
"""

import sys
from pathlib import Path

# a checkout is enough; references that results are compared with stand in tests
ROOT = Path(__file__).parents[1]
for _folder in ("tests", "data_prep", "tokenizers", "."):
    if str(ROOT / _folder) not in sys.path:
        sys.path.insert(0, str(ROOT / _folder))
