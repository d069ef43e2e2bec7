# Airflow's own processes: API server, scheduler, DAG processor, triggerer. Its locked environment and dags/, and no
# project code: DAGs only say which `cityloop` command runs, in a pod or on a worker of pipelines.Dockerfile.
# Checked by hadolint. No engine has built this file; the lock is the one of .venv-airflow, on which the tests run.
# Tags are for reading: the release process pins bases by digest (--build-arg BASE=apache/airflow@sha256:…).
#
#   docker build -f infra/images/airflow.Dockerfile -t cityloop-airflow .
ARG BASE=apache/airflow:slim-3.3.2-python3.11

FROM ${BASE}
COPY infra/airflow/requirements.lock /tmp/requirements.lock
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/requirements.lock
COPY params.yaml /opt/city/params.yaml
COPY infra/kubernetes/pod.yaml /opt/city/infra/kubernetes/pod.yaml
COPY dags /opt/city/dags
ENV AIRFLOW__CORE__DAGS_FOLDER=/opt/city/dags AIRFLOW__CORE__LOAD_EXAMPLES=false \
    CITYLOOP_ROOT=/opt/city PYTHONPATH=/opt/city/dags PYTHONDONTWRITEBYTECODE=1
# The base's own user; by number, for Kubernetes' runAsNonRoot.
USER 50000:0
