#!/usr/bin/env bash
# Builds what benches/gpu.sh runs on another machine, the program, its tests and its GPU benchmark, stripped, into a folder.
# Usage: benches/gpu_build.sh FOLDER
set -euo pipefail
folder=$(realpath -m "${1:?usage: benches/gpu_build.sh FOLDER}")
cd "$(dirname "$0")/.."
built=$(cargo build --release --locked --bin sslmem --test main --bench gpu --message-format=json-render-diagnostics)
mkdir -p "$folder"
for pair in src/main.rs:sslmem tests/main.rs:tests benches/gpu/main.rs:gpu; do
  path=$(grep -F "/${pair%%:*}\"" <<<"$built" | grep -o '"executable":"[^"]*"' | cut -d '"' -f 4 | tail -n 1)
  strip -o "$folder/${pair##*:}" "$path"
done
git rev-parse HEAD >"$folder/commit"
ls -l "$folder"
