"""Coverage-guided fuzzing of a reader of bytes, by atheris (libFuzzer): it keeps what reaches lines
that nothing reached before, and so finds its way behind magic numbers and lengths.

    python -m fuzz.guided tars --seconds 60 --found runs/found

Bounds and what is a finding are those of ``fuzz.bounded``. A finding is printed, and its input is
written into ``--found`` (put it into ``fuzz/corpus``); libFuzzer ends the process in the end.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

_READERS = ("data", "raw", "weights", "yaml_files", "json_files")
with atheris.instrument_imports(include=[f"fourm.{name}" for name in _READERS]):
    from fuzz.bounded import Judge, bound_memory
    from fuzz.targets import TARGETS


def main() -> None:
    """Fuzz the target that the command line names."""
    known = {target.name: target for target in TARGETS if target.takes_bytes}
    options = argparse.ArgumentParser(prog="python -m fuzz.guided")
    options.add_argument("target", choices=sorted(known))
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--found", type=Path, help="folder of inputs that show a finding")
    told = options.parse_args()
    target = known[told.target]
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(target, Path(folder))
        seeds = Path(folder, "seeds")
        seeds.mkdir()
        for number, data in enumerate([*target.corpus, *target.seeds()]):
            (seeds / str(number)).write_bytes(data)

        def one(data: bytes) -> None:
            before = set(judge.result.findings)
            judge(data)
            for what in set(judge.result.findings) - before:
                print(f"finding: {what}\n{judge.result.findings[what].trace}", flush=True)
                if told.found is not None:
                    told.found.mkdir(parents=True, exist_ok=True)
                    name = hashlib.sha256(data).hexdigest()[:12]
                    (told.found / name).write_bytes(data)

        bound_memory()
        limits = [f"-max_total_time={told.seconds}", f"-seed={told.seed}", "-rss_limit_mb=0"]
        atheris.Setup([sys.argv[0], *limits, "-max_len=20000", str(seeds)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
