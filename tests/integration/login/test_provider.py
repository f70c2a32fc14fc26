"""What a login provider says is believed only after every check: hostile answers over real HTTP."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from tests.integration.login.provider import ADA, CLIENT, SECRET, Claims, FakeProvider, visit
from tidemill.domain.errors import InvalidSpec, NotAuthenticated
from tidemill.domain.login import Person
from tidemill.service import oidc
from tidemill.service.oidc import REFETCH_SECONDS, SKEW_SECONDS, Client, OidcProvider

BACK = "http://127.0.0.1:1/login/provider/back"


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ours(provider: FakeProvider, clock: Callable[[], float] = time.monotonic, **changes: Any) -> OidcProvider:
    provider.redirect_urls.append(BACK)
    words: dict[str, Any] = {
        "issuer": provider.url,
        "client_id": CLIENT,
        "client_secret": SECRET,
        "redirect_url": BACK,
        "home_url": "http://127.0.0.1:1/",
        "scopes": ("openid", "email"),
        "name_claim": "email",
        "groups_claim": "groups",
    }
    return OidcProvider(Client(**{**words, **changes}), clock=clock)


def log_in(client: OidcProvider) -> Person:
    url, attempt = client.begin()
    back = httpx2.URL(visit(url).headers["location"])
    return client.finish(attempt, back.params)


def test_a_person_is_who_the_token_says(provider: FakeProvider) -> None:
    client = ours(provider)
    wanted = Person(name="ada@example.org", groups=frozenset({"ml", "everybody"}), vouched_by=provider.url)
    assert log_in(client) == wanted
    assert log_in(client) == wanted
    assert provider.asked["/keys"] == provider.asked["/.well-known/openid-configuration"] == 1
    assert log_in(ours(provider, groups_claim="realm_access.roles")).groups == {"scorer"}
    assert log_in(ours(provider, groups_claim="nothing.here")).groups == frozenset()
    assert log_in(ours(provider, name_claim="preferred_username")).name == "ada"


def test_names_of_claims_may_hold_dots(provider: FakeProvider) -> None:
    provider.person["https://example.org/groups"] = "ml"
    assert log_in(ours(provider, groups_claim="https://example.org/groups")).groups == {"ml"}


def now(seconds: float) -> int:
    return int(time.time() + seconds)


BAD_CLAIMS: dict[str, Callable[[Claims], Claims]] = {
    "nonce": lambda claims: {**claims, "nonce": "another"},
    "no nonce": lambda claims: {name: value for name, value in claims.items() if name != "nonce"},
    "issuer": lambda claims: {**claims, "iss": "https://evil.example"},
    "audience": lambda claims: {**claims, "aud": "another"},
    "audiences": lambda claims: {**claims, "aud": ["another", "third"], "azp": CLIENT},
    "several audiences, given to nobody": lambda claims: {**claims, "aud": [CLIENT, "another"]},
    "given to another": lambda claims: {**claims, "azp": "another"},
    "expired": lambda claims: {**claims, "exp": now(-SKEW_SECONDS - 5)},
    "no end": lambda claims: {name: value for name, value in claims.items() if name != "exp"},
    "endless": lambda claims: {**claims, "exp": float("nan")},
    "not yet": lambda claims: {**claims, "nbf": now(SKEW_SECONDS + 30)},
    "of tomorrow": lambda claims: {**claims, "iat": now(SKEW_SECONDS + 30)},
    "nobody": lambda claims: {name: value for name, value in claims.items() if name != "sub"},
    "no name": lambda claims: {name: value for name, value in claims.items() if name != "email"},
    "a name of many": lambda claims: {**claims, "email": ["ada@example.org"]},
    "an unprintable name": lambda claims: {**claims, "email": "ada\u202e@example.org"},
    "a long name": lambda claims: {**claims, "email": "a" * 201},
    "an address that nobody verified": lambda claims: {**claims, "email_verified": False},
    "an address that is called verified": lambda claims: {**claims, "email_verified": "true"},
}


@pytest.mark.parametrize("what", BAD_CLAIMS)
def test_a_token_with_other_claims_is_refused(provider: FakeProvider, what: str) -> None:
    provider.change = BAD_CLAIMS[what]
    with pytest.raises(NotAuthenticated, match="could not be logged in"):
        log_in(ours(provider))
    assert provider.asked["/token"] == 1


@pytest.mark.parametrize(
    "claim, seconds", [("exp", -SKEW_SECONDS + 30), ("nbf", SKEW_SECONDS - 30), ("iat", SKEW_SECONDS - 30)]
)
def test_clocks_may_differ_by_a_minute(provider: FakeProvider, claim: str, seconds: float) -> None:
    provider.change = lambda claims: {**claims, claim: now(seconds)}
    assert log_in(ours(provider)).name == ADA["email"]


@pytest.mark.parametrize("words", [{"aud": [CLIENT]}, {"aud": [CLIENT, "another"], "azp": CLIENT}])
def test_a_token_may_name_us_among_others(provider: FakeProvider, words: Claims) -> None:
    """If it was given to us."""
    provider.change = lambda claims: {**claims, **words}
    assert log_in(ours(provider)).name == ADA["email"]


def shared(secret: bytes, claims: Claims) -> str:
    """Signed by hand: the library itself signs by no public key."""
    parts = [json.dumps({"alg": "HS256", "kid": "first"}).encode(), json.dumps(claims).encode()]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.new(secret, signed, "sha256").digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def forged(provider: FakeProvider, how: str, claims: Claims) -> str:
    key = provider.keys["first"]
    assert isinstance(key, RSAKey)
    signed = jwt.encode({"alg": "RS256", "kid": "first"}, claims, key)
    head, body, signature = signed.split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": "first"}).encode()).rstrip(b"=").decode()
    pem = key.as_pem(private=False)
    match how:
        case "none":
            return f"{none}.{body}."
        case "none with a signature":
            return f"{none}.{body}.{signature}"
        case "HS256 with the public key":
            return shared(pem, claims)
        case "HS256 with the key's JSON":
            return shared(json.dumps(key.as_dict(private=False)).encode(), claims)
        case "HS256 with the client's secret":
            return shared(SECRET.encode(), claims)
        case "another key of that name":
            return jwt.encode({"alg": "RS256", "kid": "first"}, claims, RSAKey.generate_key(2048))
        case "a key that it brings":
            own = RSAKey.generate_key(2048)
            return jwt.encode({"alg": "RS256", "jwk": own.as_dict(private=False)}, claims, own)
        case "other claims":
            other = base64.urlsafe_b64encode(json.dumps({**claims, "email": "eve@example.org"}).encode()).rstrip(b"=")
            return f"{head}.{other.decode()}.{signature}"
        case "no signature":
            return f"{head}.{body}."
    return how


@pytest.mark.parametrize(
    "how",
    [
        "none", "none with a signature", "HS256 with the public key", "HS256 with the key's JSON",
        "HS256 with the client's secret", "another key of that name", "a key that it brings", "other claims",
        "no signature", "nonsense", "", "a.b.c",
    ],
)  # fmt: skip
def test_a_forged_token_is_refused(provider: FakeProvider, how: str) -> None:
    provider.sign = lambda claims: forged(provider, how, claims)
    with pytest.raises(NotAuthenticated, match="its ID token is not valid"):
        log_in(ours(provider))
    assert provider.asked["/token"] == 1


def test_a_key_for_something_else_signs_nothing(provider: FakeProvider) -> None:
    provider.keys = {"first": RSAKey.generate_key(2048, {"kid": "first", "use": "enc"})}
    provider.sign = lambda claims: jwt.encode(
        {"alg": "RS256", "kid": "first"},
        claims,
        RSAKey.import_key({**provider.keys["first"].as_dict(private=True), "use": "sig"}),
    )
    with pytest.raises(NotAuthenticated, match="no keys that can be used"):
        log_in(ours(provider))


def test_a_secret_among_its_keys_is_none(provider: FakeProvider) -> None:
    """Or whoever reads it there could sign."""
    provider.keys["shared"] = OctKey.import_key(b"x" * 32, {"kid": "shared"})
    provider.sign = lambda claims: jwt.encode({"alg": "HS256", "kid": "shared"}, claims, provider.keys["shared"])
    with pytest.raises(NotAuthenticated, match="its ID token is not valid"):
        log_in(ours(provider))


def test_new_keys_are_found_but_not_asked_for_all_the_time(provider: FakeProvider) -> None:
    clock = Clock()
    client = ours(provider, clock)
    log_in(client)
    provider.rotate()
    for _ in range(5):
        with pytest.raises(NotAuthenticated, match="InvalidKeyIdError"):
            log_in(client)
    assert provider.asked["/keys"] == 1
    clock.now += REFETCH_SECONDS
    assert log_in(client).name == ADA["email"]
    assert log_in(client).name == ADA["email"]
    assert provider.asked["/keys"] == 2
    clock.now += 2 * oidc.KEPT_SECONDS
    log_in(client)
    assert (provider.asked["/keys"], provider.asked["/.well-known/openid-configuration"]) == (3, 2)


# -- the answer that the browser brings


@pytest.mark.parametrize(
    "change, says",
    [
        ({"state": "another"}, "begun somewhere else"),
        ({"state": ""}, "begun somewhere else"),
        ({"iss": "https://evil.example"}, "another provider's"),
        ({"iss": ""}, "another provider's"),
        ({"code": ""}, "has no code"),
        ({"error": "access_denied"}, "did not log you in: access_denied"),
        ({"error": "x", "error_description": "<b>no\r\n\x1b[31m" + "z" * 999}, "did not log you in: <b>no   "),
    ],
)
def test_an_odd_answer_gets_no_token(provider: FakeProvider, change: dict[str, str], says: str) -> None:
    provider.answer = lambda query: {**query, **change}
    with pytest.raises(NotAuthenticated, match=says) as refused:
        log_in(ours(provider))
    assert provider.asked["/token"] == 0
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()


def test_an_answer_without_its_promised_issuer_gets_no_token(provider: FakeProvider) -> None:
    provider.answer = lambda query: {name: value for name, value in query.items() if name != "iss"}
    with pytest.raises(NotAuthenticated, match="another provider's"):
        log_in(ours(provider))
    assert provider.asked["/token"] == 0
    del provider.document["authorization_response_iss_parameter_supported"]
    assert log_in(ours(provider)).name == ADA["email"]


def test_a_code_is_good_once_and_for_whoever_began(provider: FakeProvider) -> None:
    client = ours(provider)
    url, attempt = client.begin()
    back = httpx2.URL(visit(url).headers["location"]).params
    assert client.finish(attempt, back).name == ADA["email"]
    with pytest.raises(NotAuthenticated, match="answered 400: This code is not valid"):
        client.finish(attempt, back)
    stolen = httpx2.URL(visit(client.begin()[0]).headers["location"]).params
    with pytest.raises(NotAuthenticated, match="This code is not valid"):
        client.finish(attempt, {**stolen, "state": attempt.state})


def test_a_public_client_and_one_that_sends_its_secret_in_the_form(provider: FakeProvider) -> None:
    with pytest.raises(NotAuthenticated, match="answered 401: invalid_client"):
        log_in(ours(provider, client_secret="wrong"))
    forms: list[dict[str, str]] = []
    plain = provider._token

    def seen(form: dict[str, str], authorization: str) -> tuple[int, Any]:
        forms.append({**form, "authorization": authorization})
        quoted = "s3cret%2Fwith%3Aodd%26letters"
        return plain(form, "Basic " + base64.b64encode(f"{CLIENT}:{quoted}".encode()).decode())

    provider._token = seen  # type: ignore[method-assign]
    log_in(ours(provider, client_secret=None))
    provider.document["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    log_in(ours(provider))
    assert [form.get("client_secret") for form in forms] == [None, SECRET]
    assert {form["authorization"] for form in forms} == {""}


# -- the provider itself


@pytest.mark.parametrize(
    "change, says",
    [
        ({"issuer": "https://evil.example"}, "it calls itself https://evil.example"),
        ({"issuer": None}, "it calls itself None"),
        ({"authorization_endpoint": "http://evil.example/authorize"}, "no usable authorization_endpoint"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "no usable authorization_endpoint"),
        ({"token_endpoint": None}, "no usable token_endpoint"),
        ({"jwks_uri": "file:///etc/passwd"}, "no usable jwks_uri"),
        ({"jwks_uri": "{url}/nothing"}, "/nothing answered 404"),
        ({"jwks_uri": "{url}/.well-known/openid-configuration"}, "no keys that can be used"),
    ],
)
def test_a_document_that_is_not_believed(provider: FakeProvider, change: dict[str, str | None], says: str) -> None:
    given = {name: value and value.replace("{url}", provider.url) for name, value in change.items()}
    provider.document.update(given)
    with pytest.raises(NotAuthenticated, match=says):
        log_in(ours(provider))


def test_it_says_where_to_log_out(provider: FakeProvider) -> None:
    client = ours(provider)
    assert client.logout_url() == (
        f"{provider.url}/logout?client_id={CLIENT}&post_logout_redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2F"
    )
    del provider.document["end_session_endpoint"]
    assert ours(provider).logout_url() is None


def test_a_redirect_of_the_token_is_not_followed(provider: FakeProvider) -> None:
    """What is sent there is a secret and a code."""
    plain = provider.respond

    def respond(path: str, *words: Any) -> tuple[int, Any]:
        return (303, f"{provider.url}/elsewhere") if path == "/token" else plain(path, *words)

    provider.respond = respond  # type: ignore[method-assign]
    with pytest.raises(NotAuthenticated, match="/token answered 303"):
        log_in(ours(provider))
    assert provider.asked["/elsewhere"] == 0


@pytest.mark.parametrize("size, says", [(oidc.MAX_ANSWER_BYTES, "ReadError"), (1000, "another|itself")])
def test_an_endless_answer_is_cut_off(provider: FakeProvider, size: int, says: str) -> None:
    provider.document = {"issuer": "another", "more": "x" * size}
    with pytest.raises(NotAuthenticated, match=says):
        ours(provider).begin()


def test_one_that_is_away_is_named(provider: FakeProvider) -> None:
    url = provider.url.rpartition(":")[0] + ":9"
    with pytest.raises(NotAuthenticated, match=r"it does not answer at http://127\.0\.0\.1:9/\.well-known"):
        ours(provider, issuer=url).begin()


@pytest.mark.parametrize(
    "issuer", ["http://login.example.org", "ftp://x", "login.example.org", "https://", "http://[::"]
)
def test_an_issuer_without_a_safe_address_is_refused(provider: FakeProvider, issuer: str) -> None:
    with pytest.raises(InvalidSpec, match="no safe address"):
        ours(provider, issuer=issuer)


def test_a_provider_that_hangs_holds_few_of_our_threads(provider: FakeProvider) -> None:
    client = ours(provider)
    held = [client._asking() for _ in range(oidc.MAX_AT_ONCE)]
    for each in held:
        each.__enter__()
    with pytest.raises(NotAuthenticated, match="Too many people log in"):
        client.begin()
    held.pop().__exit__(None, None, None)
    assert client.begin()
    for each in held:
        each.__exit__(None, None, None)
