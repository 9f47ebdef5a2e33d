#!/usr/bin/env bash
# Makes gen/ from proto/. With --check: fails if gen/ is not what proto/ makes.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
include=$("$bin/python" -c 'import google.api.annotations_pb2 as a, pathlib; print(pathlib.Path(a.__file__).parents[2])')
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

protoc() { PATH=$bin:$PATH "$bin/python" -m grpc_tools.protoc -I proto -I "$include" "$@"; }

protos=$(cd proto && find sandbox -name '*.proto' | sort)
protoc --python_out="$out" --grpc_python_out="$out" \
  --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" $protos
# What Envoy transcodes by and `buf breaking` compares. Envoy prints a failure's details only
# where it knows every type among them, ErrorInfo too.
protoc --include_imports --descriptor_set_out="$out/descriptors.binpb" \
  $protos google/rpc/error_details.proto
# The plugin reads the options of sandbox/rpc/v1/rest.proto by the code just made.
PYTHONPATH=$out protoc --plugin=protoc-gen-openapi=scripts/protoc-gen-openapi \
  --openapi_out="$out" $protos

if [ "${1:-}" = --check ]; then
  diff -r -x __pycache__ gen "$out" || { echo "gen/ is stale: run make gen and commit it" >&2; exit 1; }
else
  # By renaming, so that what runs meanwhile never finds it half made.
  rm -rf gen.new gen.old && mkdir gen.new && cp -r "$out"/. gen.new
  mv gen gen.old && mv gen.new gen && rm -rf gen.old
fi
