#!/bin/sh
# All that wants a GPU, in nine minutes at most, into one JSON file:
#
#     benchmarks/gpu.sh OUT.json [--small] [--device cpu]
#
# Runs from a checkout, with whatever Python has PyTorch; what is not installed (PyAV, the file
# formats of the cache) or not there (weights, Middlebury, clips) is left out, with the reason.
set -u
cd "$(dirname "$0")/.." || exit 1
out=$1
shift
PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} timeout 540 "${PYTHON:-python3}" benchmarks/gpu.py --json "$out" "$@"
