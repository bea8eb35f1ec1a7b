#!/usr/bin/env bash
# Pretraining on all GPUs of this machine, or of several machines:
#
#   launch/node.sh CONFIG [KEY=VALUE]...                                     one machine
#   NODES=2 NODE_RANK=0 HEAD=host0 launch/node.sh CONFIG [KEY=VALUE]...      on host0, and
#   NODES=2 NODE_RANK=1 HEAD=host0 launch/node.sh CONFIG [KEY=VALUE]...      on the other one
#
# The run's folder (out) must be on a disk that all machines share. Stopped by a signal, it saves;
# the same command goes on. GPUS=2 makes two ranks of a machine without GPUs.
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "usage: launch/node.sh CONFIG [KEY=VALUE]..." >&2
  exit 2
fi
: "${NODES:=1}" "${NODE_RANK:=0}" "${HEAD:=127.0.0.1}" "${PORT:=29500}" "${PYTHON:=python}"
if [ -z "${GPUS:-}" ]; then
  GPUS=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || GPUS=0
fi
if [ "$GPUS" -eq 0 ]; then
  echo "error: nvidia-smi finds no GPU here: say how many ranks to start (GPUS=2)" >&2
  exit 2
fi
if [ "$NODES" -gt 1 ] && [ "$HEAD" = 127.0.0.1 ]; then
  echo "error: with NODES=$NODES give HEAD: the name of the machine with NODE_RANK=0" >&2
  exit 2
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# torchrun kills ranks this many seconds after a signal: enough to write a checkpoint
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}
exec "$PYTHON" -m torch.distributed.run \
  --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "$GPUS" \
  --master-addr "$HEAD" --master-port "$PORT" \
  -m fourm pretrain "$@"
