#!/usr/bin/env bash
# Is this program right on a card, and how fast? Everything in one go of at most ten minutes, on a machine that needs a driver, NVRTC,
# this repository and what benches/gpu_build.sh built; compute-sanitizer and Python with torch and torchvision are used if they are there.
#
#   benches/gpu.sh BIN_DIR [OUT_DIR] [--only STAGE,...] [--seconds N] [--commit ID]
#
# Stages: doctor conformance cases_f32 cases_bf16 cases_portable graphs curves memcheck racecheck benchmark rival. Each has its own time, a failed one
# stops no other, and the status is that of the worst. OUT_DIR (gpu-results) gets gpu.json, gpu.txt and what they were made of.
set -uo pipefail
usage() {
  echo "usage: benches/gpu.sh BIN_DIR [OUT_DIR] [--only STAGE,...] [--seconds N] [--commit ID]" >&2
  exit 2
}

only=all total=580 commit="" places=()
while [ $# -gt 0 ]; do
  case "$1" in
    --only | --seconds | --commit)
      [ $# -ge 2 ] || usage
      case "$1" in --only) only=$2 ;; --seconds) total=$2 ;; --commit) commit=$2 ;; esac
      shift 2
      ;;
    -*) usage ;;
    *) places+=("$1") && shift ;;
  esac
done
[ ${#places[@]} -ge 1 ] && [ ${#places[@]} -le 2 ] || usage
bin=$(realpath "${places[0]}") out=$(realpath -m "${places[1]:-gpu-results}")
for needed in sslmem tests gpu; do
  [ -x "$bin/$needed" ] || { echo "$bin has no program \`$needed\`; make the folder with benches/gpu_build.sh" >&2 && exit 2; }
done
cd "$(dirname "$0")/.." || exit 1
mkdir -p "$out" && rm -f "$out"/{about.tsv,stages.tsv,ours.jsonl,rival.jsonl,gpu.json,gpu.txt,log.txt}
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
# Kernels are compiled anew, so that the first stage that needs one shows what that takes.
export SSLMEM_CACHE="$scratch/kernels" SSLMEM_REQUIRE_CUDA=1 PYTHONUNBUFFERED=1
export PATH="$PATH:/usr/local/cuda/bin"

about() { printf '%s\t%s\n' "$1" "$2" >>"$out/about.tsv"; }
card() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -n 1; }
about date "$(date -u +%F)"
about commit "${commit:-$(cat "$bin/commit" 2>/dev/null || git rev-parse HEAD 2>/dev/null || echo unknown)}"
about card "$(card name)"
about memory "$(card memory.total)"
about driver "$(card driver_version)"
about cpu "$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores"
about kernels "$([ -n "${SSLMEM_PORTABLE:-}" ] && echo "portable, by SSLMEM_PORTABLE" || echo "the card's own")"
about pytorch "$(python3 -c 'import torch; print(torch.__version__)' 2>/dev/null || echo none)"

# The line of a log that says most: what a test found, what the sanitizer counted, else the last.
telling() {
  awk '/panicked at/ && getline > 0 && !found { found = $0 } /skipped:|SUMMARY: [1-9]/ && !found { found = $0 }
       NF { last = $0 } END { print found ? found : last }'
}

# stage NAME SECONDS COMMAND...: runs a command, at most so long and never past the end of all; 77 is "skipped".
worst=0
stage() {
  local name=$1 budget=$2 begun=$SECONDS status outcome words
  shift 2
  [ "$only" = all ] || [[ ",$only," == *",$name,"* ]] || return 0
  limit=$((total - SECONDS < budget ? total - SECONDS : budget))
  printf '%-12s ' "$name" >&2
  if [ "$limit" -lt 3 ]; then
    status=1 outcome=failed words="no time was left"
  else
    "$@" >"$scratch/log" 2>&1
    status=$?
    words=$(telling <"$scratch/log")
    case $status in 0) outcome=ok ;; 77) outcome=skipped ;; 124 | 137) outcome=failed words="took more than $limit s" ;; *) outcome=failed ;; esac
    { echo "=== $name" && cat "$scratch/log" && echo; } >>"$out/log.txt"
  fi
  [ "$outcome" = failed ] && worst=1
  words=${words//$'\t'/ } words=${words:0:160}
  printf '%s\t%s\t%s\t%s\n' "$name" "$outcome" $((SECONDS - begun)) "$words" >>"$out/stages.tsv"
  printf '%s, %s s  %s\n' "$outcome" $((SECONDS - begun)) "$words" >&2
}

limited() { timeout --kill-after=3 "$limit" "$@"; }

# The kernels of all cards where those for Hopper are what runs.
portable() {
  [ "$(card compute_cap)" = 9.0 ] || { echo "skipped: the card is no Hopper, so these were its kernels" && return 77; }
  SSLMEM_PORTABLE=1 run_tests "$bin/tests" card::cases_bf16
}

# Tests by their full names: each must have run, for one that no longer exists would pass by not being there.
run_tests() { limited "$@" --exact --nocapture --test-threads=1 | tee "$scratch/tests" && grep -q "test result: ok. [1-9]" "$scratch/tests"; }

sanitize() {
  command -v compute-sanitizer >/dev/null || { echo "skipped: compute-sanitizer is not installed" && return 77; }
  run_tests compute-sanitizer --tool "$1" --error-exitcode 9 "$bin/tests" card::conformance_of_ptx card::cases_bf16
}

# The bindings know cuBLASLt by its plain name, installations by a version: give it the plain one.
library() {
  local found
  found=$(ls -d /usr/local/cuda/lib64/libcublasLt.so* "$(python3 -c 'import site; print(site.getsitepackages()[0])' 2>/dev/null)"/nvidia/*/lib/libcublasLt.so* \
    /usr/lib/*/libcublasLt.so* 2>/dev/null | head -n 1)
  [ -n "$found" ] && mkdir -p "$scratch/lib" && ln -sf "$found" "$scratch/lib/libcublasLt.so"
}

benchmark() {
  library
  LD_LIBRARY_PATH="$scratch/lib:${LD_LIBRARY_PATH:-}" limited "$bin/gpu" --seconds $((limit > 40 ? limit - 20 : limit / 2)) >"$out/ours.jsonl"
  local status=$?
  [ -s "$out/ours.jsonl" ] || { echo "nothing was measured" && return 1; }
  return $status
}

rival() {
  python3 -c 'import torch, torchvision' 2>/dev/null || { echo "skipped: python3 has no torch and torchvision" && return 77; }
  limited python3 benches/rival_gpu.py --seconds $((limit > 40 ? limit - 10 : limit / 2)) >"$out/rival.jsonl"
}

stage doctor 20 limited "$bin/sslmem" doctor
stage conformance 30 run_tests "$bin/tests" card::conformance_of_ptx
stage cases_f32 60 run_tests "$bin/tests" card::cases_f32
stage cases_bf16 50 run_tests "$bin/tests" card::cases_bf16
stage cases_portable 40 portable
stage graphs 40 run_tests "$bin/tests" card::replays_equal_plain_runs
stage curves 60 run_tests "$bin/tests" card::training_follows_the_cpu
stage memcheck 45 sanitize memcheck
stage racecheck 45 sanitize racecheck
stage benchmark 150 benchmark
stage rival 600 rival

"$bin/gpu" --merge "$out" || worst=1
exit $worst
