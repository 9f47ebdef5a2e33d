#!/usr/bin/env bash
# Makes gen/ from proto/. With --check: fails if gen/ is not what proto/ makes.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
include=$("$bin/python" -c 'import google.api.annotations_pb2 as a, pathlib; print(pathlib.Path(a.__file__).parents[2])')
out=gen
[ "${1:-}" = --check ] && out=$(mktemp -d) && trap 'rm -rf "$out"' EXIT

protos=$(cd proto && find sandbox -name '*.proto' | sort)
rm -rf "$out" && mkdir -p "$out"
PATH=$bin:$PATH "$bin/python" -m grpc_tools.protoc -I proto -I "$include" \
  --python_out="$out" --grpc_python_out="$out" \
  --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" \
  --include_imports --descriptor_set_out="$out/descriptors.binpb" $protos
# What Envoy transcodes by and `buf breaking` compares.

if [ "$out" != gen ]; then
  diff -r -x __pycache__ gen "$out" || { echo "gen/ is stale: run make gen and commit it" >&2; exit 1; }
fi
