#!/usr/bin/env bash
# What the tests need from Debian: a real redis-server, a headless Chromium, Node with npm for the example client,
# a C++ compiler for the serving backend.
# Does nothing where they are.
set -euo pipefail
missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v chromium >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
cxx=${CXX:-c++}
command -v "${cxx%% *}" >/dev/null || missing+=(g++)
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
sudo=""
if [ "$(id -u)" -ne 0 ]; then sudo="sudo"; fi
echo "installing ${missing[*]} for the tests"
$sudo apt-get update -qq
# policy-rc.d keeps the package from starting a server of its own; the tests start theirs.
RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
