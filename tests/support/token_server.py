"""A token server whose tokens CNCF distribution 2.8 and 3 accept, with `certificate` as their root certificate bundle."""

import base64
import datetime
import json
import tempfile
from pathlib import Path
from typing import Any

import jwt
from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ocikit.testing import tokens


@define(eq=False)
class TokenServer(tokens.TokenServer):
    """A token server that signs with a private key."""

    #: "x5c" sends the certificate in the token's header; "kid" names the key in `jwks`, which only distribution 3 supports
    key_header: str = "x5c"

    folder: Path = field(init=False)
    _private: ec.EllipticCurvePrivateKey = field(init=False, repr=False)
    _certificate: x509.Certificate = field(init=False, repr=False)
    _temporary: Any = field(init=False, repr=False)

    def __attrs_post_init__(self):
        self._temporary = tempfile.TemporaryDirectory(prefix="ocikit-token-")
        self.folder = Path(self._temporary.name)
        self._private = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _certificate(self._private, self.issuer)
        self.certificate.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self.jwks.write_text(json.dumps({"keys": [self._jwk()]}))

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._temporary.cleanup()

    @property
    def certificate(self) -> Path:
        """The registry's root certificate bundle as PEM: `auth.token.rootcertbundle`."""
        return self.folder / "certificate.pem"

    @property
    def jwks(self) -> Path:
        """The same key as a JSON Web Key Set: `auth.token.jwks` of distribution 3."""
        return self.folder / "jwks.json"

    def encode(self, payload: dict[str, Any]) -> str:
        headers = {"kid": self._jwk()["kid"]} if self.key_header == "kid" else {"x5c": [self._x5c()]}
        return jwt.encode(payload, self._private, algorithm="ES256", headers=headers)

    def decode(self, token: str) -> dict[str, Any]:
        return jwt.decode(token, self._private.public_key(), algorithms=["ES256"], audience=self.service)

    def _x5c(self) -> str:
        return base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()

    def _jwk(self) -> dict[str, Any]:
        key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._private.public_key()))
        fingerprint = hashes.Hash(hashes.SHA256())
        fingerprint.update(json.dumps(key, sort_keys=True).encode())
        return key | {"kid": fingerprint.finalize().hex(), "use": "sig", "alg": "ES256"}


def _certificate(key: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
