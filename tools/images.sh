#!/usr/bin/env bash
# Build the images leanrec/pipeline, leanrec/serving-cpu and leanrec/gateway: tools/images.sh build
# Where the registry cannot be reached, tools/base-image.sh makes the base image out of Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/.."

base=docker.io/library/python:3.11-slim-bookworm
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' leanrec/__init__.py)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
lent=$(mktemp -d)
trap 'rm -rf "$lent"' EXIT

find_engine() {
  if command -v podman >/dev/null; then
    engine=(podman)
    if command -v runc >/dev/null; then engine+=(--runtime runc); fi
  elif command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    engine=(docker)
  else
    echo "error: no podman, and no docker that answers; install one (Debian: apt-get install podman runc)" >&2
    exit 2
  fi
}

ensure_base() {
  if "${engine[@]}" image inspect "$base" >/dev/null 2>&1; then return; fi
  if "${engine[@]}" pull -q "$base" >/dev/null 2>&1; then return; fi
  if [ "${engine[0]}" != podman ]; then
    echo "error: $base cannot be pulled; reach a registry, or install podman and debootstrap" >&2
    exit 2
  fi
  tools/base-image.sh "$base"
}

# pip in the build goes where pip on this host goes: what pip says of itself is written to a file of our own,
# and that file, the folders it names and its certificates are mounted, so that nothing of it stays in an image.
lend_pip() {
  python3 -m pip config list | python3 -c '
import ast, sys
settings = {}
for line in sys.stdin:  # later lines win, as they do in pip
    key, _, value = line.partition("=")
    settings[key.rpartition(".")[2]] = " ".join(ast.literal_eval(value).split())
print("[global]", *(f"{key} = {value}" for key, value in settings.items()), sep="\n")
' >"$lent/pip.conf"
  echo "-v=$lent/pip.conf:/etc/pip.conf:ro"
  local path
  # A folder that is an index keeps its files beside `simple`.
  grep -oE '(=|file:/*|[[:space:]])/[^[:space:]]+' "$lent/pip.conf" | grep -oE '/[^/].*' | sed 's#/simple/*$##' | sort -u |
    while read -r path; do
      if [ -e "$path" ]; then echo "-v=$path:$path:ro"; fi
    done
}

build() {
  local options=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision" --network=host) lent_pip=()
  if [ "${engine[0]}" = podman ]; then
    options+=(--ulimit=nofile=1024:1024 --format=docker)
    mapfile -t lent_pip < <(lend_pip)
    # A mount leaves its empty mount point in the layer: only the stages that run pip get one, and the final
    # images take single folders out of those.
    "${engine[@]}" build -q "${options[@]}" --target base .
    for target in serving-environment gateway-environment pipeline-environment; do
      echo "installing $target"
      "${engine[@]}" build -q "${options[@]}" "${lent_pip[@]}" --target "$target" .
    done
  fi
  for target in serving-cpu gateway pipeline; do
    echo "building leanrec/$target:$version"
    "${engine[@]}" build -q "${options[@]}" --target "$target" -t "localhost/leanrec/$target:$version" .
  done
  "${engine[@]}" images --filter "reference=localhost/leanrec/*"
}

case "${1:-}" in
  build) find_engine; ensure_base; build ;;
  *) echo "usage: tools/images.sh build" >&2; exit 2 ;;
esac
