"""A certificate for this machine, signed by itself, for proxies and servers that speak TLS in tests."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from secrets import token_hex

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class Certificate:
    """Where its files are, in PEM. `both` holds the certificate and the key."""

    chain: Path
    key: Path
    both: Path


def certificate(folder: Path, *, days: float = 30, name: str = "localhost") -> Certificate:
    """One that is valid for so many days from now, for `name` and 127.0.0.1."""
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    own = f"{name} {token_hex(4)}"  # several that bear one name are not told apart by those who trust them
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, own)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = Certificate(folder / "feed.crt", folder / "feed.key", folder / "both.pem")
    files.chain.write_bytes(chain)
    files.key.write_bytes(secret)
    files.both.write_bytes(chain + secret)
    return files


def certified(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server on 127.0.0.1 with such a certificate, and for a client that trusts it."""
    files = certificate(folder)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(files.chain, files.key)
    return server, ssl.create_default_context(cafile=files.chain)
