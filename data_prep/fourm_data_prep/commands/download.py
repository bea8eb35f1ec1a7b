"""``fourm download LIST --out DIR``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import COUNT, PATH, verb
from fourm_data_prep.engine_options import EngineConfig, takes_engine


@verb(resumes=True)
@click.argument("addresses", type=PATH, metavar="LIST")
@click.option(
    "--out",
    required=True,
    type=PATH,
    help="Folder of tars; give it to `fourm import` afterwards.",
)
@click.option("--timeout", type=float, default=10.0, help="Seconds for each attempt.")
@click.option("--retries", type=click.IntRange(min=0), default=2, help="Attempts after the first.")
@click.option("--max-mb", type=float, default=20.0, help="Largest picture.")
@click.option("--per-host", type=COUNT, default=4, help="Requests to one host at a time.")
@click.option(
    "--allow-private",
    is_flag=True,
    help="Fetch from this machine and from private networks too.",
)
@takes_engine
def command(
    addresses: Path,
    out: Path,
    timeout: float,
    retries: int,
    max_mb: float,
    per_host: int,
    allow_private: bool,
    engine: EngineConfig,
) -> None:
    """Fetch pictures from a list of addresses into tars.

    LIST holds addresses with captions: TSV as CC12M's, CSV or JSONL.
    """
    from fourm_data_prep.download import DownloadConfig, download

    config = DownloadConfig(
        timeout=timeout,
        retries=retries,
        max_bytes=int(max_mb * 1e6),
        per_host=per_host,
        allow_private=allow_private,
    )
    report = download(addresses, out, config, engine).report
    print(
        f"{report.num_seen - len(report.entries)} of {report.num_seen} fetched; the others are"
        f" in {out / 'status.json'}"
    )
