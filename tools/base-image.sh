#!/usr/bin/env bash
# Stand in for docker.io/library/python:3.11-slim-bookworm with a minimal Debian and its own Python 3.11,
# for a machine that reaches Debian's packages but no container registry: tools/base-image.sh NAME
# Wants root, podman and debootstrap.
set -euo pipefail
name=$1
if ! command -v debootstrap >/dev/null; then
  echo "error: $name cannot be pulled, and debootstrap, which could replace it, is missing; apt-get install debootstrap" >&2
  exit 2
fi
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
echo "no registry: making $name out of Debian's packages"
packages=python3.11,python3.11-venv,python3-pip,libpython3.11,ca-certificates
debootstrap --variant=minbase --include="$packages" bookworm "$root" "$mirror" >/dev/null
for alias in python3 python; do ln -sf python3.11 "$root/usr/bin/$alias"; done
rm -f "$root/usr/lib/python3.11/EXTERNALLY-MANAGED" "$root"/var/cache/apt/archives/*.deb
rm -rf "$root"/var/lib/apt/lists/*
tar -C "$root" -c . | podman import - "$name" >/dev/null
