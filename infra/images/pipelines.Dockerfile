# What runs stages and effects: `cityloop` with all of its extras, git and DVC. Targets: `pipelines` (the default), and
# `worker`, which is that with Airflow's own environment beside it, for Celery workers outside Kubernetes.
# Checked by hadolint. No engine has built this file; the two environments are those that `make` sets up.
# Tags are for reading: the release process pins bases by digest (--build-arg BASE=python@sha256:…).
#
#   docker build -f infra/images/pipelines.Dockerfile -t cityloop-pipelines .
#   docker build -f infra/images/pipelines.Dockerfile -t cityloop-pipelines:cuda --build-arg TORCH_BACKEND=cu128 .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
# cpu, or a CUDA build (cu128 …); torch brings the CUDA libraries, so the base stays the same.
ARG TORCH_BACKEND=cpu
# Versions and hashes are the lock's. Torch, and what it brings of NVIDIA, are not in it: pyproject.toml pins torch.
COPY requirements.lock pyproject.toml ./
RUN uv venv --no-cache /opt/cityloop \
 && uv pip install --no-cache --python /opt/cityloop --compile-bytecode --constraints requirements.lock \
    --torch-backend "$TORCH_BACKEND" \
    --requirements pyproject.toml --extra all --extra s3
COPY README.md LICENSE ./
COPY pipelines ./pipelines
RUN uv pip install --no-cache --python /opt/cityloop --compile-bytecode --no-deps .

FROM build AS airflow
COPY infra/airflow/requirements.lock airflow.lock
RUN uv venv --no-cache /opt/airflow \
 && uv pip install --no-cache --python /opt/airflow --compile-bytecode --require-hashes --requirements airflow.lock

FROM ${BASE} AS base
# Debian's security updates are wanted, so their versions stay open; the base's digest pins the rest.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends git openssh-client tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp cityloop \
 && install -d -o cityloop -g cityloop /var/lib/cityloop /var/lib/store /var/lib/city
COPY --from=build /opt/cityloop /opt/cityloop
# The city as it is where the image is built. A checkout of `live` mounted elsewhere, and CITYLOOP_ROOT, override it.
COPY params.yaml window.yaml retrain.yaml dvc.yaml /opt/city/
ENV PATH=/opt/cityloop/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=true \
    CITYLOOP_ROOT=/opt/city CITYLOOP_STATE=/var/lib/cityloop
WORKDIR /var/lib/cityloop
# By number, for Kubernetes' runAsNonRoot. All that is written goes to /tmp and $CITYLOOP_STATE: the rest may be read-only.
USER 10001:10001

FROM base AS worker
COPY --from=airflow /opt/airflow /opt/airflow
COPY dags /opt/city/dags
# `airflow` is reached by this one name: what stages call `python` stays the project's.
USER 0
RUN ln -s /opt/airflow/bin/airflow /usr/local/bin/airflow && install -d -o cityloop -g cityloop /var/lib/airflow
USER 10001:10001
ENV AIRFLOW_HOME=/var/lib/airflow AIRFLOW__CORE__DAGS_FOLDER=/opt/city/dags AIRFLOW__CORE__LOAD_EXAMPLES=false \
    PYTHONPATH=/opt/city/dags
ENTRYPOINT ["tini", "--", "airflow"]
CMD ["celery", "worker"]

FROM base AS pipelines
# As process 1 a command that has no handler of its own would not hear SIGTERM.
ENTRYPOINT ["tini", "--", "cityloop"]
CMD ["--help"]
