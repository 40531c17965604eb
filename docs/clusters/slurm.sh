#!/bin/bash
# sbatch --nodes=2 docs/clusters/slurm.sh search.yaml
#
# Starts a Ray cluster with a token on the nodes of the job and runs the search there. Two minutes before the time limit
# Slurm sends SIGTERM to this script, which ends the search (its results are safe) and puts the job back into the queue.
# Preempted jobs are put back by Slurm. The search file, its models and its run are in a folder that all nodes share.
#SBATCH --job-name=evomerge
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

FILE=${1:?usage: sbatch --nodes=N slurm.sh SEARCH_FILE}
PORT=$((20000 + SLURM_JOB_ID % 20000))
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_ADDRESS=$HEAD:$PORT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

# One `ray start` for each node; --block ends it with the step.
srun --nodes=1 --ntasks=1 --overlap --nodelist="$HEAD" \
    ray start --head --port="$PORT" --include-dashboard=false --block &
STEPS=$!
until python -m evomerge.execution.ray_probe "$RAY_ADDRESS" 2>/dev/null | grep -q accepted; do
    kill -0 "$STEPS" || exit 1
    sleep 2
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --overlap --exclude="$HEAD" \
        ray start --address="$RAY_ADDRESS" --block &
    STEPS="$STEPS $!"
fi

evomerge search "$FILE" --resume &
SEARCH=$!
trap 'kill -TERM $SEARCH' TERM
wait $SEARCH
CODE=$?
if [ $CODE -gt 128 ] && kill -0 $SEARCH 2>/dev/null; then # the wait was interrupted by the signal
    wait $SEARCH
    CODE=$?
fi
trap '' TERM
kill -TERM $STEPS 2>/dev/null

# 143: ended by the signal above. 5: a fault such as a lost node of the head; try again at most five times.
if [ $CODE -eq 143 ] || { [ $CODE -eq 5 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $CODE
