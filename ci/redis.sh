#!/usr/bin/env bash
# Real Redis clients against four replica processes, one of which is killed.
exec python3 "$(dirname "$0")/redis_clients.py" "$@"
