#!/usr/bin/env bash
# Does training on a card end where others' end? One call, as far as its time allows, in this order:
#   reference  SimCLR, ResNet-18, CIFAR-10, 100 epochs on all images but one: k-NN 10 83.2 and linear 85.6 % within 1 (dkobak/simclr-cifar10)
#   mae, dino  pairs of ViT-Tiny by the paper's recipes, with fewer epochs: k-NN, linear and SSLMem of the four subsets
#
#   benches/gpu_runs.sh BUILT CIFAR10_DIR [OUT_DIR] [--device cuda] [--seconds 580] [--epochs 30] [--small]
#
# BUILT is the archive of benches/gpu_build.sh, or a folder with what is in it; --epochs are those of mae and dino; --small takes some hundred images, to try the script.
# OUT_DIR (gpu-runs) gets runs.txt and a folder for each; what was cut off goes on when the same is called again.
set -uo pipefail
usage() {
  echo "usage: benches/gpu_runs.sh BUILT CIFAR10_DIR [OUT_DIR] [--device NAME] [--seconds N] [--epochs N] [--small]" >&2
  exit 2
}
device=cuda total=580 epochs=30 small=() places=()
while [ $# -gt 0 ]; do
  case "$1" in
    --device | --seconds | --epochs)
      [ $# -ge 2 ] || usage
      case "$1" in --device) device=$2 ;; --seconds) total=$2 ;; --epochs) epochs=$2 ;; esac
      shift 2
      ;;
    --small) small=(--set split.shared=64 --set split.candidate=32 --set split.independent=32 --set split.external=32 --set train.batch=32 --set train.epochs=1 --set optim.warmup_epochs=0) && shift ;;
    -*) usage ;;
    *) places+=("$1") && shift ;;
  esac
done
[ ${#places[@]} -ge 2 ] && [ ${#places[@]} -le 3 ] || usage
bin=$(realpath "${places[0]}")
if [ -f "$bin" ]; then
  unpacked=$(mktemp -d) && trap 'rm -rf "$unpacked"' EXIT
  python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$bin" "$unpacked" || exit 2
  bin=$unpacked
fi
# The kernels that travelled compiled.
[ -d "$bin/kernels" ] && export SSLMEM_CACHE="$bin/kernels"
sslmem=$bin/sslmem data=cifar10:$(realpath "${places[1]}") out=${places[2]:-gpu-runs}
[ -x "$sslmem" ] || { echo "$sslmem is missing; make it with benches/gpu_build.sh" >&2 && exit 2; }
mkdir -p "$out"
worst=0

# stage NAME COMMAND...: at most as long as there is time.
stage() {
  local name=$1 left=$((total - SECONDS)) begun=$SECONDS
  shift
  if [ "$left" -lt 10 ]; then
    echo "$name: no time was left" | tee -a "$out/runs.txt" && worst=1 && return 1
  fi
  if timeout --kill-after=5 "$left" "$sslmem" "$@" >"$out/$name.log" 2>&1; then
    { echo "$name: $((SECONDS - begun)) s" && tail -n 30 "$out/$name.log"; } | tee -a "$out/runs.txt"
  else
    { echo "$name: failed after $((SECONDS - begun)) s" && tail -n 3 "$out/$name.log"; } | tee -a "$out/runs.txt"
    worst=1 && return 1
  fi
}
on=(--device "$device" --data "$data")
probes=(--device "$device" --protocol knn,lbfgs --force)
[ ${#small[@]} -eq 0 ] || probes+=(--limit-train 200 --limit-test 200)

date -u +%F >>"$out/runs.txt"
"$sslmem" doctor >>"$out/runs.txt" 2>&1
nearly_all=(--set split.shared=49998 --set split.candidate=1 --set split.independent=1 --set split.external=1)
# Taken up where it is if a part of it exists.
resume=() && [ -e "$out/reference/recipe.toml" ] && resume=(--resume)
stage reference train --preset reference --which f "${on[@]}" "${nearly_all[@]}" "${small[@]}" --out "$out/reference" "${resume[@]}" &&
  stage reference_probe probe --weights "$out/reference/pair1/f.safetensors" --out "$out/reference/probe.json" --data "$data" "${probes[@]}"
for method in mae dino; do
  fewer=(--set "train.epochs=$epochs" --set "optim.warmup_epochs=$((epochs / 10))")
  stage "$method" run --preset "paper_$method" "${on[@]}" "${fewer[@]}" "${small[@]}" --out "$out/$method" &&
    stage "${method}_probe" probe --run "$out/$method" "${probes[@]}"
done
exit $worst
