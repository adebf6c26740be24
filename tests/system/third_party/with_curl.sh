#!/bin/sh
# curl: with_curl.sh URL FOLDER [by-hand]. The bytes of each connection go into a file of FOLDER, 1, 2, 3 …
number=0 id=''
while :; do
  number=$((number + 1))
  curl -sSN -H "Last-Event-ID: $id" "$1" >"$2/$number"
  echo "curl ended with $?"
  [ "${3:-}" = by-hand ] || exit 0
  # The id of the last frame that is whole: one that was cut has said its id, and not its data.
  id=$(cat "$2"/* | awk '/^id: / { id = $2 } /^$/ { whole = id } END { print whole }')
  sleep 0.1
done
