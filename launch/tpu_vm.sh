#!/usr/bin/env bash
# Create a Cloud TPU VM, put this checkout on every worker, train, and fetch the results.
set -euo pipefail

usage() {
  cat <<'TXT'
launch/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [options] [-- ARGUMENTS OF jaxpt train]

  create   --type=v5litepod-16 [--version=v2-alpha-tpuv5-lite] [--spot]   make the TPU VM
  install                                   copy this checkout to all workers and install it there
  mount    --bucket=BUCKET                  mount a bucket as ~/BUCKET on all workers (gcsfuse)
  train    -- --config=… --workdir=FOLDER   run `jaxpt train` on all workers at once
  logs                                      follow worker 0
  stop                                      SIGTERM: the run saves within a few steps, then exits with 75
  fetch    --workdir=FOLDER [--to=FOLDER]   copy a run directory from worker 0 to here (default: the same folder)
  delete                                    give the TPU VM back

  --project=PROJECT   default: gcloud's own    --dry-run   print the commands, run nothing

  launch/tpu_vm.sh create --name=a --zone=us-west4-a --type=v5litepod-16
  launch/tpu_vm.sh install --name=a --zone=us-west4-a
  launch/tpu_vm.sh mount --name=a --zone=us-west4-a --bucket=BUCKET
  launch/tpu_vm.sh train --name=a --zone=us-west4-a -- --config=configs/tiny.py:../BUCKET/web --workdir=../BUCKET/runs/a
  launch/tpu_vm.sh fetch --name=a --zone=us-west4-a --workdir=../BUCKET/runs/a --to=runs/a

A worker that is lost is named in the logs of the others within config.sharding.lost_after seconds (120); all exit with 75.
Then give the same train command again, after delete, create, install and mount where the TPU VM itself is gone.

Commands start in the checkout, ~/jaxpt. A bucket for runs needs the hierarchical namespace: in others the renaming of
folders, by which a checkpoint becomes whole, is not atomic.
TXT
}

fail() { echo "launch/tpu_vm.sh: $1" >&2; exit 2; }

command=${1:-}
case "$command" in
  create | install | mount | train | logs | stop | fetch | delete) shift ;;
  -h | --help | "") usage; exit 0 ;;
  *) fail "no command '$command'; there are create, install, mount, train, logs, stop, fetch, delete" ;;
esac

name="" zone="" type="" version="" bucket="" project="" workdir="" to="" spot="" dry=""
while [ $# -gt 0 ]; do
  case "$1" in # --name NAME is --name=NAME
    --name | --zone | --type | --version | --bucket | --project | --workdir | --to)
      [ $# -gt 1 ] || fail "$1 needs a value"
      set -- "$1=$2" "${@:3}"
      ;;
  esac
  case "$1" in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --bucket=*) bucket=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --workdir=*) workdir=${1#*=} ;;
    --to=*) to=${1#*=} ;;
    --spot) spot="--spot" ;;
    --dry-run) dry=1 ;;
    --) shift; break ;;
    *) fail "unknown option '$1' (arguments of jaxpt train go after --)" ;;
  esac
  shift
done
[ -n "$name" ] || fail "--name is missing"
[ -n "$zone" ] || fail "--zone is missing"
where=("--zone=$zone" ${project:+"--project=$project"})

run() {
  if [ -n "$dry" ]; then printf '%q ' "$@"; echo; else "$@"; fi
}
on_workers() { run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--command=$2"; }

case "$command" in
  create)
    [ -n "$type" ] || fail "--type is missing, for instance --type=v5litepod-16"
    if [ -z "$version" ]; then
      case "$type" in
        v5litepod-*) version=v2-alpha-tpuv5-lite ;;
        v5p-*) version=v2-alpha-tpuv5 ;;
        v6e-*) version=v2-alpha-tpuv6e ;;
        v4-*) version=tpu-ubuntu2204-base ;;
        *) fail "no known runtime for --type=$type; give --version" ;;
      esac
    fi
    run gcloud compute tpus tpu-vm create "$name" "${where[@]}" "--accelerator-type=$type" "--version=$version" ${spot:+"$spot"}
    ;;
  install)
    root=$(cd "$(dirname "$0")/.." && pwd)
    archive=$(mktemp -d)/jaxpt.tar.gz
    run git -C "$root" archive --format=tar.gz "--output=$archive" HEAD
    run gcloud compute tpus tpu-vm scp "$archive" "$name:jaxpt.tar.gz" "${where[@]}" --worker=all
    # the images' own Python is 3.10, one too old; Ubuntu 22.04 has 3.11 as a package
    python='python=$(command -v python3.12 || command -v python3.11) || { sudo apt-get update -q && sudo apt-get install -qy python3.11-venv && python=python3.11; }'
    on_workers all "set -e; mkdir -p jaxpt; tar xzf jaxpt.tar.gz -C jaxpt; $python; \$python -m venv jaxpt/.venv; jaxpt/.venv/bin/python -m pip install -q -e 'jaxpt[tpu]'"
    ;;
  mount)
    [ -n "$bucket" ] || fail "--bucket is missing, the name of a bucket"
    case "$bucket" in */* | *:*) fail "--bucket=$bucket is not a name; leave out gs:// and folders" ;; esac
    missing="gcsfuse is not installed here, see cloud.google.com/storage/docs/cloud-storage-fuse/install"
    on_workers all "command -v gcsfuse >/dev/null || { echo '$missing'; exit 1; }; mkdir -p $bucket && gcsfuse --implicit-dirs $bucket $bucket"
    ;;
  train)
    [ $# -gt 0 ] || fail "train: give the arguments of jaxpt train after --"
    arguments=$(printf '%q ' "$@")
    on_workers all "cd jaxpt && (nohup .venv/bin/jaxpt train --coordinator=auto $arguments >train.log 2>&1 & echo \$! >train.pid)"
    ;;
  logs) on_workers 0 'tail -n 50 -f jaxpt/train.log' ;;
  stop) on_workers all 'kill -TERM "$(cat jaxpt/train.pid)"' ;;
  fetch)
    [ -n "$workdir" ] || fail "--workdir is missing, the folder that train was given"
    case "$workdir" in /*) there=$workdir ;; *) there=jaxpt/$workdir ;; esac
    to=${to:-$workdir}
    case "$to" in ../*) fail "--to is missing: $workdir lies outside the checkout; give for instance --to=runs/a" ;; esac
    [ ! -e "$to" ] || fail "$to is here already; give another --to, or move it away"
    run mkdir -p "$(dirname "$to")"
    run gcloud compute tpus tpu-vm scp --recurse "$name:$there" "$to" "${where[@]}" --worker=0
    ;;
  delete) run gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet ;;
esac
