#!/bin/bash
# One model quantized by many machines: an array of Slurm's, one part a task.
#
#   sbatch --array=1-8 deploy/slurm.sh Qwen3-32B Qwen3-32B-4bit --calib text.txt
#   sbatch --array=3   deploy/slurm.sh ...     # part 3 died: run it again, with PARTS=8
#
# MODEL, OUT and the text lie where all nodes see them. With text all tasks must run at the
# same time (no --array=1-8%2). Flags behind MODEL and OUT are those of lowbit quantize, the
# same for all tasks. PARTS is the number of parts, where the array does not have them all.
#SBATCH --job-name=lowbit
#SBATCH --array=1-2
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=lowbit-%A-%a.log
set -euo pipefail

model=$1 out=$2
shift 2
# exec: lowbit itself gets the signal before the end of the time, stops cleanly, and goes on
# where it was when the task is run again.
exec srun --ntasks=1 "${LOWBIT:-lowbit}" quantize "$model" -o "$out" \
	--part "auto${PARTS:+/$PARTS}" --workers "${SLURM_CPUS_PER_TASK:-1}" \
	--memory "${SLURM_MEM_PER_NODE:-32768}MiB" --progress plain "$@"
