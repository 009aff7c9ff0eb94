#!/usr/bin/env bash
# A real Slurm on this machine, of four nodes, and deploy/slurm.sh in it: the same bytes as
# one process makes, also where a task is killed and run again. Installs Slurm where it is
# not there (Debian, as root). With -measure it prints what two tasks take over one.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "skipped: needs Slurm, or root and apt-get to install it" >&2
		exit 1
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
fi

dir=$(mktemp -d)
chmod 755 "$dir"
pids=()
finish() {
	scancel -u "$(id -un)" 2>/dev/null && sleep 2
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait 2>/dev/null || true
	rm -rf "$dir"
}
trap finish EXIT

# Everything lies in a folder of its own, so that a Slurm of this machine stays as it is.
mkdir -p "$dir"/{state,spool,munge,log}
chmod 700 "$dir/munge"
(umask 077 && head -c 64 /dev/urandom >"$dir/munge/key")
socket=$dir/munge/socket
munged --force --foreground --key-file="$dir/munge/key" --socket="$socket" --pid-file="$dir/munge/pid" \
	--log-file="$dir/munge/log" --seed-file="$dir/munge/seed" >"$dir/log/munged" 2>&1 &
pids+=($!)
host=$(hostname -s)
cpus=$(nproc)
port=$((20000 + RANDOM % 20000))
cat >"$dir/slurm.conf" <<CONF
ClusterName=ci
SlurmctldHost=$host(localhost)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$socket
CredType=cred/munge
SlurmctldPort=$port
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd.%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
MinJobAge=3600
KillWait=5
NodeName=node[1-4] NodeHostname=$host NodeAddr=localhost Port=$((port + 1)),$((port + 2)),$((port + 3)),$((port + 4)) CPUs=1 RealMemory=4096
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=NO
CONF
export SLURM_CONF=$dir/slurm.conf
for _ in $(seq 50); do [ -S "$socket" ] && break; sleep 0.1; done
slurmctld -D >"$dir/log/ctld.out" 2>&1 &
pids+=($!)
for n in 1 2 3 4; do
	mkdir -p "$dir/spool/node$n"
	slurmd -D -N "node$n" >"$dir/log/slurmd$n.out" 2>&1 &
	pids+=($!)
done
for _ in $(seq 100); do
	[ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 4 ] && break
	sleep 0.2
done
sinfo
[ "$(sinfo -h -t idle -o %D)" = 4 ] || { tail -n 5 "$dir"/log/* >&2; exit 1; }

go build -o "$dir/lowbit" ./cmd/lowbit
export LOWBIT=$dir/lowbit
model=$PWD/testdata/tinyllama-2m

# submit ARRAY OUT FLAGS... runs an array to its end; it fails if a task has.
submit() {
	local array=$1 out=$2
	shift 2
	sbatch -W --array="$array" --cpus-per-task=1 --mem=1G --time=10 --output="$dir/log/task-%A-%a" deploy/slurm.sh "$model" "$out" "$@"
}

# same OUT FLAGS... compares with what one process makes.
same() {
	local out=$1
	shift
	rm -rf "$dir/alone"
	"$dir/lowbit" quantize "$model" -o "$dir/alone" -q "$@" >/dev/null
	diff -r "$dir/alone" "$out"
	rm -rf "$dir/alone" "$out" "$out.partial.done"
}

echo "== without text, an array of three"
flags=(--method rtn --axis oc)
submit 1-3 "$dir/out" "${flags[@]}" || { tail -n 20 "$dir"/log/task-* >&2; exit 1; }
same "$dir/out" "${flags[@]}"

echo "== one part, and the others later"
PARTS=3 submit 2 "$dir/out" "${flags[@]}"
[ ! -e "$dir/out" ]
PARTS=3 submit 1,3 "$dir/out" "${flags[@]}"
same "$dir/out" "${flags[@]}"

# More text than is summed up in one go.
text=$PWD/testdata/tinyllama-2m-text
cat "$text"/calibration.txt "$text"/heldout.txt "$text"/calibration.txt >"$dir/text.txt"
flags=(--method gptq --calib "$dir/text.txt" --samples 288 --seq-len 256)

echo "== with text, an array of two, of which one is killed and run again"
job=$(sbatch --parsable --array=1-2 --cpus-per-task=1 --mem=1G --time=10 --output="$dir/log/task-%A-%a" deploy/slurm.sh "$model" "$dir/out" "${flags[@]}")
for _ in $(seq 600); do
	[ "$(find "$dir/out.partial/layers" -name '*.safetensors' 2>/dev/null | wc -l)" -ge 8 ] && break
	sleep 0.1
done
scancel --signal=KILL --full "${job}_2"
while squeue -h -j "${job}_2" | grep -q .; do sleep 0.5; done
[ ! -e "$dir/out" ]
PARTS=2 submit 2 "$dir/out" "${flags[@]}"
while squeue -h -j "$job" | grep -q .; do sleep 0.5; done
same "$dir/out" "${flags[@]}"

if [ "${1:-}" = -measure ]; then
	# seconds TASKS prints what the tasks take, from the first that begins to the last that ends,
	# and the processor's time of all.
	flags=("${flags[@]/288/1024}")
	cat "$dir/text.txt" "$dir/text.txt" "$dir/text.txt" >"$dir/more.txt" && mv "$dir/more.txt" "$dir/text.txt"
	cat >"$dir/timed" <<'SH'
#!/bin/bash
# The command, and what it took.
begin=$(date +%s.%N)
TIMEFORMAT='%U %S'
{ time "$LOWBIT_TIMED" "$@" 2>&3; } 3>&2 2>"$TIMES/$SLURM_ARRAY_TASK_ID"
echo "$begin $(date +%s.%N)" >>"$TIMES/$SLURM_ARRAY_TASK_ID"
SH
	chmod +x "$dir/timed"
	export LOWBIT_TIMED=$dir/lowbit LOWBIT=$dir/timed
	for _ in 1 2 3; do
		for tasks in 1 2; do
			export TIMES=$dir/times-$tasks
			rm -rf "$TIMES" "$dir/out-$tasks" "$dir/out-$tasks".partial.done && mkdir "$TIMES"
			submit 1-$tasks "$dir/out-$tasks" "${flags[@]}" >/dev/null
			awk -v n="$tasks" 'NF == 2 && FNR == 1 { cpu += $1 + $2 } FNR == 2 { if (!b || $1 < b) b = $1; if ($2 > e) e = $2 }
				END { printf "%d task(s): %.1f s, %.1f s of processors\n", n, e - b, cpu }' "$TIMES"/*
		done
		diff -r "$dir/out-1" "$dir/out-2"
	done
fi
echo "all is well"
