#!/usr/bin/env bash
# Look for policy gaps in the rendered manifests with checkov, offline, in an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
version=3.3.30
environment=.venv-checkov
if [ "$(cat "$environment/.ready" 2>/dev/null)" != "$version" ]; then
  "${PYTHON:-python3.11}" -m venv "$environment"
  "$environment/bin/python" -m pip install -q "checkov==$version"
  echo "$version" >"$environment/.ready"
fi
rendered=$(mktemp --suffix .yaml)
trap 'rm -f "$rendered"' EXIT
tools/kubectl.sh kustomize k8s/overlays/local >"$rendered"
# Skipped: an image that is loaded into the node by hand has no digest in a registry (43) and no place to be
# pulled from each time (15).
"$environment/bin/checkov" --skip-download --framework kubernetes --file "$rendered" --compact --quiet \
  --skip-check CKV_K8S_43,CKV_K8S_15
