"""The keys that sign and verify tokens, and what tokens of each key may grant.

A key has one algorithm, which follows from the kind of the key: a token's header never chooses it. So a public key can
never be used as a secret, whatever a token says. Errors say what is wrong and never contain the key.
"""

from __future__ import annotations

import base64
import copy
import enum
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

if TYPE_CHECKING:
    from pydantic import SecretStr

MIN_SECRET = 32  # bytes: as long as the hash of HS256 (RFC 7518, 3.2)
MIN_RSA = 2048  # bits (RFC 7518, 3.3)
_MAX_RSA = 16384  # bits: OpenSSL verifies nothing with a larger one
_MAX_FILE = 64 << 10  # bytes: a PEM of the largest RSA key has 3 KB
_REPEATED = 200  # characters of a path that errors repeat
_PATH = re.compile(r"(?:~|\.{1,2})/.*|/[a-z]+/.*|.*\.[a-z]{2,4}", re.DOTALL)

_HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


def one_name(algorithm: str) -> str:
    """Return the name that an algorithm has here: with our keys, EdDSA is what RFC 9864 calls Ed25519."""
    return "EdDSA" if algorithm == "Ed25519" else algorithm


class KeyUse(enum.Enum):
    """The most that tokens of a key may grant, whatever they claim."""

    ALL = enum.auto()
    PUBLISH = enum.auto()
    SUBSCRIBE = enum.auto()


class Key(msgspec.Struct, frozen=True):
    """A key that verifies signatures. `jwk` is bound to one algorithm, and PyJWT accepts no other with it."""

    jwk: jwt.PyJWK
    use: KeyUse = KeyUse.ALL

    @property
    def algorithm(self) -> str:
        """The algorithm of its signatures."""
        return self.jwk.algorithm_name

    def bound_to(self, algorithm: str) -> jwt.PyJWK:
        """Return the key under the name that a token gives the algorithm: PyJWT compares names."""
        if algorithm == self.algorithm:
            return self.jwk
        jwk = copy.copy(self.jwk)
        jwk.algorithm_name = algorithm
        return jwk

    @property
    def id(self) -> str | None:
        """The key's name in its JWK Set (`kid`)."""
        name: object = self.jwk.key_id
        return name if isinstance(name, str) else None


class _Hmac(HMACAlgorithm):
    """HMAC with a secret that was checked with the settings. PyJWT would check it again with each token, and warn on
    standard error of 32 bytes for HS384 and HS512, where they are enough: a longer hash does not make a key weaker."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: bytes) -> None:
        return None


def secret_keys(secret: str, use: KeyUse = KeyUse.ALL) -> list[Key]:
    """Return a key for each algorithm of a secret."""
    value = base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
    keys = []
    for name, hash in _HASHES.items():
        jwk = jwt.PyJWK({"kty": "oct", "k": value}, algorithm=name)
        jwk.Algorithm = _Hmac(hash)
        keys.append(Key(jwk, use))
    return keys


def public_key_of(pem: str, use: KeyUse = KeyUse.ALL) -> Key:
    """Return the key in a PEM that `check_public_key` has accepted."""
    return Key(_jwk(_load_public(pem)), use)


def check_secret(secret: SecretStr) -> SecretStr:
    """Return the secret. Raises `ValueError` for one that is too short, or not a secret."""
    value = secret.get_secret_value()
    if "-----BEGIN" in value:
        raise ValueError(
            "is a key or certificate in PEM, not a secret: a public key goes into the setting for public keys"
        )
    if len(value.encode()) < MIN_SECRET:
        raise ValueError(f"is too short: a secret has at least {MIN_SECRET} bytes; make one with: openssl rand -hex 32")
    try:
        HMACAlgorithm(hashlib.sha256).prepare_key(value)
    except jwt.InvalidKeyError:
        raise ValueError("is a key or certificate, not a secret") from None
    return secret


def check_public_key(value: str) -> str:
    """Return the PEM of a public key that is given as PEM, or as the path of a file with one. Raises `ValueError`."""
    pem = _pem(value)
    _load_public(pem)
    return pem


def load_private_key(pem: str) -> PrivateKey:
    """Return the private key in a PEM. Raises `ValueError`, also for a kind that the server cannot verify."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        raise ValueError("is encrypted: give a key without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        if "-----BEGIN PUBLIC KEY" in pem:
            raise ValueError("is a public key: tokens are signed with the private key") from None
        raise ValueError("is not a private key in PEM") from None
    match key:
        case RSAPrivateKey() | EllipticCurvePrivateKey() | Ed25519PrivateKey():
            _algorithm(key.public_key())
            return key
    raise ValueError(_WRONG_KIND)


def signing_algorithm(key: PrivateKey) -> str:
    """Return the algorithm of tokens that this key signs."""
    return _algorithm(key.public_key())


_WRONG_KIND = "is of a kind that is not supported: use RSA of at least 2048 bits, EC on the curve P-256, or Ed25519"


def _pem(value: str) -> str:
    if "-----BEGIN" in value:
        # A file whose values cannot hold line breaks, such as .env, writes them as \n.
        return value.replace("\\n", "\n")
    try:
        return read_pem(Path(value))
    except ValueError as error:
        # The value is quoted only where it is hardly a secret that was put in the wrong place.
        named = f" {value[:_REPEATED]!r}" if _PATH.fullmatch(value) else ""
        raise ValueError(f"is not a PEM, and as a file{named} {error}") from None


def read_pem(file: Path) -> str:
    """Return the text of a file. Raises `ValueError` for one that cannot be read, or is too large for a PEM."""
    try:
        with file.open("rb") as source:
            text = source.read(_MAX_FILE + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError("cannot be read: it is not a file name") from None
    if len(text) > _MAX_FILE:
        raise ValueError("is too large for a key")
    return text.decode("ascii", "replace")


def _load_public(pem: str) -> PublicKey:
    if "PRIVATE KEY-----" in pem:
        raise ValueError(
            "is a private key: the server needs only the public one (openssl pkey -in KEY -pubout), "
            "and whoever has the private one can let anyone in"
        )
    if "-----BEGIN CERTIFICATE" in pem:
        raise ValueError("is a certificate: give its public key (openssl x509 -in CERTIFICATE -noout -pubkey)")
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no public key in PEM (-----BEGIN PUBLIC KEY-----)") from None
    match key:
        case RSAPublicKey() | EllipticCurvePublicKey() | Ed25519PublicKey():
            _algorithm(key)
            return key
    raise ValueError(_WRONG_KIND)


def _algorithm(key: object) -> str:
    """Return the algorithm of a public key. Raises `ValueError` for a kind that is not supported."""
    match key:
        case RSAPublicKey() if MIN_RSA <= key.key_size <= _MAX_RSA:
            return "RS256"
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return "ES256"
        case Ed25519PublicKey():
            return "EdDSA"
    raise ValueError(_WRONG_KIND)


def _jwk(key: PublicKey) -> jwt.PyJWK:
    members: dict[str, Any]
    match key:
        case RSAPublicKey():
            members = RSAAlgorithm.to_jwk(key, as_dict=True)
        case EllipticCurvePublicKey():
            members = ECAlgorithm.to_jwk(key, as_dict=True)
        case _:
            members = OKPAlgorithm.to_jwk(key, as_dict=True)
    return jwt.PyJWK(members, algorithm=_algorithm(key))


def checked_jwk(members: dict[str, Any]) -> jwt.PyJWK:
    """Return a public key out of a JWK Set. Raises `ValueError` or `jwt.PyJWTError` for one that is not accepted: a
    secret, a private key (which everyone can have seen), and a key for an algorithm that is not supported."""
    algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}.get(str(members.get("kty")))
    if algorithm is None or one_name(str(members.get("alg", algorithm))) != algorithm:
        raise ValueError(_WRONG_KIND)
    try:
        jwk = jwt.PyJWK(members, algorithm=algorithm)
    except (TypeError, LookupError, ArithmeticError):  # PyJWT does not check the types of members
        raise ValueError("a member has the wrong type") from None
    _algorithm(jwk.key)  # raises for all but public keys
    return jwk
