#!/bin/bash
# Everything that waits for a GPU, in ten minutes; see gpu.py.
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" "$@"
