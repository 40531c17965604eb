#!/bin/bash
# docs/clusters/ray-job.sh /shared/search.yaml
#
# Submits a search to a Ray cluster, by the address of its dashboard in RAY_API_SERVER_ADDRESS, and submits it again after
# a fault. A job fails with any exit code but 0: what the search says at its end decides.
set -u

FILE=${1:?usage: ray-job.sh SEARCH_FILE}
for attempt in 1 2 3 4 5; do
    OUT=$(mktemp)
    ray job submit -- evomerge search "$FILE" --resume | tee "$OUT"
    # The last line of the search, as JSON: {"event": "ended", ..., "exit_code": 0}
    CODE=$(grep -o '"exit_code": [0-9]*' "$OUT" | tail -n 1 | grep -o '[0-9]*$')
    rm -f "$OUT"
    case ${CODE:-lost} in
    5 | 143 | lost) echo "attempt $attempt ended with ${CODE:-no word}; trying again" >&2 ;;
    *) exit "$CODE" ;;
    esac
    sleep "${WAIT:-60}"
done
exit 5
