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
  "$moejit" cache merge "$dir/shard-$index.pack" --cache-dir "$scratch" \
    --sha256 "$(cat "$dir/shard-$index.sha256")" --format csv >/dev/null
fi

pack() {
  # Written beside and renamed: a reader sees a whole pack or none.
  "$moejit" cache pack "$dir/shard-$index.pack.new" --cache-dir "$scratch" --measurements \
    --format csv >/dev/null || return 0
  sha256sum "$dir/shard-$index.pack.new" | cut -d' ' -f1 >"$dir/shard-$index.sha256.new"
  mv "$dir/shard-$index.sha256.new" "$dir/shard-$index.sha256"
  mv "$dir/shard-$index.pack.new" "$dir/shard-$index.pack"
}

code=0
# shellcheck disable=SC2086
"$moejit" tune --model "${FLEET_MODEL:-deepseek-v3}" --shard "$index/$count" \
  --cache-dir "$scratch" --format json ${FLEET_ARGS:-} >"$dir/shard-$index.json" || code=$?
pack
exit $code
