#!/usr/bin/env bash
# Is this program right on a card, and how fast? Everything in one go of at most nine minutes, the most telling first, on a machine that
# needs a driver, NVRTC, this repository and what benches/gpu_build.sh built; compute-sanitizer and a Python with torch and torchvision are
# used if they are there.
#
#   benches/gpu.sh BUILT [OUT_DIR] [--only STAGE,...] [--again STAGES_TSV] [--seconds N] [--commit ID] [--emulate]
#   benches/gpu.sh --plan
#
# BUILT is the archive of gpu_build.sh, or a folder with what is in it. Each stage has its own time, a failed one stops no other, each of its
# failures is a line, and the status is that of the worst. OUT_DIR (gpu-results) gets stages.tsv, ours.jsonl, rival.jsonl and log.txt as they
# come, and gpu.json and gpu.txt made of them. --again runs the stages that failed in an earlier run, in three minutes; --plan prints each
# stage's seconds; --emulate puts the emulator in the place of the card, to try this script. Training: benches/gpu_runs.sh.
set -uo pipefail

# Stage, the seconds it gets, what it shows. `rival_warm` compiles PyTorch's networks beside the stages up to `graphs`, which take no times.
plan() {
  cat <<'END'
doctor         10  the driver, the card, the compiler, and the libraries that were opened
compile         5  NVRTC compiles a kernel afresh; the others travel compiled
conformance    10  each instruction of PTX against the manual
cases_bf16     15  every kernel against the CPU, in memory poisoned with NaNs
large          60  products of real sizes: Hopper's, portable and the CPU's, the same bits five times
graphs         10  replays against plain launches
rival_warm     45  waits for what compiles in the background
products       55  the kernels that make the same product, side by side, and the vendor's library
networks       40  images per second of whole networks, call by call
networks_tma   25  the same where linear layers fetch by TMA
rival         110  PyTorch on the same
cases_portable 10  Hopper's products on the kernels of all cards
cases_f32      15  the kernels in f32, which verifies
curves         15  training follows the CPU's
scoring        60  samples per second from memory and from JPEGs
kernels        30  every op by itself
memcheck       25  compute-sanitizer on three families of kernels
END
}

usage() {
  echo "usage: benches/gpu.sh BUILT [OUT_DIR] [--only STAGE,...] [--again STAGES_TSV] [--seconds N] [--commit ID] [--emulate] | --plan" >&2
  exit 2
}

only="" total=540 commit="" emulate="" places=()
while [ $# -gt 0 ]; do
  case "$1" in
    --plan) plan && exit 0 ;;
    --emulate) emulate=1 && shift ;;
    --only | --again | --seconds | --commit)
      [ $# -ge 2 ] || usage
      case "$1" in
        --only) only=$2 ;;
        --again)
          [ -r "$2" ] || { echo "$2 cannot be read: name the stages.tsv of an earlier run" >&2 && exit 2; }
          only=$(awk -F '\t' '$2 == "failed" { printf "%s%s", sep, $1; sep = "," }' "$2") total=180
          [ -n "$only" ] || { echo "nothing in $2 failed" && exit 0; }
          ;;
        --seconds) total=$2 ;;
        --commit) commit=$2 ;;
      esac
      shift 2
      ;;
    -*) usage ;;
    *) places+=("$1") && shift ;;
  esac
done
[ ${#places[@]} -ge 1 ] && [ ${#places[@]} -le 2 ] || usage
bin=$(realpath "${places[0]}") out=$(realpath -m "${places[1]:-gpu-results}")
scratch=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$scratch"' EXIT
if [ -f "$bin" ]; then
  mkdir "$scratch/bin"
  python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$bin" "$scratch/bin" || exit 2
  bin=$scratch/bin
fi
for needed in sslmem tests gpu; do
  [ -x "$bin/$needed" ] || { echo "$bin has no program \`$needed\`; make it with benches/gpu_build.sh" >&2 && exit 2; }
done
cd "$(dirname "$0")/.." || exit 1
mkdir -p "$out" && rm -f "$out"/{about.tsv,stages.tsv,ours.jsonl,rival.jsonl,gpu.json,gpu.txt,log.txt}

# The first Python on PATH that has torch, and its folder before all others: NVRTC is looked for beside it, too.
python=""
while read -r found; do
  "$found" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' 2>/dev/null && python=$found && break
done < <(type -ap python3)
[ -n "$python" ] && PATH="$(dirname "$python"):$PATH"
export PATH="$PATH:/usr/local/cuda/bin" PYTHONUNBUFFERED=1
if [ -n "$emulate" ]; then export SSLMEM_EMULATE=1; else export SSLMEM_REQUIRE_CUDA=1; fi
# What was compiled before is found, what is new is kept from one stage to the next.
export SSLMEM_CACHE="$scratch/kernels"
mkdir "$SSLMEM_CACHE" && cp "$bin"/kernels/* "$SSLMEM_CACHE" 2>/dev/null
export TORCHINDUCTOR_CACHE_DIR="$scratch/inductor" TRITON_CACHE_DIR="$scratch/triton"

about() { printf '%s\t%s\n' "$1" "$2" >>"$out/about.tsv"; }
card() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -n 1; }
about date "$(date -u +%F)"
about commit "${commit:-$(cat "$bin/commit" 2>/dev/null || git rev-parse HEAD 2>/dev/null || echo unknown)}"
IFS=, read -r name memory driver clock < <(card name,memory.total,driver_version,clocks.max.sm)
about card "${name:-none}"
about memory "${memory# }"
about driver "${driver# }"
about clock "at most${clock:- unknown}"
about cpu "$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores"
about kernels "$([ -n "${SSLMEM_PORTABLE:-}" ] && echo "portable, by SSLMEM_PORTABLE" || echo "the card's own")"

# The line of a log that says most: the first failure and how many more, what the sanitizer counted, else the last.
telling() {
  awk '/^FAIL / { if (!failed++) first = $0 }
       /panicked at/ && getline > 0 && !found { found = $0 } /skipped:|SUMMARY: [1-9]/ && !found { found = $0 }
       NF { last = $0 } END { if (failed > 1) first = first " (and " failed - 1 " more)"; print failed ? first : found ? found : last }'
}

# stage NAME COMMAND...: runs a command, at most as long as the plan gives it and never past the end of all; 77 is "skipped".
worst=0 status=0
stage() {
  local name=$1 begun=$SECONDS outcome words budget
  shift
  [ -z "$only" ] || [[ ",$only," == *",$name,"* ]] || return 0
  budget=$(plan | awk -v name="$name" '$1 == name { print $2 }')
  limit=$((total - SECONDS < budget ? total - SECONDS : budget))
  printf '%-14s ' "$name" >&2
  if [ "$limit" -lt 3 ]; then
    status=1 outcome=failed words="no time was left"
  else
    "$@" >"$scratch/log" 2>&1
    status=$?
    words=$(telling <"$scratch/log")
    case $status in 0) outcome=ok ;; 77) outcome=skipped ;; 124 | 137) outcome=failed words="took more than $limit s; $words" ;; *) outcome=failed ;; esac
    { echo "=== $name" && cat "$scratch/log" && echo; } >>"$out/log.txt"
  fi
  [ "$outcome" = failed ] && worst=1
  words=${words//$'\t'/ } words=${words:0:240}
  printf '%s\t%s\t%s\t%s\n' "$name" "$outcome" $((SECONDS - begun)) "$words" >>"$out/stages.tsv"
  printf '%s, %s s  %s\n' "$outcome" $((SECONDS - begun)) "$words" >&2
  # Every failure, not only the first.
  [ "$outcome" = failed ] && grep '^FAIL ' "$scratch/log" >&2
  return 0
}

limited() { timeout --kill-after=3 "$limit" "$@"; }

# A test by its full name: it must have run, for one that no longer exists would pass by not being there.
run_test() { limited "$bin/tests" "$1" --exact --nocapture --test-threads=1 | tee "$scratch/tests" && grep -q "test result: ok. [1-9]" "$scratch/tests"; }

# Hopper's products held to the kernels of all cards, where those for Hopper are what ran.
portable() {
  [ -z "${SSLMEM_PORTABLE:-}" ] || { echo "skipped: the kernels of all cards are what ran" && return 77; }
  SSLMEM_PORTABLE=1 SSLMEM_CASE=linear,conv run_test cuda::card::cases_bf16
}

# One file alone, into an empty cache.
compile() { SSLMEM_CACHE="$scratch/afresh" SSLMEM_CASE=relu run_test cuda::card::cases_bf16; }

# The bindings know cuBLASLt by its plain name, installations by a version: give it the plain one.
library() {
  local found
  found=$(ls -d /usr/local/cuda/lib64/libcublasLt.so* "$(dirname "${python:-/usr/bin/python3}")"/../lib/python3*/site-packages/nvidia/*/lib/libcublasLt.so* \
    /usr/lib/*/libcublasLt.so* 2>/dev/null | head -n 1)
  [ -n "$found" ] && mkdir -p "$scratch/lib" && ln -sf "$found" "$scratch/lib/libcublasLt.so" && echo "cuBLASLt: $found" >&2
}

# measure JOBS [FLAG...]: numbers of ours are added to those that came before; those of a stage that fails are kept.
measure() {
  local jobs=$1 before after
  shift
  library
  before=$(wc -l <"$out/ours.jsonl" 2>/dev/null || echo 0)
  LD_LIBRARY_PATH="$scratch/lib:${LD_LIBRARY_PATH:-}" limited "$bin/gpu" --only "$jobs" --seconds $((limit > 8 ? limit - 5 : limit)) \
    ${emulate:+--emulate} "$@" | tee -a "$out/ours.jsonl"
  local status=${PIPESTATUS[0]}
  after=$(wc -l <"$out/ours.jsonl")
  [ "$after" -gt "$before" ] || { echo "nothing was measured" && return 1; }
  return "$status"
}

memcheck() {
  command -v compute-sanitizer >/dev/null || { echo "skipped: compute-sanitizer is not installed" && return 77; }
  SSLMEM_CASE=conv/w,linear/w,attention limited compute-sanitizer --tool memcheck --error-exitcode 9 "$bin/tests" cuda::card::cases_bf16 --exact --nocapture --test-threads=1
}

has_torch() { [ -n "$python" ] || { echo "skipped: no python3 has torch" && return 77; }; }
tiny() { [ -n "$emulate" ] && echo --tiny; }

# Wants no stage's time: what it compiled when the wait is over is what the measurement finds.
rival_warm() {
  has_torch || return
  local begun=$SECONDS
  while [ -n "$warming" ] && kill -0 "$warming" 2>/dev/null && [ $((SECONDS - begun)) -lt "$limit" ]; do sleep 0.2; done
  [ -n "$warming" ] && kill "$warming" 2>/dev/null && echo "stopped before it was done"
  tail -n 3 "$scratch/warm.log"
}

rival() {
  has_torch || return
  limited "$python" benches/rival_gpu.py --seconds $((limit > 15 ? limit - 6 : limit)) $(tiny) >"$out/rival.jsonl"
}

# The kernels for Hopper are not trusted where their instructions fail: the rest then goes on without them.
hold_to_portable() {
  grep -q '^FAIL .*wgmma' "$out/log.txt" 2>/dev/null || return 0
  echo "wgmma does not do what the manual says: the rest runs with the kernels of all cards" | tee -a "$out/log.txt" >&2
  export SSLMEM_PORTABLE=1
  about kernels_after_conformance "portable: wgmma failed"
}

stage doctor limited "$bin/sslmem" doctor
warming=""
if [ -n "$python" ] && { [ -z "$only" ] || [[ ",$only," == *",rival,"* ]]; }; then
  nice -n 10 "$python" benches/rival_gpu.py --compile-only $(tiny) >"$scratch/warm.log" 2>&1 &
  warming=$!
fi
stage compile compile
stage conformance run_test cuda::card::conformance_of_ptx
hold_to_portable
stage cases_bf16 run_test cuda::card::cases_bf16
stage large run_test cuda::card::large_products
stage graphs run_test cuda::card::replays_equal_plain_runs
stage rival_warm rival_warm
stage products measure ceiling,cublaslt,products
stage networks measure infer,train,step,augment
stage networks_tma measure infer,train --tma --label "/by TMA"
stage rival rival
stage cases_portable portable
stage cases_f32 run_test cuda::card::cases_f32
stage curves run_test cuda::card::training_follows_the_cpu
stage scoring measure score,decode
stage kernels measure linear,conv,alignment,nt_xent,transformer,losses,optimize
stage memcheck memcheck

"$bin/gpu" --merge "$out" || worst=1
exit $worst
