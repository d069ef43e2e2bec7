#!/usr/bin/env bash
# Checks what no engine here can try: images, compose file, manifests, chart values, rules; by linters and schemas, offline.
#   infra/lint.sh [FOLDER]      another folder of the same shape, such as a copy with a mistake in it
set -euo pipefail
PATH=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH
here=${1:-$(dirname "$0")}
failed=0
check() { "$@" >"$said" 2>&1 || { cat "$said"; echo "infra: $1 refuses it"; failed=1; }; }
said=$(mktemp)
trap 'rm -f "$said"' EXIT

check yamllint --strict --config-file "$here/.yamllint.yaml" "$here"
check hadolint "$here"/images/*.Dockerfile
check check-jsonschema --builtin-schema vendor.compose-spec "$here/compose.yaml"
check check-jsonschema --schemafile "$here/airflow/values.schema.json" "$here/airflow/values.yaml"
# kustomization.yaml is no resource of a cluster; what it names is.
check kubernetes-validate --kubernetes-version 1.34 --strict --quiet \
  $(find "$here/kubernetes" -name '*.yaml' ! -name kustomization.yaml)
# Where there is a Prometheus; `make prometheus` gets one.
if command -v promtool >/dev/null; then
  check promtool check config --syntax-only "$here/monitoring/prometheus.yml"
  check promtool check rules "$here"/monitoring/rules/*.yaml
  check promtool test rules "$here"/monitoring/tests/*.yaml
fi
exit $failed
