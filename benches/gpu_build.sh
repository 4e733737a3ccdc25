#!/usr/bin/env bash
# Builds what benches/gpu.sh runs on another machine into one archive: the program, its tests and its GPU benchmark, stripped, and their
# kernels compiled for Hopper, so that no minute of a card goes into compiling: 20 MB with the kernels of two compilers.
#
#   benches/gpu_build.sh ARCHIVE.tar.xz [NVRTC_DIR...]
#
# NVRTC_DIR: folders with libnvrtc.so, one for each version that the other machine may have; without any, the one that is found here.
set -euo pipefail
archive=$(realpath -m "${1:?usage: benches/gpu_build.sh ARCHIVE.tar.xz [NVRTC_DIR...]}")
shift
compilers=() && for folder in "$@"; do compilers+=("$(realpath "$folder")"); done
cd "$(dirname "$0")/.."
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
built=$(cargo build --release --locked --package sslmem --bin sslmem --test main --bench gpu --message-format=json-render-diagnostics)
for pair in src/main.rs:sslmem tests/main.rs:tests benches/gpu/main.rs:gpu; do
  path=$(grep -F "/${pair%%:*}\"" <<<"$built" | grep -o '"executable":"[^"]*"' | cut -d '"' -f 4 | tail -n 1)
  strip -o "$folder/${pair##*:}" "$path"
done
# The emulator has a test program of the same name.
[ "$("$folder/tests" --list | grep -c '^cuda::card::')" -gt 0 ] || { echo "$folder/tests are not the tests of a card" >&2 && exit 1; }
if [ ${#compilers[@]} -eq 0 ]; then "$folder/gpu" --compile "$folder/kernels"; fi
for nvrtc in "${compilers[@]}"; do SSLMEM_NVRTC="$nvrtc" "$folder/gpu" --compile "$folder/kernels"; done
git rev-parse HEAD >"$folder/commit"
tar -C "$folder" -cf - . | xz -T0 -6 >"$archive"
du -h --apparent-size "$folder"/* "$archive"
