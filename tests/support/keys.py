"""Keys for the tests of tokens: good ones, others of the same kinds, and those that no server may take."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from feed_server.auth.keys import PrivateKey

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
GOOD: dict[str, PrivateKey] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}
OTHER_RSA = rsa.generate_private_key(65537, 2048)
OTHER_EC = ec.generate_private_key(ec.SECP256R1())
OTHER_ED = ed25519.Ed25519PrivateKey.generate()
OTHERS: dict[str, PrivateKey] = {"RS256": OTHER_RSA, "ES256": OTHER_EC, "EdDSA": OTHER_ED}

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # cryptography has its doubts too
    BAD: dict[str, PrivateKeyTypes] = {
        "an RSA key of 1024 bits": rsa.generate_private_key(65537, 1024),
        "another curve": ec.generate_private_key(ec.SECP384R1()),
        "a curve that PyJWT would take with ES256K": ec.generate_private_key(ec.SECP256K1()),
        "Ed448": ed448.Ed448PrivateKey.generate(),
    }


def public(key: PrivateKeyTypes) -> str:
    """The PEM of its public half."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private(key: PrivateKeyTypes, encryption: KeySerializationEncryption | None = None) -> str:
    """The PEM of the key itself."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


def certificate(key: CertificateIssuerPrivateKeyTypes) -> str:
    """One that the key has signed for itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "feed")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
