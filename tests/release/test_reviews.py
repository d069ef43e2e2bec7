"""Reviews: what counts is about this very bundle; where proof is asked for, a tag alone does not do."""

import json
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pipelines.core.errors import UserError
from pipelines.release import reviews
from pipelines.release.reviews import Reviews

A, B = "a" * 64, "b" * 64
TASK = "traffic_speed"


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys of ada, bob and Airflow's door; mallory's is nowhere listed."""
    listed = []
    for name in ("ada", "bob", "door", "mallory"):
        private = ec.generate_private_key(ec.SECP256R1()) if name == "bob" else ed25519.Ed25519PrivateKey.generate()
        (tmp_path / f"{name}.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        kind = jwt.algorithms.ECAlgorithm if name == "bob" else jwt.algorithms.OKPAlgorithm
        entry = {**json.loads(kind.to_jwk(private.public_key())), "kid": name}
        if name != "mallory":
            listed.append({**entry, **({"door": True} if name == "door" else {})})
    (tmp_path / "reviewers.json").write_text(json.dumps({"keys": listed}))
    monkeypatch.setenv(reviews.KEYS, str(tmp_path / "reviewers.json"))
    return tmp_path


def approved(name: str, digest: str = A) -> dict[str, str]:
    return dict([reviews.tag(name, "approved", digest)])


def proof(keys: Path, name: str, key: str | None = None, digest: str = A, task: str = TASK) -> dict[str, str]:
    signed = reviews.token(keys / f"{key or name}.pem", name, task, digest, "approved")
    return {f"proof.{name}": signed}


def why(tags: dict[str, str], reviewers: int = 1, authenticated: bool = False) -> str | None:
    return Reviews.of(tags, TASK, A).missing(reviewers, authenticated)


def test_one_approval_of_this_bundle_is_enough() -> None:
    assert why(approved("ada")) is None
    assert why({}) == "0 of 1 approvals"
    assert "ada said" in (why(approved("ada", B)) or ""), "another bundle's approval counts for nothing"
    assert why({"review.ada": "yes please"}) is not None


def test_a_rejection_outweighs_and_says_why() -> None:
    tags = {**approved("ada"), "review.bob": f"rejected:{A}", "review_note": "worse at night"}
    assert why(tags) == "rejected by bob: worse at night"
    assert why({**approved("ada"), "review.bob": f"rejected:{B}"}) is None


def test_two_reviewers_must_prove_who_they_are(keys: Path) -> None:
    both = {**approved("ada"), **approved("bob")}
    assert "ada, bob approved without a token" in (why(both, 2) or "")
    assert why({**both, **proof(keys, "ada"), **proof(keys, "bob")}, 2) is None
    assert "1 of 2 proven" in (why({**both, **proof(keys, "ada")}, 2) or "")


@pytest.mark.parametrize(
    "how",
    ["another's key", "another bundle", "another task", "nobody's key", "garbage", "no algorithm", "another champion"],
)
def test_a_proof_that_proves_something_else_does_not_count(keys: Path, how: str) -> None:
    claims = {"sub": "ada", "task": TASK, "digest": A, "decision": "approved", "champion": "none"}
    forged = {
        "another's key": lambda: proof(keys, "ada", key="bob"),
        "another bundle": lambda: proof(keys, "ada", digest=B),
        "another task": lambda: proof(keys, "ada", task="air_quality"),
        "nobody's key": lambda: proof(keys, "ada", key="mallory"),
        "another champion": lambda: {**proof(keys, "ada"), reviews.CHAMPION: B},
        "garbage": lambda: {"proof.ada": "x.y.z"},
        "no algorithm": lambda: {"proof.ada": jwt.encode(claims, "", algorithm="none", headers={"kid": "ada"})},
    }[how]()
    assert why({**approved("ada"), **forged}, authenticated=True) is not None
    assert why({**approved("ada"), **proof(keys, "ada")}, authenticated=True) is None


def test_a_door_speaks_for_those_who_came_through_it(keys: Path) -> None:
    private = (keys / "door.pem").read_bytes()
    claims = {"sub": "carol", "task": TASK, "digest": A, "decision": "approved", "champion": "none"}
    signed = jwt.encode(claims, private.decode(), algorithm="EdDSA", headers={"kid": "door"})
    assert why({**approved("carol"), "proof.carol": signed}, authenticated=True) is None


def test_a_doors_key_signs_as_the_door(keys: Path) -> None:
    signed = proof(keys, "carol", key="door")
    assert jwt.get_unverified_header(signed["proof.carol"])["kid"] == "door"
    assert why({**approved("carol"), **signed}, authenticated=True) is None
    assert why({**approved("carol"), **proof(keys, "carol", key="ada")}, authenticated=True) is not None


def test_bad_names_and_files_are_one_line(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--as"):
        reviews.tag("a b", "approved", A)
    (keys / "x.pem").write_text("no key")
    with pytest.raises(UserError, match="not a private key"):
        reviews.token(keys / "x.pem", "ada", TASK, A, "approved")
    monkeypatch.setenv(reviews.KEYS, str(keys / "x.pem"))
    with pytest.raises(UserError, match="not a JWKS file"):
        why({**approved("ada"), "proof.ada": reviews.token(keys / "ada.pem", "ada", TASK, A, "approved")}, 1, True)
