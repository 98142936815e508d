#!/bin/sh
# Joins the shares: merge.sh N. Result: $FLEET_DIR/cache and $FLEET_DIR/moejit.pack.
# Set FLEET_CACHE where $FLEET_DIR is on a network file system.
set -eu
count=$1
moejit=${MOEJIT:-moejit}
dir=${FLEET_DIR:-fleet}
cache=${FLEET_CACHE:-$dir/cache}
missing=0
index=0
while [ "$index" -lt "$count" ]; do
  if [ -f "$dir/shard-$index.pack" ]; then
    # Machine code for the CPU is taken because its hash is given.
    "$moejit" cache merge "$dir/shard-$index.pack" --cache-dir "$cache" \
      --sha256 "$(cat "$dir/shard-$index.sha256")" --format csv >/dev/null || {
      echo "merge: shard $index of $count is left out" >&2
      missing=1
    }
  else
    echo "merge: shard $index of $count has no result yet" >&2
    missing=1
  fi
  index=$((index + 1))
done
"$moejit" cache verify --cache-dir "$cache" --format csv >/dev/null
"$moejit" cache pack "$dir/moejit.pack" --cache-dir "$cache" --format csv
[ "$missing" -eq 0 ] || exit 6
