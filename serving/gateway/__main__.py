"""`python -m serving.gateway CONFIG_OR_RUN`: the gateway of a configuration file or a run's folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from leanrec.config import RunSettings, load_settings
from leanrec.errors import ConfigError, LeanRecError
from leanrec.files import read_json
from serving.gateway.server import main


def _settings(path: Path) -> RunSettings:
    if path.is_dir():
        path = path / "settings.json"
    if path.suffix != ".json":
        return load_settings(path)
    try:
        return RunSettings.parse(read_json(path))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: no settings of a run ({error}); name a file of configs/ or the folder of a run"
        ) from None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m serving.gateway", description=__doc__)
    parser.add_argument("settings", type=Path, help="a file of configs/, or the folder of a run")
    try:
        settings = _settings(parser.parse_args().settings)
    except LeanRecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    sys.exit(main(settings))
