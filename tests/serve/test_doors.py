"""Who is let in: keys by their hashes, tokens by a signature, each for its tasks; nobody by default."""

import datetime as dt
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from served import TASK, Place, Server, arrays, eventually, serving

from pipelines.__main__ import main
from pipelines.core.errors import UserError
from pipelines.serve import keys
from pipelines.serve.app import create_app

ASK = arrays([[1, 2, 3]])
OPEN = ["/", "/livez", "/readyz", "/docs", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready"]
V1, V2 = f"/v1/tasks/{TASK}", f"/v2/models/{TASK}"
CLOSED = ["/v1/tasks", V1, f"{V1}/card", f"{V1}/forecast", V2, f"{V2}/ready", f"{V2}/versions/1"]


@pytest.fixture
def city(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A promoted toy, and nobody let in yet."""
    monkeypatch.setenv("CITYLOOP_STATE", str(place.root / "state"))
    for name in ("CITYLOOP_KEYS", "CITYLOOP_JWKS"):
        monkeypatch.delenv(name, raising=False)
    place.point(place.release())
    return place


@pytest.fixture
def server(city: Place) -> Iterator[Server]:
    keys.add("someone")
    with serving(city, no_auth=False) as server:
        yield server


@pytest.mark.parametrize("path", OPEN)
def test_health_page_and_documentation_are_open(server: Server, path: str) -> None:
    assert server.client().get(path).status == 200


@pytest.mark.parametrize("path", CLOSED)
def test_all_else_needs_a_key(server: Server, path: str) -> None:
    answer = server.client().get(path)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="cityloop"')
    assert "X-API-Key" in answer.error
    assert server.client(authorization="Bearer nonsense").get(path).status == 401
    assert server.client(authorization="Basic c29tZW9uZTo=").get(path).status == 401


def test_a_key_is_sent_in_either_header(city: Place) -> None:
    key = keys.add("bus-app")
    with serving(city, no_auth=False) as server:
        for told in ({"authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"x_api_key": key}):
            assert server.client(**told).predict(ASK).status == 200


def test_a_key_is_for_its_tasks(city: Place) -> None:
    city.point(city.release(task="another"), "another")
    key = keys.add("bus-app", ("another",))
    with serving(city, no_auth=False) as server:
        client = server.client(x_api_key=key)
        eventually(lambda: client.predict(ASK, "another").status == 200)
        assert {client.infer({}).status, client.get(V1).status, client.get(f"{V1}/card").status} == {403}
        assert client.predict(ASK).error == f"this key may not ask '{TASK}'; ask for one that may"
        assert [t["task"] for t in client.get("/v1/tasks").json["tasks"]] == ["another"]


def test_keys_come_and_go_while_the_server_runs(server: Server) -> None:
    key = keys.add("bus-app", days=1)
    client = server.client(x_api_key=key)
    eventually(lambda: client.predict(ASK).status == 200)
    keys.revoke("bus-app")
    eventually(lambda: client.predict(ASK).status == 401)


def test_an_expired_key_is_not_good_any_more(city: Place) -> None:
    key = keys.add("bus-app", days=1)
    path = keys.place()
    entries = json.loads(path.read_text())
    entries[0]["expires"] = (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1.5)).isoformat()
    path.write_text(json.dumps(entries))
    with serving(city, no_auth=False) as server:
        client = server.client(x_api_key=key)
        assert client.predict(ASK).status == 200
        answer = eventually(lambda: (a := client.predict(ASK)).status == 401 and a)
    assert "has expired" in answer.error


def test_a_file_of_keys_that_breaks_leaves_them_as_they_were(server: Server) -> None:
    key = keys.add("bus-app")
    client = server.client(x_api_key=key)
    eventually(lambda: client.predict(ASK).status == 200)
    keys.place().write_text("{half")
    time.sleep(0.3)
    assert client.predict(ASK).status == 200


def test_the_file_holds_hashes_for_its_owner_alone(city: Place) -> None:
    key = keys.add("bus-app", (TASK,), 30)
    path = keys.place()
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (entry,) = keys.listed()
    assert (entry["name"], entry["tasks"]) == ("bus-app", [TASK])
    assert dt.datetime.fromisoformat(entry["expires"]) > dt.datetime.now(dt.UTC) + dt.timedelta(days=29)
    assert len(key) >= 43, "256 bits"


@pytest.mark.parametrize(("words", "said"), [
    (("add", "bus-app"), "has a key already"),
    (("add", "a b"), "cannot be a key's name"),
    (("add",), "whose key?"),
    (("revoke", "nobody"), "no key of nobody"),
])  # fmt: skip
def test_keys_by_command(city: Place, words: tuple[str, ...], said: str) -> None:
    run = CliRunner()
    assert len(run.invoke(main, ["keys", "add", "bus-app"]).output.strip()) >= 43
    assert run.invoke(main, ["keys", "list"]).output.startswith("bus-app")
    refused = run.invoke(main, ["keys", *words])
    assert (refused.exit_code, said in refused.output) == (2, True), refused.output


def test_a_broken_file_of_keys_is_an_error_of_one_line(city: Place) -> None:
    keys.place().parent.mkdir(parents=True, exist_ok=True)
    for text in ("{", '[{"name": "x"}]', '[{"name": "x", "sha256": "00", "tasks": ["*"]}]', "3"):
        keys.place().write_text(text)
        with pytest.raises(UserError, match="not a file of keys"):
            keys.listed()


def test_without_any_key_the_server_does_not_start(city: Place) -> None:
    with pytest.raises(UserError, match="cityloop keys add NAME"):
        create_app(city.store, city.settings(no_auth=False))


def test_letting_everybody_in_is_for_this_machine_alone(city: Place) -> None:
    with pytest.raises(UserError, match="--no-auth lets everybody in"):
        create_app(city.store, city.settings(no_auth=True, host="0.0.0.0"))
    refused = CliRunner().invoke(main, ["-C", str(city.root), "serve", "--no-auth", "--host", "0.0.0.0", "--port", "0"])
    assert (refused.exit_code, "--no-auth lets everybody in" in refused.output) == (2, True)


class Issuer:
    """Signs tokens, and publishes the public keys of its own."""

    def __init__(self, folder: Path) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        self.path = folder / "jwks.json"
        self.publish(self.key, "k1")

    def publish(self, key: Any, kid: str) -> None:
        algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        told = algorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"keys": [told, {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}]}))
        os.utime(new, (time.time(), time.time() + len(kid)))
        new.rename(self.path)

    def token(self, key: Any = None, algorithm: str = "RS256", kid: str | None = "k1", **claims: Any) -> str:
        told = {"sub": "bus-app", "exp": time.time() + 60, "aud": "city", "iss": "https://id", "scope": f"task:{TASK}"}
        told = {k: v for k, v in (told | claims).items() if v is not None}
        return jwt.encode(told, key or self.key, algorithm, headers={"kid": kid} if kid else None)


@pytest.fixture
def issuer(city: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Issuer:
    made = Issuer(tmp_path)
    monkeypatch.setenv("CITYLOOP_JWKS", str(made.path))
    monkeypatch.setenv("CITYLOOP_JWT_AUDIENCE", "city")
    monkeypatch.setenv("CITYLOOP_JWT_ISSUER", "https://id")
    return made


def test_a_token_is_good_for_its_scope(city: Place, issuer: Issuer) -> None:
    with serving(city, no_auth=False) as server:
        for told in ({}, {"scope": "openid task:*"}, {"kid": None}):
            client = server.client(authorization=f"Bearer {issuer.token(**told)}")
            assert (client.predict(ASK).status, client.predict(ASK).status) == (200, 200)
        for scope in ("task:another", "openid", ""):
            client = server.client(authorization=f"Bearer {issuer.token(scope=scope)}")
            assert client.predict(ASK).status == 403


def test_tokens_that_are_not_good(city: Place, issuer: Issuer) -> None:
    other = rsa.generate_private_key(65537, 2048)
    header, claims, signature = issuer.token().split(".")
    bad = {
        "expired": issuer.token(exp=time.time() - 1),
        "for ever": issuer.token(exp=None),
        "for others": issuer.token(aud="village"),
        "of others": issuer.token(iss="https://else"),
        "not yet": issuer.token(nbf=time.time() + 60),
        "another key": issuer.token(other),
        "an unknown key": issuer.token(other, kid="k9"),
        "a shared secret": issuer.token("secret" * 8, "HS256", "shared"),
        "signed with the public key": issuer.token("x" * 64, "HS256"),
        "unsigned": jwt.encode({"exp": time.time() + 60}, None, "none"),
        "cut": f"{header}.{claims}.",
        "changed": f"{header}.{claims[:-4]}AAAA.{signature}",
        "nonsense": "a.b.c",
    }
    with serving(city, no_auth=False) as server:
        for name, token in bad.items():
            answer = server.client(authorization=f"Bearer {token}").predict(ASK)
            assert (name, answer.status, bool(answer.error)) == (name, 401, True)
        assert server.client(authorization=f"Bearer {issuer.token()}").predict(ASK).status == 200


def test_a_token_that_was_good_expires(city: Place, issuer: Issuer) -> None:
    with serving(city, no_auth=False) as server:
        client = server.client(authorization=f"Bearer {issuer.token(exp=time.time() + 1.2)}")
        assert client.predict(ASK).status == 200
        assert eventually(lambda: client.predict(ASK).status == 401)


def test_signing_keys_are_changed_while_the_server_runs(city: Place, issuer: Issuer) -> None:
    new = ec.generate_private_key(ec.SECP256R1())
    with serving(city, no_auth=False) as server:
        old = server.client(authorization=f"Bearer {issuer.token()}")
        client = server.client(authorization=f"Bearer {issuer.token(new, 'ES256', 'new')}")
        assert (old.predict(ASK).status, client.predict(ASK).status) == (200, 401)
        issuer.publish(new, "new")
        eventually(lambda: client.predict(ASK).status == 200)
        assert old.predict(ASK).status == 401, "a token that was remembered goes with its key"


@pytest.mark.parametrize("where", ["http://id.example/jwks", "ftp://id.example/jwks"])
def test_signing_keys_come_from_a_file_or_over_https(city: Place, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("CITYLOOP_JWKS", where)
    with pytest.raises(UserError, match="a file or an https address"):
        create_app(city.store, city.settings(no_auth=False))
