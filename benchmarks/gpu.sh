#!/usr/bin/env bash
# Checks the GPU kernels against the reference, then measures them. Under eight minutes on one GPU.
#
#   benchmarks/gpu.sh [WHEELS]
#
# It needs this repository, and a python3 (or the one that PYTHON names) with a CUDA build of PyTorch, Triton and
# transformers; nothing is fetched. The comparison with LoRA needs what HyCAM as a package needs too, which is PEFT and a
# transformers of version 5: where that is missing, WHEELS names a folder of wheels to take it from, and without one
# those rows are left out. Weights are random, with the shapes of Llama-2-7B.
#
# Ratios go into benchmarks/results/gpu.json, and from there to the folder that OUT names, if it does. With
# HYCAM_BENCH_TINY=1 everything runs once at tiny sizes, on a CPU if need be, and nothing is written.
set -euo pipefail
wheels=${1:+$(realpath "$1")}
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD/src PYTHONUNBUFFERED=1
if [[ -n $wheels ]]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$wheels"/*.whl
    export PYTHONPATH=$PYTHONPATH:$site
fi
timeout --kill-after=10 480 "$python" -m benchmarks.gpu
if [[ -n ${OUT:-} && -f benchmarks/results/gpu.json ]]; then
    cp benchmarks/results/gpu.json "$OUT/"
fi
