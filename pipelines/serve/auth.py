"""Who asks, and what they may: API keys of a file that holds their hashes, or JWTs signed by a key of a JWKS.

keys.json       [{"name": "transport", "sha256": …, "tasks": ["traffic_speed"], "expires": "2026-01-01T00:00:00Z"}]
CITYLOOP_KEYS   another file than `<state>/keys.json`
CITYLOOP_JWKS   a file, or an https address, with the public keys of whoever signs tokens
CITYLOOP_JWT_AUDIENCE, CITYLOOP_JWT_ISSUER   what `aud` and `iss` must be, where set

A token's scope is words such as `task:traffic_speed task:*`. A key may be sent as `X-API-Key` too.
"""

import datetime as dt
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.log import logger
from pipelines.serve.replies import Refusal
from pipelines.serve.settings import LOOPBACK, Settings

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Asymmetric ones alone: whoever can check a token must not be able to make one."""
EVERY = "*"
JWKS_S = 300.0
"""A JWKS at an address is read again so often, and after a token that was signed with an unknown key."""
HASTE_S = 30.0
"""… but not sooner than that."""
TOKENS = 1024
"""Tokens that were found good are remembered, at most so many."""
_CHALLENGE = [(b"www-authenticate", b'Bearer realm="cityloop"')]


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` says it in the logs; `expires` in unix seconds."""

    name: str
    tasks: frozenset[str]
    expires: float | None = None

    def may(self, task: str) -> bool:
        return EVERY in self.tasks or task in self.tasks


ANYONE = Caller("", frozenset({EVERY}))


class Doors:
    """Lets callers in.

    Raises UserError at the start where nobody could be let in, and where everybody would be from other machines.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        self.open = settings.no_auth
        self._path = settings.keys or Path(environ.get("CITYLOOP_KEYS") or settings.state / "keys.json")
        self._jwks = Jwks(environ["CITYLOOP_JWKS"], environ) if environ.get("CITYLOOP_JWKS") else None
        self._keys: dict[str, Caller] = {}
        self._seen: tuple[int, int] | None = None
        if self.open:
            if settings.host not in LOOPBACK:
                raise UserError(f"--no-auth lets everybody in, so it needs --host 127.0.0.1, not {settings.host}")
            return
        if not self._path.exists() and self._jwks is None:
            raise UserError(
                f"{self._path}: no keys, so nobody could ask; make one with `cityloop keys add NAME`, set "
                "CITYLOOP_JWKS, or on this machine alone say --no-auth"
            )
        self._read()
        if self._jwks is not None:
            self._jwks.refresh()

    def admit(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Raises Refusal 401 for whoever cannot say who they are."""
        if self.open:
            return ANYONE
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        token = headers.get(b"x-api-key") or (given.strip() if scheme.lower() == b"bearer" else b"")
        if not token:
            raise Refusal(401, "send a key: `Authorization: Bearer KEY`, or `X-API-Key: KEY`", _CHALLENGE)
        caller = self._keys.get(hashlib.sha256(token).hexdigest())
        if caller is None and self._jwks is not None and token.count(b".") == 2:
            caller = self._jwks.caller(token)
        if caller is None:
            raise Refusal(401, "this key is not known here; ask for one that is", _CHALLENGE)
        if caller.expires is not None and time.time() >= caller.expires:
            raise Refusal(401, "this key has expired; ask for a new one", _CHALLENGE)
        return caller

    def refresh(self) -> None:
        """Read again what changed. What cannot be read leaves things as they are, with a warning."""
        if self.open:
            return
        try:
            self._read()
        except (UserError, OSError) as error:
            logger.warning("keys stay as they were: %s", error)
        if self._jwks is not None:
            try:
                self._jwks.refresh()
            except (UserError, OSError) as error:
                logger.warning("token keys stay as they were: %s", error)

    def _read(self) -> None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._keys, self._seen = {}, None
            return
        seen = (stat.st_mtime_ns, stat.st_ino)
        if seen != self._seen:
            self._seen = seen  # also when it cannot be read: that is said once
            self._keys = {entry["sha256"]: _caller(entry) for entry in read(self._path)}


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of a file of keys. Raises UserError for one that is no such file."""
    try:
        entries = json.loads(path.read_bytes())
        for entry in entries:
            _caller(entry)
            if len(bytes.fromhex(entry["sha256"])) != 32:
                raise ValueError("sha256 must be 64 hexadecimal digits")
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a file of keys ({error}); `cityloop keys add NAME` writes one") from None
    return list(entries)


def _caller(entry: dict[str, Any]) -> Caller:
    expires = None
    if entry.get("expires") is not None:
        until = dt.datetime.fromisoformat(entry["expires"])
        expires = (until if until.tzinfo else until.replace(tzinfo=dt.UTC)).timestamp()
    return Caller(str(entry["name"]), frozenset(map(str, entry["tasks"])), expires)


class Jwks:
    """Checks tokens with the public keys at `where`."""

    def __init__(self, where: str, environ: Mapping[str, str]) -> None:
        if "://" in where and not where.startswith("https://"):
            raise UserError(f"CITYLOOP_JWKS={where}: expected a file or an https address")
        self._where = where
        self._audience, self._issuer = (environ.get(f"CITYLOOP_JWT_{name}") or None for name in ("AUDIENCE", "ISSUER"))
        self._keys: dict[str | None, Any] = {}
        self._good: dict[bytes, Caller] = {}
        self._read_at = -JWKS_S
        self._seen: float | None = None
        self._wanted = False

    def caller(self, token: bytes) -> Caller:
        """Raises Refusal 401 for a token that is not good, with the reason."""
        name = hashlib.sha256(token).digest()
        found = self._good.get(name)
        if found is None:
            found = self._checked(token)
            if len(self._good) >= TOKENS:
                self._good.clear()
            self._good[name] = found
        return found

    def _checked(self, token: bytes) -> Caller:
        import jwt

        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get(kid) or (next(iter(self._keys.values())) if len(self._keys) == 1 and not kid else None)
            if key is None:
                self._wanted = True
                raise Refusal(401, "this token's signing key is not known here (yet); try again", _CHALLENGE)
            claims = jwt.decode(
                token, key, ALGORITHMS, {"require": ["exp"], "verify_aud": self._audience is not None},
                audience=self._audience, issuer=self._issuer,
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise Refusal(401, f"this token is not good: {error}; log in anew", _CHALLENGE) from None
        words = str(claims.get("scope") or "").split()
        tasks = frozenset(word.removeprefix("task:") for word in words if word.startswith("task:"))
        return Caller(str(claims.get("sub") or claims.get("client_id") or "token"), tasks, float(claims["exp"]))

    def refresh(self) -> None:
        """Read the keys again when that is due. Raises UserError or OSError when they cannot be read."""
        if "://" in self._where:
            age = time.monotonic() - self._read_at
            if age < HASTE_S or (age < JWKS_S and not self._wanted):
                return
            self._read_at, self._wanted = time.monotonic(), False
        else:
            changed = os.stat(self._where).st_mtime
            if changed == self._seen:
                return
            self._seen = changed
        self._take(self._bytes())

    def _bytes(self) -> bytes:
        if "://" not in self._where:
            return Path(self._where).read_bytes()
        import urllib.request

        with urllib.request.urlopen(self._where, timeout=5) as answer:  # noqa: S310 - https alone, see above
            return bytes(answer.read(1 << 20))

    def _take(self, data: bytes) -> None:
        from jwt import PyJWK, PyJWTError

        keys: dict[str | None, Any] = {}
        try:
            for entry in json.loads(data)["keys"]:
                if entry.get("kty") in ("RSA", "EC", "OKP") and entry.get("use", "sig") == "sig":
                    keys[entry.get("kid")] = PyJWK.from_dict(entry)
        except (ValueError, TypeError, KeyError, AttributeError, PyJWTError) as error:
            raise UserError(f"{self._where}: not a JWKS ({error})") from None
        if not keys:
            raise UserError(f"{self._where}: holds no public key for signatures")
        self._keys, self._good = keys, {}
