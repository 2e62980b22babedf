"""Verifies JWTs. Lines on stdin: `key KID ALG X [Y]`, then `jwt TEXT`. Prints `ok` or `bad` for each JWT."""
import base64
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


keys = {}
for line in sys.stdin:
    word, *rest = line.split()
    if word == "key":
        kid, alg, x, *y = rest
        if alg == "EdDSA":
            keys[kid] = (alg, ed25519.Ed25519PublicKey.from_public_bytes(decoded(x)))
        else:
            point = ec.EllipticCurvePublicNumbers(
                int.from_bytes(decoded(x), "big"), int.from_bytes(decoded(y[0]), "big"), ec.SECP256R1()
            )
            keys[kid] = (alg, point.public_key())
        continue
    head, claims, signature = rest[0].split(".")
    said = json.loads(decoded(head))
    alg, key = keys[said["kid"]]
    signed = f"{head}.{claims}".encode()
    raw = decoded(signature)
    try:
        assert said["alg"] == alg
        if alg == "EdDSA":
            key.verify(raw, signed)
        else:
            pair = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            key.verify(pair, signed, ec.ECDSA(hashes.SHA256()))
        print("ok")
    except (InvalidSignature, AssertionError):
        print("bad")
