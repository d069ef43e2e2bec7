"""infra/ against the code it is about: no engine runs here, so what can be held against something is."""

import ast
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import kubernetes_validate
import pytest
import requests
import yaml

from pipelines.__main__ import main
from pipelines.serve.health import Health

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
IMAGES = sorted((INFRA / "images").glob("*.Dockerfile"))
MANIFESTS = sorted(p for p in (INFRA / "kubernetes").glob("*.yaml") if p.name != "kustomization.yaml")
AIRFLOW = next((ROOT / ".venv-airflow/lib").glob("python3*/site-packages/airflow"), None)
SECRET = re.compile(r"PASSWORD|SECRET|FERNET|JWT|SQL_ALCHEMY|BROKER_URL|RESULT_BACKEND|ACCESS_KEY")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([INFRA / "lint.sh", folder], capture_output=True, text=True, check=False)


MISTAKES = [
    ("images/serving.Dockerfile", "USER 10001:10001", "USER root", "DL3002"),
    ("images/pipelines.Dockerfile", "uv==0.13.9", "uv", "DL3013"),
    ("compose.yaml", "restart: unless-stopped", "restarts: unless-stopped", "'restarts' was unexpected"),
    ("kubernetes/promoter.yaml", "  replicas: 1", "  replicas: 1\n  replicas: 2", 'duplication of key "replicas"'),
    ("airflow/values.yaml", "jwtSecretName", "jwtSecret", "'jwtSecretName' is a required property"),
    ("airflow/values.yaml", "  gitSync:", "  gitsync:", "'gitsync' was unexpected"),
    ("kubernetes/serving.yaml", "livenessProbe", "livelinessProbe", "'livelinessProbe' was unexpected"),
    ("kubernetes/training.yaml", "completions: 2", "completions: two", "'two' is not of type"),
    ("kubernetes/pod.yaml", "restartPolicy: Never", "restartPolicy: 0", "0 is not of type"),
]


def test_lint_refuses_every_kind_of_mistake(tmp_path: Path) -> None:
    copy = shutil.copytree(INFRA, tmp_path / "infra", ignore=shutil.ignore_patterns("stack", "__pycache__"))
    for file, old, new, _ in MISTAKES:
        text = (copy / file).read_text()
        assert old in text
        (copy / file).write_text(text.replace(old, new, 1))
    done = lint(copy)
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    for file, _, _, complaint in MISTAKES:
        assert f"/{file}" in said
        assert complaint in said
    for linter in ("yamllint", "hadolint", "check-jsonschema", "kubernetes-validate"):
        assert f"{linter} refuses it" in said


def test_lint_lets_it_pass_as_it_is() -> None:
    done = lint(INFRA)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", [*IMAGES, INFRA / "compose.yaml", INFRA / "airflow/values.yaml", *MANIFESTS], ids=str)
def test_each_file_says_what_was_not_run(path: Path) -> None:
    head = "".join(line for line in path.read_text().splitlines(keepends=True)[:12] if line.startswith("#"))
    assert re.search(r"[Nn]o\s+(#\s+)?(engine|cluster) has", head)


# Images


def instructions(path: Path) -> list[str]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("path", IMAGES, ids=lambda p: p.name)
def test_images_copy_what_is_there_and_let_in(path: Path) -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in instructions(path):
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == name or source.startswith(f"{name}/") for name in let_in), source


@pytest.mark.parametrize("path", IMAGES, ids=lambda p: p.name)
def test_images_end_as_a_numbered_user_and_keep_no_secret(path: Path) -> None:
    lines = instructions(path)
    assert re.fullmatch(r"USER [1-9]\d*:\d+", [line for line in lines if line.startswith("USER")][-1])
    assert not [line for line in lines if line.startswith(("ENV", "ARG")) and SECRET.search(line)]


def test_what_is_installed_is_locked() -> None:
    for path in IMAGES:
        for line in instructions(path):
            if "uv pip install" in line and "--no-deps ." not in line:
                assert "--constraints requirements.lock" in line or "--require-hashes" in line, line
            if re.search(r"\bRUN pip install", line):
                assert "--require-hashes" in line or re.search(r"install --no-cache-dir uv==", line), line


def test_serving_has_no_torch() -> None:
    (line,) = [each for each in instructions(INFRA / "images/serving.Dockerfile") if "--extra" in each]
    assert re.sub(r"\$\{SIGN:\+--extra sign\}", "", line).split("--extra")[1:] == [" serve "]


# Commands


def takes(words: list[str]) -> None:
    """Raises click.UsageError for words that `cityloop` does not take."""
    root = main.make_context("cityloop", list(words), resilient_parsing=False)
    name, command, rest = main.resolve_command(root, words)
    assert command is not None
    command.make_context(name, list(rest), parent=root)


def containers(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = pod(document)
    if spec:
        yield from spec.get("initContainers", [])
        yield from spec["containers"]


def pod(document: dict[str, Any]) -> dict[str, Any] | None:
    if document["kind"] == "Pod":
        return cast(dict[str, Any], document["spec"])
    template = document.get("spec", {}).get("template")
    return cast(dict[str, Any], template["spec"]) if template else None


def manifests() -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


def compose() -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load((INFRA / "compose.yaml").read_text()))


def test_commands_are_taken() -> None:
    said = [c["args"] for document in manifests() for c in containers(document) if "args" in c]
    services = compose()["services"]
    said += [services[name]["command"] for name in ("promoter", "exporter")]
    for path in IMAGES:
        for line in instructions(path):
            if line.startswith("CMD") and ("serving" in path.name or "--help" in line):
                said.append(yaml.safe_load(line.removeprefix("CMD ")))
    assert len(said) == 7
    for words in said:
        if words != ["--help"]:
            takes([str(word) for word in words])
    with pytest.raises(click.UsageError):
        takes(["promote", "--wacth"])


def test_commands_in_scripts_are_taken() -> None:
    scripts = [" ".join(c.get("command", [])) for document in manifests() for c in containers(document)]
    scripts += [str(service.get("command", "")) for service in compose()["services"].values()]
    found = [m for script in scripts for m in re.findall(r"(?:cityloop|python -m pipelines) ([a-z][^\n'\]]*)", script)]
    assert {words.split()[0] for words in found} == {"deploy", "run-stage", "pretrain"}
    for words in found:
        takes(re.sub(r'"|\$', "", words).split())


def test_probes_ask_what_the_server_answers() -> None:
    health = Health(cast(Any, None), cast(Any, None))
    probes = [
        c[name]["httpGet"]["path"]
        for document in manifests()
        for c in containers(document)
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
        if name in c
    ]
    probes += re.findall(r"8080(/\w+)'", (INFRA / "images/serving.Dockerfile").read_text())
    assert len(probes) == 5
    for path in probes:
        assert health(cast(Any, SimpleNamespace(scope={"path": path, "method": "GET"}, route=""))) is not None


# Airflow's settings


def options() -> set[tuple[str, str]]:
    """(section, key) of Airflow's own settings and those of the providers that its lock holds."""
    if AIRFLOW is None:
        pytest.skip("no .venv-airflow; make setup-airflow")
    providers = AIRFLOW.glob("providers/**/get_provider_info.py")
    described = [runpy.run_path(str(path))["get_provider_info"]().get("config") or {} for path in providers]
    described.append(yaml.safe_load((AIRFLOW / "config_templates/config.yml").read_text()))
    return {(section, key) for each in described for section, block in each.items() for key in block["options"]}


def test_airflow_knows_the_settings() -> None:
    known = options()
    config = yaml.safe_load((INFRA / "airflow/values.yaml").read_text())["config"]
    given = {(section, key) for section, block in config.items() for key in block}
    texts = [(INFRA / "compose.yaml").read_text(), *(path.read_text() for path in IMAGES)]
    for name in {name for text in texts for name in re.findall(r"AIRFLOW__([A-Z_]+)\b", text)}:
        section, _, key = name.lower().partition("__")
        given.add((section, key))
    assert len(given) > 20
    # Celery's transport has options of its own, which Airflow passes on.
    assert {pair for pair in given - known if pair[0] != "celery_broker_transport_options"} == set()


# Compose


def test_compose_has_the_services_of_make_up() -> None:
    services = set(compose()["services"])
    assert {"postgres", "redis", "mlflow", "promoter", "serving", "worker", "exporter", "prometheus"} <= services
    assert {f"airflow-{name}" for name in ("api", "scheduler", "dag-processor", "triggerer")} <= services


def test_compose_has_no_secret_of_its_own() -> None:
    for name, service in compose()["services"].items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key) and "AWS" not in key and not key.endswith(("_FILE", "_USERS")):
                assert "${" in str(value), f"{name}: {key}"
            assert not re.search(r"(PASSWORD|SECRET|KEY)[A-Z_]*:-[^}]", str(value)), f"{name}: {key} has a default"


def test_readme_makes_every_secret_of_compose(tmp_path: Path) -> None:
    wanted = set(re.findall(r"\$\{([A-Z_]+):\?", (INFRA / "compose.yaml").read_text()))
    block = re.search(r"```\n(\(umask.*?> infra/\.env\))\n", (INFRA / "README.md").read_text(), re.DOTALL)
    assert block is not None
    (tmp_path / "infra").mkdir()
    subprocess.run(["bash", "-euc", block[1]], cwd=tmp_path, check=True)
    made = (tmp_path / "infra/.env").read_text()
    names = dict(line.split("=", 1) for line in made.splitlines())
    assert set(names) == wanted
    assert (tmp_path / "infra/.env").stat().st_mode & 0o077 == 0
    assert set(yaml.safe_load(names["AIRFLOW_PASSWORDS"].strip("'"))) == {"admin", "reviewer", "viewer"}


def test_compose_closes_its_services() -> None:
    once = {"city", "airflow-init", "mlflow-users"}
    for name, service in compose()["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert not service["image"].endswith(":latest"), name
        assert ":" in service["image"], name
        assert service["restart"] == ("no" if name in once else "unless-stopped"), name
        # An image of ours that serves has its own; the promoter answers nobody.
        assert "healthcheck" in service or name in {*once, "mlflow", "serving", "promoter"}, name
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == f"service_{'completed_successfully' if other in once else 'healthy'}", name


def test_stack_and_compose_agree_on_mlflow_users() -> None:
    tree = ast.parse((INFRA / "stack/prepare.py").read_text())
    stack = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("ROLES", "PLAYS")
    }
    ours = runpy.run_path(str(INFRA / "mlflow_users.py"))
    assert {name: ours[name] for name in ("ROLES", "PLAYS")} == stack


def test_mlflow_users_on_a_server(tmp_path: Path) -> None:
    """Made once, set again: passwords are those that are told, and nobody but who may writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    config = compose()["configs"]["mlflow-auth"]["content"]
    (tmp_path / "auth.ini").write_text(re.sub(r"postgresql\S+", "sqlite:///auth.db", config))
    environ = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"), "MLFLOW_BACKEND_STORE_URI": "sqlite:///mlflow.db",
        "MLFLOW_ENABLE_WORKSPACES": "true",
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin", "MLFLOW_AUTH_ADMIN_PASSWORD": "a-long-password",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "a-long-password",
    }  # fmt: skip
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
    command += ["--port", url.rpartition(":")[2], "--workers", "1"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not answers(f"{url}/health"):
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.5)
        for given in ("the-first-password", "the-second-password"):
            passwords = {f"MLFLOW_{name}_PASSWORD": given for name in ("SERVICE", "REVIEWER", "VIEWER")}
            subprocess.run([sys.executable, INFRA / "mlflow_users.py"], env=environ | passwords, check=True)
            for name in ("airflow", "reviewer", "viewer"):
                found = requests.get(f"{url}/api/2.0/mlflow/users/get?username={name}", auth=(name, given), timeout=30)
                assert found.status_code == 200, found.text
        model = f"{url}/api/2.0/mlflow/registered-models/create"
        makes = {
            name: requests.post(model, json={"name": name}, auth=(name, given), timeout=30).status_code
            for name in ("airflow", "reviewer", "viewer")
        }
        assert makes == {"airflow": 200, "reviewer": 403, "viewer": 403}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


# Kubernetes


def test_pods_keep_to_the_restricted_profile() -> None:
    found = [spec for document in manifests() if (spec := pod(document))]
    assert len(found) == 5
    for spec in found:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= set(container["resources"])
            assert {m["name"] for m in container["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}


def test_secrets_are_named_and_listed() -> None:
    listed = (INFRA / "README.md").read_text()
    named = set(
        re.findall(r"secret(?:Ref: \{name|Name|s: \{name): ([a-z-]+)", "".join(p.read_text() for p in MANIFESTS))
    )
    named |= set(
        re.findall(r"[sS]ecret(?:Name|KeySecretName)?: ([a-z-]+)\b", (INFRA / "airflow/values.yaml").read_text())
    )
    assert {"cityloop-store", "cityloop-serving-store", "cityloop-mlflow", "cityloop-git", "airflow-jwt"} <= named
    assert [name for name in sorted(named) if not re.search(rf"\b{name}\b", listed)] == []
    assert not [document for document in manifests() if document["kind"] == "Secret"]


def test_settings_are_those_the_code_reads() -> None:
    code = "".join(p.read_text() for folder in ("pipelines", "dags") for p in (ROOT / folder).rglob("*.py"))
    told = {c["name"] for document in manifests() for k in containers(document) for c in k.get("env", [])}
    told |= {name for document in manifests() if document["kind"] == "ConfigMap" for name in document["data"]}
    told |= set(re.findall(r"^ +(CITYLOOP_[A-Z_]+):", (INFRA / "compose.yaml").read_text(), re.MULTILINE))
    told |= set(re.findall(r"CITYLOOP_[A-Z_]+", (INFRA / "airflow/values.yaml").read_text()))
    ours = {name for name in told if name.startswith("CITYLOOP_")}
    assert len(ours) >= 8
    assert [name for name in sorted(ours) if name not in code] == []


def test_kustomization_names_every_manifest_that_runs_by_itself() -> None:
    kustomization = yaml.safe_load((INFRA / "kubernetes/kustomization.yaml").read_text())
    apart = {"pod.yaml", "training.yaml"}
    assert set(kustomization["resources"]) == {path.name for path in MANIFESTS} - apart
    used = {c["image"] for document in manifests() if document["kind"] == "Deployment" for c in containers(document)}
    assert {image["name"] for image in kustomization["images"]} == used


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl to render it with")
def test_kustomization_renders() -> None:
    command = ["kubectl", "kustomize", INFRA / "kubernetes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kinds = [document["kind"] for document in yaml.safe_load_all(done.stdout)]
    assert kinds.count("Deployment") == 3
    assert "HorizontalPodAutoscaler" in kinds


def test_the_pod_is_one_that_airflow_finds_its_command_in() -> None:
    (document,) = yaml.safe_load_all((INFRA / "kubernetes/pod.yaml").read_text())
    assert [c["name"] for c in document["spec"]["containers"]] == ["base"]
    assert document["spec"]["restartPolicy"] == "Never"
    role = next(d for d in manifests() if d["kind"] == "Role")
    assert {"pods", "pods/log", "pods/exec"} <= {name for rule in role["rules"] for name in rule["resources"]}


COMPLETED = """
import json, os, sys
connection, kube_config = (json.loads(each) for each in sys.argv[1:])
assert connection["extra"].pop("in_cluster") is True
connection["extra"]["kube_config"] = json.dumps(kube_config)
os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"] = json.dumps(connection)
from airflow.sdk import DAG
from cityloop_airflow.command import command
from kubernetes.client import ApiClient
with DAG("d", schedule=None):
    made = [command(room, "run-stage", room + "@x", "--run", "r") for room in ("finetune", "evaluate")]
print(json.dumps(ApiClient().sanitize_for_serialization([each.build_pod_request_obj() for each in made])))
"""


def test_the_pod_as_the_dags_complete_it(tmp_path: Path) -> None:
    """By Airflow's own operator, with the connection that the chart's values give it; no cluster is asked."""
    if AIRFLOW is None:
        pytest.skip("no .venv-airflow; make setup-airflow")
    values = yaml.safe_load((INFRA / "airflow/values.yaml").read_text())
    (connection,) = [e["value"] for e in values["env"] if e["name"] == "AIRFLOW_CONN_KUBERNETES_DEFAULT"]
    kube = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    environ = os.environ | {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "dags")}
    environ |= {"CITYLOOP_RUNNER": "kubernetes", "CITYLOOP_ROOT": str(ROOT)}
    command = [ROOT / ".venv-airflow/bin/python", "-c", COMPLETED, connection, json.dumps(kube)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    gpu, cpu = json.loads(done.stdout.splitlines()[-1])
    for document in (gpu, cpu):
        kubernetes_validate.validate(document, "1.34", strict=True)
        assert document["metadata"]["namespace"] == "cityloop"
        command_of, sidecar = document["spec"]["containers"]
        assert command_of["name"] == "base"
        assert command_of["image"].startswith("cityloop-pipelines:")
        for container in (command_of, sidecar):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert gpu["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["spec"]["nodeSelector"]
    assert "nvidia.com/gpu" in [toleration["key"] for toleration in gpu["spec"]["tolerations"]]
    assert gpu["spec"]["containers"][0]["resources"]["requests"]["memory"]
    assert "nvidia.com/gpu" not in cpu["spec"]["containers"][0]["resources"]["limits"]


def test_autoscaler_and_budget_are_about_the_deployment() -> None:
    by_kind = {(d["kind"], d["metadata"]["name"]): d for d in manifests()}
    serving = by_kind["Deployment", "serving"]["spec"]
    labels = serving["template"]["metadata"]["labels"]
    assert "replicas" not in serving, "the autoscaler's to say"
    assert by_kind["HorizontalPodAutoscaler", "serving"]["spec"]["scaleTargetRef"]["name"] == "serving"
    for kind, selector in (("PodDisruptionBudget", "matchLabels"), ("Service", "")):
        found = by_kind[kind, "serving"]["spec"]["selector"]
        assert (found[selector] if selector else found).items() <= labels.items()
    (container,) = serving["template"]["spec"]["containers"]
    assert container["args"][-2:] == ["--threads", str(container["resources"]["limits"]["cpu"])]
    assert by_kind["Deployment", "promoter"]["spec"]["strategy"] == {"type": "Recreate"}
