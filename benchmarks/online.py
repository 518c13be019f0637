"""How long does it take to bring a night's features online, and to read them, on either profile?

Redis and PostgreSQL are measured where PERENNIAL_REDIS and PERENNIAL_POSTGRES_URL name them;
`--start-servers` starts both for the time of the benchmark, from the machine's own packages.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.online import online_table
from benchmarks.lib.page import publish, quiet


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--reads", type=int, default=200, help="of one user; a fifth of it of 100")
    parser.add_argument("--start-servers", action="store_true")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        if asked.start_servers:
            from tests.servers import running

            with running() as servers:
                os.environ.update(servers.fresh())
                result = online_table(Path(folder), asked.users, asked.reads)
        else:
            result = online_table(Path(folder), asked.users, asked.reads)
    said = f"`user_state_v1`: every feature of a shopper. {asked.reads:,} reads of one user."
    publish("Online store", [said, result], ["feast", "redis"], asked.write)


if __name__ == "__main__":
    main()
