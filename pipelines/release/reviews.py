"""Who said yes or no to which bundle: the tags of a model version, read.

    review.<name> = approved:<digest>        or rejected:<digest>; anybody who may tag can write this
    proof.<name>  = <a signed token>         says that <name> is who wrote it

A tag proves no identity. Where a gate asks for proof, an approval counts if its token, a JWT, is signed by a key of the
city's reviewers (CITYLOOP_REVIEWERS: a JWKS file) and says the same: {sub: name, task, digest, decision, champion: the
one that the verdict compared with}. A key speaks
for the person it is named after (`kid`), or for all, as Airflow's door does, where it carries `"door": true`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError

REVIEW, PROOF, NOTE, CHAMPION = "review.", "proof.", "review_note", "verdict.champion"
APPROVED, REJECTED = "approved", "rejected"
KEYS = "CITYLOOP_REVIEWERS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_ALGORITHMS = ("EdDSA", "ES256", "RS256")


@dataclass(frozen=True)
class Reviews:
    """What reviewers said of one digest; `other`: those whose word is about another one, or not readable."""

    approved: tuple[str, ...]
    rejected: tuple[str, ...]
    proven: tuple[str, ...]
    """Of those who approved, whose token is good."""
    other: dict[str, str]
    note: str | None

    @classmethod
    def of(cls, tags: Mapping[str, str], task: str, digest: str) -> "Reviews":
        said: dict[str, list[str]] = {APPROVED: [], REJECTED: []}
        other, proven = {}, []
        for key in sorted(k for k in tags if k.startswith(REVIEW)):
            name, (decision, _, of) = key.removeprefix(REVIEW), tags[key].strip().partition(":")
            if decision in said and of.strip() == digest:
                said[decision].append(name)
                if decision == APPROVED and _proves(tags, name, task, digest):
                    proven.append(name)
            else:
                other[name] = tags[key]
        return cls(tuple(said[APPROVED]), tuple(said[REJECTED]), tuple(proven), other, tags.get(NOTE))

    def missing(self, reviewers: int, authenticated: bool) -> str | None:
        """Why this is no yes; None where it is. Two reviewers or more always need proof, for one could be both."""
        if self.rejected:
            return f"rejected by {', '.join(self.rejected)}{f': {self.note}' if self.note else ''}"
        proof = authenticated or reviewers > 1
        counted = self.proven if proof else self.approved
        if len(counted) >= reviewers:
            return None
        have = f"{len(counted)} of {reviewers} {'proven ' if proof else ''}approvals"
        unproven = sorted({*self.approved} - {*self.proven}) if proof else []
        extra = [f"{', '.join(unproven)} approved without a token that proves it"] if unproven else []
        extra += [f"{name} said {word!r}, which is about another bundle" for name, word in self.other.items()]
        return "; ".join([have, *extra])


def tag(name: str, decision: str, digest: str) -> tuple[str, str]:
    """The tag that says it. Raises UserError for a name that cannot stand in a tag."""
    if not _NAME.fullmatch(name):
        raise UserError(f"--as {name!r}: write a name of letters, digits and _.@-, at most 64")
    return f"{REVIEW}{name}", f"{decision}:{digest}"


def token(key: Path, name: str, task: str, digest: str, decision: str, champion: str = "none") -> str:
    """A proof, signed with the private key in PEM file `key` (Ed25519, P-256 or RSA).

    Its public half is `name`'s, or that of a door among the city's reviewers' keys.
    """
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private: Any = load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{key}: not a private key in PEM that can be read without a password: {error}") from None
    kind = "ES256" if isinstance(private, ec.EllipticCurvePrivateKey) else "EdDSA"
    kind = "RS256" if isinstance(private, rsa.RSAPrivateKey) else kind
    claims = {"sub": name, "task": task, "digest": digest, "decision": decision, "champion": champion}
    public = private.public_key()
    doors = (k["kid"] for k in _keys() if k.get("door") is True and jwt.PyJWK(k).key == public)
    return jwt.encode(claims, private, algorithm=kind, headers={"kid": next(doors, name)})


def _proves(tags: Mapping[str, str], name: str, task: str, digest: str) -> bool:
    proof = tags.get(f"{PROOF}{name}")
    if not proof:
        return False
    import jwt

    try:
        kid = jwt.get_unverified_header(proof).get("kid")
        entry = next((k for k in _keys() if k.get("kid") == kid), None)
        if entry is None or not (kid == name or entry.get("door") is True):
            return False
        key = jwt.PyJWK(entry)
        if key.algorithm_name not in _ALGORITHMS:
            return False
        said = jwt.decode(proof, key, algorithms=[key.algorithm_name], options={"verify_aud": False})
    except jwt.PyJWTError:
        return False
    # A proof that was kept and set again says nothing of a comparison with another champion.
    wanted = {"sub": name, "task": task, "digest": digest, "decision": APPROVED, "champion": tags.get(CHAMPION, "none")}
    return all(said.get(k) == v for k, v in wanted.items())


def _keys() -> list[dict[str, Any]]:
    """The public keys of the city's reviewers. Raises UserError for a file that cannot be read."""
    where = os.environ.get(KEYS)
    if not where:
        return []
    try:
        found: list[dict[str, Any]] = json.loads(Path(where).read_text())["keys"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{KEYS}={where}: not a JWKS file ({{"keys": [...]}}): {error}') from None
    return found
