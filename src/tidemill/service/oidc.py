"""OpenID Connect: the authorization code flow with PKCE, and ID tokens that are believed only after every check.

Of a provider nothing is needed but its issuer: the rest is in its discovery document. Both that and the
provider's keys are kept for an hour; a token signed by an unknown key makes them be asked for again.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import ssl
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote_plus

import httpx2
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from tidemill.domain.errors import InvalidSpec, NotAuthenticated
from tidemill.domain.login import Person
from tidemill.service.provider import Attempt, Provider

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
"""Only those with a private and a public key: never `none`, and no secret that could be the public key."""

SKEW_SECONDS = 60
KEPT_SECONDS = 3600.0
REFETCH_SECONDS = 30.0
"""So often at most an unknown key makes the keys be fetched again."""
ANSWER_SECONDS = 10.0
MAX_ANSWER_BYTES = 1 << 20
MAX_AT_ONCE = 8
"""A provider that hangs holds no more threads of this server."""
MAX_NAME = 200
MAX_GROUPS = 2000

_AGAIN = "Try again; if it stays so, tell the operator of this service."

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Client:
    """What this service is to the provider, and which claims it goes by."""

    issuer: str
    client_id: str
    client_secret: str | None
    """None: a public client, which PKCE alone proves."""
    redirect_url: str
    home_url: str
    scopes: tuple[str, ...]
    name_claim: str
    groups_claim: str


class OidcProvider(Provider):
    """One provider. Thread-safe."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not is_safe(client.issuer):
            raise InvalidSpec(
                f"The issuer {client.issuer!r} in `oidc_issuer` has no safe address.",
                remedy="Give its https:// address; http:// only on this machine.",
            )
        self._client, self._clock = client, clock
        self.name = httpx2.URL(client.issuer).host
        self._room = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._guard = threading.Lock()
        self._metadata: _Kept | None = None
        self._keys: _Kept | None = None

    def begin(self) -> tuple[str, Attempt]:
        attempt = Attempt(
            state=secrets.token_urlsafe(24), nonce=secrets.token_urlsafe(24), verifier=secrets.token_urlsafe(48)
        )
        challenge = urlsafe_b64encode(hashlib.sha256(attempt.verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self._client.client_id,
            "redirect_uri": self._client.redirect_url,
            "scope": " ".join(self._client.scopes),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        with self._asking():
            return str(self._place("authorization_endpoint").copy_merge_params(query)), attempt

    def finish(self, attempt: Attempt, answer: Mapping[str, str]) -> Person:
        if not hmac.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
            raise NotAuthenticated("This login was begun somewhere else, or long ago.", remedy="Log in again.")
        with self._asking():
            return self._finish(attempt, answer)

    def logout_url(self) -> str | None:
        try:
            with self._asking():
                place = self._place("end_session_endpoint")
        except NotAuthenticated:
            return None
        words = {"client_id": self._client.client_id, "post_logout_redirect_uri": self._client.home_url}
        return str(place.copy_merge_params(words))

    def _finish(self, attempt: Attempt, answer: Mapping[str, str]) -> Person:
        self._check_issuer(answer)
        if "error" in answer:
            said = _shown(answer.get("error_description") or answer["error"])
            raise NotAuthenticated(f"{self.name} did not log you in: {said}.", remedy=_AGAIN)
        code = answer.get("code")
        if not code:
            raise self._odd("its answer has no code")
        return self._person(self._claims(self._redeem(code, attempt), attempt))

    # -- what the provider says of itself

    def _check_issuer(self, answer: Mapping[str, str]) -> None:
        """By RFC 9207: another provider's answer is not taken to this one."""
        said = answer.get("iss")
        promised = self._document().get("authorization_response_iss_parameter_supported") is True
        if said != self._client.issuer and (said is not None or promised):
            raise self._odd("its answer is another provider's")

    def _document(self) -> dict[str, Any]:
        with self._guard:
            if self._metadata is None or self._metadata.is_old(self._clock()):
                issuer = self._client.issuer
                document = self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
                if document.get("issuer") != issuer:
                    raise self._odd(f"it calls itself {_shown(document.get('issuer'))}, not {issuer}")
                self._metadata = _Kept(document, self._clock())
            return self._metadata.value

    def _place(self, name: str) -> httpx2.URL:
        place = self._document().get(name)
        if not isinstance(place, str) or not is_safe(place):
            raise self._odd(f"it names no usable {name}")
        return httpx2.URL(place)

    def _key_set(self, *, again: bool = False) -> KeySet:
        place = str(self._place("jwks_uri"))
        with self._guard:
            now = self._clock()
            if self._keys is None or self._keys.is_old(now) or (again and now - self._keys.at >= REFETCH_SECONDS):
                self._keys = _Kept(self._get(place), now)
            listed = self._keys.value.get("keys")
        usable = [key for key in listed if _can_sign(key)] if isinstance(listed, list) else []
        try:
            return KeySet.import_key_set({"keys": usable})
        except (JoseError, ValueError, KeyError, TypeError) as exc:
            raise self._odd("it has no keys that can be used") from exc

    # -- the token

    def _redeem(self, code: str, attempt: Attempt) -> str:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._client.redirect_url,
            "client_id": self._client.client_id,
            "code_verifier": attempt.verifier,
        }
        basic = None
        if self._client.client_secret is not None:
            ways = self._document().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
            if "client_secret_basic" in ways:
                basic = _basic(self._client.client_id, self._client.client_secret)
            else:
                form["client_secret"] = self._client.client_secret
        token = self._post(str(self._place("token_endpoint")), form, basic).get("id_token")
        if not isinstance(token, str):
            raise self._odd("it gave no ID token")
        return token

    def _claims(self, token: str, attempt: Attempt) -> dict[str, Any]:
        try:
            try:
                claims = jwt.decode(token, self._key_set(), algorithms=ALGORITHMS).claims
            except InvalidKeyIdError:
                claims = jwt.decode(token, self._key_set(again=True), algorithms=ALGORITHMS).claims
            jwt.JWTClaimsRegistry(
                leeway=SKEW_SECONDS,
                iss={"essential": True, "value": self._client.issuer},
                aud={"essential": True, "value": self._client.client_id},
                nonce={"essential": True, "value": attempt.nonce},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
            ).validate(claims)
        except (JoseError, ValueError) as exc:
            raise self._odd(f"its ID token is not valid ({type(exc).__name__}: {_shown(exc)})") from exc
        # A token for several audiences says to whom it was given.
        party = claims.get("azp")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if party != self._client.client_id and (party is not None or several):
            raise self._odd("its ID token was given to another client")
        return claims

    def _person(self, claims: dict[str, Any]) -> Person:
        claim = self._client.name_claim
        name = claims.get(claim)
        if not isinstance(name, str) or not is_name(name):
            raise self._odd(
                f"its ID token has no usable {claim!r}", "The operator chooses a claim in `oidc_name_claim`."
            )
        if claim == "email" and claims.get("email_verified") is not True:
            raise self._odd(
                f"it has not verified the address {name}",
                "Verify it there; or the operator chooses another claim in `oidc_name_claim`.",
            )
        groups = _find(claims, self._client.groups_claim)
        listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        named = [group for group in listed if isinstance(group, str) and is_name(group)]
        return Person(name=name, groups=frozenset(named[:MAX_GROUPS]), vouched_by=self._client.issuer)

    # -- requests

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Made once: reading the certificates that are trusted takes longer than asking."""
        return httpx2.create_ssl_context()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        if not self._room.acquire(blocking=False):
            raise NotAuthenticated(f"Too many people log in at {self.name} just now.", remedy="Try again soon.")
        try:
            yield
        finally:
            self._room.release()

    def _get(self, url: str) -> dict[str, Any]:
        return self._ask(httpx2.Request("GET", url, headers={"Accept": "application/json"}))

    def _post(self, url: str, form: dict[str, str], basic: httpx2.BasicAuth | None) -> dict[str, Any]:
        return self._ask(httpx2.Request("POST", url, data=form, headers={"Accept": "application/json"}), basic)

    def _ask(self, request: httpx2.Request, basic: httpx2.BasicAuth | None = None) -> dict[str, Any]:
        """Its JSON. Redirects are not followed: what is sent is for this address alone."""
        shown = f"{request.url.scheme}://{request.url.netloc.decode('ascii')}{request.url.path}"
        try:
            with httpx2.Client(verify=self._tls, timeout=ANSWER_SECONDS, follow_redirects=False) as client:
                answer = client.send(request, auth=basic, stream=True)
                body = _bounded(answer, self._clock() + ANSWER_SECONDS, self._clock)
                answer.close()
        except httpx2.HTTPError as exc:
            raise self._odd(f"it does not answer at {shown} ({type(exc).__name__})") from exc
        document = _json(answer, body)
        if answer.status_code != 200 or document is None:
            said = document.get("error_description") or document.get("error") if document else None
            raise self._odd(f"{shown} answered {answer.status_code}" + (f": {_shown(said)}" if said else ""))
        return document

    def _odd(self, what: str, remedy: str = _AGAIN) -> NotAuthenticated:
        log.warning("login at %s failed: %s", self._client.issuer, what)
        return NotAuthenticated(f"You could not be logged in by {self.name}: {what}.", remedy=remedy)


@dataclass(frozen=True)
class _Kept:
    value: dict[str, Any]
    at: float

    def is_old(self, now: float) -> bool:
        return now - self.at > KEPT_SECONDS


def is_safe(url: str) -> bool:
    """Whether what is said there stays between the two: https, or this very machine."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        return False
    return bool(parsed.host) and (
        parsed.scheme == "https" or (parsed.scheme == "http" and parsed.host in ("127.0.0.1", "::1", "localhost"))
    )


def is_name(text: str) -> bool:
    """Whether it can be the name of a person or a group: something to print, and not too long."""
    return 0 < len(text) <= MAX_NAME and text.isprintable() and text == text.strip()


def _can_sign(key: object) -> bool:
    return isinstance(key, dict) and key.get("use", "sig") == "sig"


def _basic(client_id: str, secret: str) -> httpx2.BasicAuth:
    """Both are form-encoded first, as RFC 6749 has it."""
    return httpx2.BasicAuth(quote_plus(client_id), quote_plus(secret))


def _bounded(answer: httpx2.Response, deadline: float, clock: Callable[[], float]) -> bytes:
    body = b""
    for piece in answer.iter_bytes():
        body += piece
        if len(body) > MAX_ANSWER_BYTES or clock() > deadline:
            raise httpx2.ReadError("it says too much, or too slowly")
    return body


def _json(answer: httpx2.Response, body: bytes) -> dict[str, Any] | None:
    try:
        document = httpx2.Response(answer.status_code, content=body).json()
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _find(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by the names that lead to it: "realm_access.roles"."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _shown(said: object) -> str:
    """What somebody else said, to be shown: short and printable."""
    return "".join(letter if letter.isprintable() else " " for letter in str(said))[:MAX_NAME].rstrip(". ")
