#!/bin/sh
# One share of the work: shard.sh I N. Result: $FLEET_DIR/shard-I.pack and its hash.
set -eu
index=$1
count=$2
moejit=${MOEJIT:-moejit}
dir=${FLEET_DIR:-fleet}
scratch=${FLEET_SCRATCH:-${TMPDIR:-/tmp}}/moejit-fleet-$(id -u)-$index-of-$count
mkdir -p "$dir"

# What an earlier run of this share measured, on whatever machine, is not measured again.
mkdir -p -m 700 "$scratch"
if [ -f "$dir/shard-$index.pack" ]; then
  # One that was cut off while it was published is made anew.
  "$moejit" cache merge "$dir/shard-$index.pack" --cache-dir "$scratch" \
    --sha256 "$(cat "$dir/shard-$index.sha256")" --format csv >/dev/null ||
    echo "shard: $dir/shard-$index.pack is left out" >&2
fi

pack() {
  # Written beside and renamed: a reader sees a whole pack or none.
  "$moejit" cache pack "$dir/shard-$index.pack.new" --cache-dir "$scratch" --measurements \
    --format csv >/dev/null || return $?
  sha256sum "$dir/shard-$index.pack.new" | cut -d' ' -f1 >"$dir/shard-$index.sha256.new" || return $?
  [ -s "$dir/shard-$index.sha256.new" ] || return 1
  mv "$dir/shard-$index.sha256.new" "$dir/shard-$index.sha256" || return $?
  mv "$dir/shard-$index.pack.new" "$dir/shard-$index.pack"
}

# Told to end, by a time limit or for another job: what was measured still goes to $dir.
tuner=
trap '[ -z "$tuner" ] || kill -TERM "$tuner" 2>/dev/null || :' TERM INT
# shellcheck disable=SC2086
"$moejit" tune --model "${FLEET_MODEL:-deepseek-v3}" --shard "$index/$count" \
  --cache-dir "$scratch" --format json ${FLEET_ARGS:-} >"$dir/shard-$index.json" &
tuner=$!
code=0
wait "$tuner" || code=$?
# A signal ends `wait`, not the tuner.
while kill -0 "$tuner" 2>/dev/null; do
  code=0
  wait "$tuner" || code=$?
done
tuner=
packed=0
pack || packed=$?
# A share whose results stayed on this machine is not done.
[ "$code" -ne 0 ] || code=$packed
exit $code
