# A serving replica: `cityloop serve` with the `serve` extra alone; no torch, no MLflow, no compiler, no git.
# Checked by hadolint. Its installation was carried out outside a container, and the server in it started; no engine has
# built this file. Tags are for reading: the release process pins bases by digest (--build-arg BASE=python@sha256:…).
#
#   docker build -f infra/images/serving.Dockerfile -t cityloop-serving .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
# SIGN=1 where CITYLOOP_VERIFY_KEY is set: what verifies signatures comes along.
ARG SIGN=
# Versions and hashes are the lock's; what it does not hold is refused by the check.
COPY requirements.lock pyproject.toml ./
RUN uv venv --no-cache /opt/cityloop \
 && uv pip install --no-cache --python /opt/cityloop --compile-bytecode --constraints requirements.lock \
    --only-binary :all: --requirements pyproject.toml --extra serve ${SIGN:+--extra sign}
COPY README.md LICENSE ./
COPY pipelines ./pipelines
RUN uv pip install --no-cache --python /opt/cityloop --compile-bytecode --no-deps .

FROM ${BASE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp cityloop \
 && install -d -o cityloop -g cityloop /var/lib/cityloop /var/lib/store
COPY --from=build /opt/cityloop /opt/cityloop
ENV PATH=/opt/cityloop/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    CITYLOOP_STATE=/var/lib/cityloop
WORKDIR /var/lib/cityloop
# By number, for Kubernetes' runAsNonRoot. All that is written goes to /tmp and $CITYLOOP_STATE: the rest may be read-only.
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
# The server leaves on SIGTERM by itself, once what is under way is answered.
ENTRYPOINT ["cityloop"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
