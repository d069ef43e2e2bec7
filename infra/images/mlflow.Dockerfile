# MLflow's server with its basic-auth, on PostgreSQL: the registry, and the page where people review.
# Checked by hadolint. No engine has built this file; the same versions are what `make up` starts.
# Tags are for reading: the release process pins bases by digest (--build-arg BASE=python@sha256:…).
#
#   docker build -f infra/images/mlflow.Dockerfile -t cityloop-mlflow .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY requirements.lock ./
# Versions and hashes are the lock's.
RUN uv venv --no-cache /opt/mlflow \
 && uv pip install --no-cache --python /opt/mlflow --compile-bytecode --constraints requirements.lock \
    --only-binary :all: 'mlflow[auth]' psycopg2-binary

FROM ${BASE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp mlflow \
 && install -d -o mlflow -g mlflow /var/lib/mlflow
COPY --from=build /opt/mlflow /opt/mlflow
ENV PATH=/opt/mlflow/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
WORKDIR /var/lib/mlflow
USER 10001:10001
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=2)"]
ENTRYPOINT ["mlflow"]
CMD ["server", "--app-name", "basic-auth", "--host", "0.0.0.0", "--port", "5000"]
