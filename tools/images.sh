#!/usr/bin/env bash
# Build the images leanrec/pipeline and leanrec/serving-cpu: tools/images.sh build
# Where the registry cannot be reached, tools/base-image.sh makes the base image out of Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/.."

base=docker.io/library/python:3.11-slim-bookworm
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)

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

# pip in the build goes where pip on this host goes. Mounted, so that nothing of it stays in an image.
host_pip() {
  local path
  for path in /etc/pip.conf /etc/xdg/pip /etc/ssl/certs/ca-certificates.crt $(host_package_folders); do
    if [ -e "$path" ]; then echo "-v=$path:$path:ro"; fi
  done
  if [ -e "$HOME/.config/pip" ]; then echo "-v=$HOME/.config/pip:/root/.config/pip:ro"; fi
}

# Folders of wheels that pip is told to look into; an index in a folder keeps its files beside `simple`.
host_package_folders() {
  python3 -m pip config list 2>/dev/null | grep -E 'find-links|index-url' | grep -oE "/[^' :]+" |
    sed -e 's#^//*#/#' -e 's#/simple/*$##' | sort -u
}

build() {
  local options=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision" --network=host)
  if [ "${engine[0]}" = podman ]; then
    options+=(--ulimit=nofile=1024:1024 --format=docker)
    mapfile -t -O "${#options[@]}" options < <(host_pip)
  fi
  for target in serving-cpu pipeline; do
    echo "building leanrec/$target:$version"
    "${engine[@]}" build -q "${options[@]}" --target "$target" -t "localhost/leanrec/$target:$version" .
  done
  "${engine[@]}" images --filter "reference=localhost/leanrec/*"
}

case "${1:-}" in
  build) find_engine; ensure_base; build ;;
  *) echo "usage: tools/images.sh build" >&2; exit 2 ;;
esac
