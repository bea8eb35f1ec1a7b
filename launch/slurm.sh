#!/usr/bin/env bash
# Pretraining under Slurm:
#
#   sbatch launch/slurm.sh CONFIG [KEY=VALUE]...
#   sbatch --nodes=16 launch/slurm.sh configs/pretrain/4m_7_xl.yaml
#
# Submit it where the project is, on a disk that all nodes share. Five minutes before its time is up,
# or when it is preempted, the run saves and the job queues again under its own number; so does a job
# whose node fails. A mistake in the config ends it. One task a GPU: signals reach the ranks at once,
# without a launcher between.
#SBATCH --job-name=fourm
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
set -uo pipefail

if [ $# -eq 0 ]; then
  echo "usage: sbatch launch/slurm.sh CONFIG [KEY=VALUE]..." >&2
  exit 2
fi
: "${PYTHON:=python}"
export PYTHON
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on a node do not meet
WORLD_SIZE=$SLURM_NTASKS
LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_JOB_NUM_NODES))
export MASTER_ADDR MASTER_PORT WORLD_SIZE LOCAL_WORLD_SIZE
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it over
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
echo "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): $WORLD_SIZE ranks, head $MASTER_ADDR"

srun bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$PYTHON" -m fourm pretrain "$@"' \
  fourm "$@" &
step=$!
stopped=
trap 'stopped=1 again=1; kill -TERM "$step" 2>/dev/null' TERM USR1 # srun hands it on to all tasks
again=1
while [ -n "$again" ]; do # a trap ends the wait, the ranks are still saving
  again=
  wait "$step"
  status=$?
done

# 130: stopped and saved. 2: a mistake, which another start would make again.
if [ "$status" -eq 130 ] || { [ -n "$stopped" ] && [ "$status" -ne 0 ] && [ "$status" -ne 2 ]; }; then
  echo "job $SLURM_JOB_ID was stopped: it queues again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
