#!/usr/bin/env bash
# Every check of `make lint`. All run, whatever fails; the exit code says whether one did.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.venv/bin:$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

check() { # check NAME COMMAND…
  local name=$1
  shift
  if "$@" >"$work/output" 2>&1; then
    echo "ok    $name"
  else
    echo "FAIL  $name"
    sed 's/^/      /' "$work/output"
    failed=1
  fi
}

# protoc finds google/api where googleapis-common-protos is installed; buf lints the image
# that it builds, so nothing is fetched. Source info keeps comments and line numbers.
image() {
  local include protos
  include=$(python -c 'import google.api.annotations_pb2 as a, pathlib; print(pathlib.Path(a.__file__).parents[2])') &&
    mapfile -t protos < <(cd proto && find sandbox -name '*.proto' | sort) &&
    python -m grpc_tools.protoc -I proto -I "$include" --include_imports --include_source_info \
      --descriptor_set_out="$work/image.binpb" "${protos[@]}"
}

bootstrap() {
  python -m cli.validate "$work" && envoy --mode validate --log-level warning -c "$work/envoy.yaml"
}

check "ruff check" ruff check .
check "ruff format" ruff format --check .
check "mypy (strict)" mypy
check "import borders" lint-imports
check "generated code is fresh" scripts/generate.sh --check
check "protos compile" image
check "buf lint" buf lint "$work/image.binpb" --config buf.yaml
check "buf breaking" buf breaking "$work/image.binpb" --against proto/baseline.binpb --config buf.yaml
check "envoy --mode validate" bootstrap
exit "$failed"
