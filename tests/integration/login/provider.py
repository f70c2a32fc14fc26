"""An OpenID Connect provider on this machine: it does what the standard says, or what a test wants instead."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from joserfc import jwt
from joserfc.jwk import ECKey, Key, RSAKey

Claims = dict[str, Any]
CLIENT, SECRET = "tidemill", "s3cret/with:odd&letters"
ADA: Claims = {
    "sub": "248289761001",
    "email": "ada@example.org",
    "email_verified": True,
    "preferred_username": "ada",
    "groups": ["ml", "everybody"],
    "realm_access": {"roles": ["scorer"]},
}


@cache
def first_key() -> RSAKey:
    """Made once: it takes a tenth of a second."""
    return RSAKey.generate_key(2048, {"kid": "first"})


class FakeProvider:
    """Whoever comes to it is logged in as `person` at once, without a question."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.person = dict(ADA)
        self.keys: dict[str, Key] = {"first": first_key()}
        self.signs_with = "first"
        self.redirect_urls: list[str] = []
        self.change: Callable[[Claims], Claims] = lambda claims: claims
        """What becomes of the claims before they are signed."""
        self.sign: Callable[[Claims], str] = self._sign
        self.answer: Callable[[dict[str, str]], dict[str, str]] = lambda query: query
        """What becomes of the query that the browser takes back."""
        self.document: dict[str, Any] = {
            "issuer": url,
            "authorization_endpoint": f"{url}/authorize?tenant=1",
            "token_endpoint": f"{url}/token",
            "jwks_uri": f"{url}/keys",
            "end_session_endpoint": f"{url}/logout",
            "authorization_response_iss_parameter_supported": True,
            "id_token_signing_alg_values_supported": ["RS256"],
        }
        self.asked: Counter[str] = Counter()
        self._codes: dict[str, dict[str, str]] = {}

    def rotate(self) -> None:
        """From now on another key signs, and the first one is not told any more."""
        self.keys = {"second": ECKey.generate_key("P-256", {"kid": "second"})}
        self.signs_with = "second"

    def _sign(self, claims: Claims) -> str:
        key = self.keys[self.signs_with]
        algorithm = "RS256" if isinstance(key, RSAKey) else "ES256"
        return jwt.encode({"alg": algorithm, "kid": self.signs_with}, claims, key, algorithms=[algorithm])

    # -- what it answers: (status, headers, document)

    def respond(self, path: str, query: dict[str, str], form: dict[str, str], authorization: str) -> tuple[int, Any]:
        self.asked[path] += 1
        match path:
            case "/.well-known/openid-configuration":
                return 200, self.document
            case "/keys":
                return 200, {"keys": [key.as_dict(private=False) for key in self.keys.values()]}
            case "/authorize":
                return self._authorize(query)
            case "/token":
                return self._token(form, authorization)
        return 404, {"error": "nothing here"}

    def _authorize(self, query: dict[str, str]) -> tuple[int, Any]:
        assert query["redirect_uri"] in self.redirect_urls, query
        assert (query["client_id"], query["response_type"], query["tenant"]) == (CLIENT, "code", "1")
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(8)
        self._codes[code] = query
        back = self.answer({"code": code, "state": query["state"], "iss": self.url})
        return 303, f"{query['redirect_uri']}?{urlencode(back)}"

    def _token(self, form: dict[str, str], authorization: str) -> tuple[int, Any]:
        user, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        given = parse_qs(f"u={user}&p={password}")
        if (given["u"], given["p"]) != ([CLIENT], [SECRET]):
            return 401, {"error": "invalid_client"}
        begun = self._codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if (
            begun is None
            or form["grant_type"] != "authorization_code"
            or form["redirect_uri"] != begun["redirect_uri"]
            or challenge.decode() != begun["code_challenge"]
        ):
            return 400, {"error": "invalid_grant", "error_description": "This code is not valid."}
        now = int(time.time())
        claims = {**self.person, "iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": begun["nonce"]}
        return 200, {"access_token": "opaque", "token_type": "Bearer", "id_token": self.sign(self.change(claims))}


def visit(url: str) -> httpx2.Response:
    """As a browser without cookies; what makes TLS dear is left out."""
    return httpx2.get(url, verify=False)


@contextmanager
def fake_provider(host: str = "127.0.0.1") -> Iterator[FakeProvider]:
    """It answers until the end of the block; `host` is this machine's name in its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            status, said = fake.respond(parts.path, query, form, self.headers.get("authorization", ""))
            self.send_response(status)
            if status == 303:
                self.send_header("Location", said)
                said = {}
            data = json.dumps(said).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakeProvider(f"http://{host}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
