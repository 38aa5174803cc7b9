#!/usr/bin/env bash
# Resolve requirements/*.in into locks with hashes. Run it in an environment that has uv.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in pipeline dev; do
  uv pip compile "requirements/$name.in" --override requirements/overrides.in --output-file "requirements/$name.lock" \
    --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --python-version 3.11 --quiet
done
uv pip compile requirements/serving.in --no-deps --output-file requirements/serving.lock \
  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --python-version 3.11 --quiet
uv pip compile requirements/gateway.in --no-deps --constraint requirements/pipeline.lock --output-file requirements/gateway.lock \
  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --python-version 3.11 --quiet
