#!/bin/sh
# What LocalAI starts, as run.sh --addr HOST:PORT.
exec "$(dirname "$0")/lowbit-localai" --with-parent "$@"
