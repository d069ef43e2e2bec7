"""Signatures of bundles, by the `model-signing` library (OpenSSF Model Signing) with an elliptic-curve key.

openssl ecparam -name prime256v1 -genkey -noout -out sign.pem && openssl ec -in sign.pem -pubout -out verify.pem
"""

import tempfile
from pathlib import Path

from pipelines.core.errors import UserError


def sign(folder: Path, key: Path) -> bytes:
    """A signature over every file of the bundle in `folder` by the private key in PEM file `key`."""
    from model_signing import signing

    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "model.sig"
        try:
            signing.Config().use_elliptic_key_signer(private_key=key).sign(folder, made)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"CITYLOOP_SIGN_KEY={key}: cannot sign with it: {error}; name a PEM file of an EC key"
            ) from None
        return made.read_bytes()


def verify(folder: Path, signature: bytes, key: Path) -> None:
    """Raises UserError unless `signature` is of exactly these bytes and by the owner of public key `key`."""
    from model_signing import verifying

    with tempfile.TemporaryDirectory() as place:
        kept = Path(place) / "model.sig"
        kept.write_bytes(signature)
        try:
            verifying.Config().use_elliptic_key_verifier(public_key=key).verify(folder, kept)
        except Exception as error:  # the library raises whatever its parsers do; none of it is a good signature
            raise UserError(
                f"{folder}: its signature is not good under CITYLOOP_VERIFY_KEY={key}: "
                f"{' '.join(str(error).split())[:200]}; do not serve it, find out who made it"
            ) from None
