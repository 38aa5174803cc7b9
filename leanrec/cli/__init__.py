"""The front door: `leanrec --help`. The one room that may import every other.

A user's mistake ends with one sentence and exit status 2, a missed gate with 3; never a traceback.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from leanrec.cli import (  # noqa: F401 - each adds its commands
    pipeline,
    release,
    release_storage,
    retrain,
    run,
    search,
    serve,
    steps,
    tuning,
)
from leanrec.cli.front import StoppedByHand, app
from leanrec.errors import LeanRecError


def main() -> None:
    """Run the command line; every error of ours ends as one sentence."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop_by_hand)
    try:
        app()
    except LeanRecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{(error.strerror or str(error)).lower()}; mend that and run again",
            file=sys.stderr,
        )
        sys.exit(2)
    except StoppedByHand:
        print("error: stopped by hand; nothing half-written was kept, run again to go on", file=sys.stderr)
        sys.exit(2)


def _stop_by_hand(*_: object) -> NoReturn:
    raise StoppedByHand
