"""Settings: one table of name, type, default and help. Flag > environment > file > default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from tidemill.domain.config_files import config_files
from tidemill.domain.errors import InvalidSpec


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "tidemill"


def _credentials_folder() -> Path | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None


_HEADER = r"^[A-Za-z0-9-]{1,100}$"


class LoginRule(BaseModel):
    """Whom to let in, and as what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["viewer", "operator", "admin"]
    tenant: Annotated[str, Field(min_length=1)] = "default"
    user: Annotated[str, Field(min_length=1)] | None = None
    group: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.user is None) == (self.group is None):
            raise ValueError("a rule names either a user (* is everybody) or a group")
        return self


class Settings(BaseSettings):
    """Every setting; the environment variable is `TIDEMILL_` and the name in capitals."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="TIDEMILL_", extra="forbid", hide_input_in_errors=True
    )

    home: Annotated[Path, Field(description="Folder of the job store, on a local disk.")] = Field(
        default_factory=_default_home
    )
    cores: Annotated[int, Field(ge=1, description="Cores to use; by default all that this process may use.")] = Field(
        default_factory=lambda: (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
    )
    memory_share: Annotated[
        float, Field(gt=0, le=1, description="Share of the machine's memory that all scorers may use.")
    ] = 0.8
    lease_seconds: Annotated[
        float | None,
        Field(gt=0, description="After so long without a heartbeat a job may be taken; by default 30, on Postgres 10."),
    ] = None
    heartbeat_seconds: Annotated[
        float | None, Field(gt=0, description="How often a lease is renewed; by default 5, on Postgres 2.")
    ] = None
    stall_seconds: Annotated[
        float,
        Field(gt=0, description="A scorer that says nothing for so long hangs; slow models get more by themselves."),
    ] = 30.0

    store: Annotated[
        str | None,
        Field(
            description="URL of the job store, such as postgresql://user@host/tidemill, or secret:NAME; by default"
            " SQLite in home."
        ),
    ] = None
    host: Annotated[str, Field(description="Address that `serve` listens on; others than loopback need API keys.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(ge=0, le=65535, description="Port that `serve` listens on; 0 takes a free one.")] = 8642
    server: Annotated[
        str | None, Field(description="URL of the service that commands talk to; by default they work here.")
    ] = None
    api_key: Annotated[SecretStr | None, Field(description="API key that commands send to the server.")] = None
    models_dir: Annotated[
        Path | None, Field(description="Where registered models lie; workers on other machines need the same folder.")
    ] = None
    results_dir: Annotated[
        Path | None, Field(description="Where the service keeps results of jobs that name no output.")
    ] = None
    uploads_dir: Annotated[Path | None, Field(description="Where files lie that were sent to the service.")] = None
    data_roots: Annotated[
        list[Path] | None,
        Field(
            description="Folders that jobs sent with an API key may read and write, the same on server and workers; by"
            " default none but uploads and managed results. Without keys, on loopback, everything."
        ),
    ] = None
    model_hosts: Annotated[
        list[str],
        Field(
            description="Hosts on private networks that models may be fetched from with an API key; by default only"
            " the public internet."
        ),
    ] = []
    webhook_hosts: Annotated[
        list[str],
        Field(description="Hosts on private networks that webhooks may lead to; by default only the public internet."),
    ] = []
    webhook_key: Annotated[
        SecretStr | None,
        Field(
            description="What secrets of webhooks are derived from, at least 32 characters; by default the file"
            " webhook.key in home. Servers of one store need the same."
        ),
    ] = None
    model_schemes: Annotated[
        list[Literal["https", "http", "models", "runs"]],
        Field(description="What addresses of models may begin with that come with an API key; by default all four."),
    ] = ["https", "http", "models", "runs"]
    secrets_dir: Annotated[
        Path | None,
        Field(
            description="Folder of secrets, each a file with its name, for values such as secret:NAME; by default what"
            " systemd names in CREDENTIALS_DIRECTORY. A secret may stand in TIDEMILL_SECRET_NAME as well."
        ),
    ] = Field(default_factory=_credentials_folder)
    secret_hosts: Annotated[
        dict[str, list[str]],
        Field(
            description="Secrets that requests with an API key may name, each with the hosts that it may be sent to; by"
            " default none."
        ),
    ] = {}
    gpus: Annotated[int, Field(ge=0, description="GPUs of this machine that jobs may ask for.")] = 0
    jobs_at_once: Annotated[
        int | None, Field(ge=1, description="Jobs that one worker runs at once; by default one for each core.")
    ] = None
    warm_memory_share: Annotated[
        float,
        Field(ge=0, le=1, description="Share of the machine's memory that idle scorers with a model may keep."),
    ] = 0.2
    drain_seconds: Annotated[
        float, Field(ge=0, description="How long a worker that was told to end waits for chunks in flight.")
    ] = 20.0
    result_days: Annotated[float, Field(gt=0, description="How long the service keeps results it manages.")] = 30.0
    job_days: Annotated[float, Field(gt=0, description="How long jobs are remembered after they ended.")] = 180.0
    staging_days: Annotated[
        float, Field(gt=0, description="How long paused and failed jobs can be resumed; then their staging is removed.")
    ] = 7.0
    upload_days: Annotated[float, Field(gt=0, description="How long files that were sent are kept.")] = 7.0
    unfinished_upload_days: Annotated[
        float,
        Field(gt=0, description="How long an upload in several requests can go on after its last byte came."),
    ] = 1.0
    log_days: Annotated[float, Field(gt=0, description="How long logs of jobs are kept.")] = 30.0
    environment_days: Annotated[
        float,
        Field(gt=0, description="How long environments are kept that no registered model asks for and no job used."),
    ] = 30.0
    audit_days: Annotated[float, Field(gt=0, description="How long the audit log is kept.")] = 730.0
    delivery_days: Annotated[
        float, Field(ge=4, description="How long deliveries of webhooks are remembered; they are tried for three days.")
    ] = 30.0
    firing_days: Annotated[
        float,
        Field(
            gt=0, description="How long it is kept what became of due times; a back-fill takes older ones for missing."
        ),
    ] = 730.0
    max_body_bytes: Annotated[int, Field(ge=1024, description="Largest JSON body of a request.")] = 1 << 20
    max_upload_bytes: Annotated[int, Field(ge=1, description="Largest file that may be sent.")] = 1 << 40
    upload_quota_bytes: Annotated[
        int | None,
        Field(
            ge=1, description="How much all uploads of one tenant may take, unfinished ones too; by default no bound."
        ),
    ] = None
    requests_per_minute: Annotated[
        int, Field(ge=1, description="Requests per minute of one API key, unless the key says otherwise.")
    ] = 6000
    public_url: Annotated[
        str | None,
        Field(
            pattern=r"^https?://[^/?#\s]+/?$",
            description="Address by which people reach the pages, such as https://tidemill.example.org: webhooks link"
            " there, and OIDC needs it.",
        ),
    ] = None
    logins: Annotated[
        list[LoginRule],
        Field(
            description="Who may log in, as what: rules of role, tenant (by default `default`), and user or group; the"
            " first that fits counts, user `*` is everybody. Whom no rule names is refused."
        ),
    ] = []
    session_hours: Annotated[float, Field(gt=0, le=8760, description="How long a login at the provider lasts.")] = 12.0
    trusted_proxies: Annotated[
        list[IPvAnyNetwork],
        Field(description="Addresses and networks of proxies that are believed when they say who sends a request."),
    ] = []
    proxy_user_header: Annotated[
        str, Field(pattern=_HEADER, description="Header in which a trusted proxy names the person.")
    ] = "X-Forwarded-User"
    proxy_groups_header: Annotated[
        str | None,
        Field(
            pattern=_HEADER,
            description="Header in which a trusted proxy names the person's groups, with commas between; by default"
            " none is believed.",
        ),
    ] = None
    oidc_issuer: Annotated[
        str | None,
        Field(description="Issuer of the OpenID Connect provider where people log in; its address, exactly."),
    ] = None
    oidc_client_id: Annotated[
        str | None, Field(min_length=1, description="What this service is called at the provider.")
    ] = None
    oidc_client_secret: Annotated[
        SecretStr | None,
        Field(description="Its secret there, or secret:NAME; without one it is a public client, by PKCE alone."),
    ] = None
    oidc_scopes: Annotated[
        list[str], Field(description="What is asked of the provider; some want a scope for groups.")
    ] = ["openid", "profile", "email"]
    oidc_name_claim: Annotated[
        str,
        Field(description="Claim of the ID token that rules name users by; an `email` must be verified there."),
    ] = "email"
    oidc_groups_claim: Annotated[
        str,
        Field(description="Claim of the ID token with the person's groups; dots lead inside: realm_access.roles."),
    ] = "groups"
    rate_currency: Annotated[str, Field(description="Currency of the rate card.")] = "USD"
    rate_cpu_hour: Annotated[float, Field(ge=0, description="Price of an hour of one CPU.")] = 0.0
    rate_gb_read: Annotated[float, Field(ge=0, description="Price of 10^9 bytes of input.")] = 0.0
    rate_gb_written: Annotated[float, Field(ge=0, description="Price of 10^9 bytes of output.")] = 0.0
    rate_job: Annotated[float, Field(ge=0, description="Price of a job.")] = 0.0

    def __init__(self, **values: Any) -> None:
        """Raises InvalidSpec that names the settings and not their values: those may be secrets."""
        try:
            super().__init__(**values)
        except ValidationError as exc:
            faults = {".".join(map(str, fault["loc"])): fault["msg"] for fault in exc.errors(include_input=False)}
            told = [(name, message.removeprefix("Value error, ")) for name, message in faults.items()]
            listed = "; ".join(f"{name}: {message}" if name else message for name, message in told[:3])
            raise InvalidSpec(
                f"Settings are not valid. {listed}.",
                remedy=f"Look at TIDEMILL_... in the environment, and at {' and '.join(map(str, config_files()))}.",
            ) from None

    @model_validator(mode="after")
    def _check_logins(self) -> Self:
        if self.oidc_issuer is not None:
            missing = [name for name in ("oidc_client_id", "public_url") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"oidc_issuer needs {' and '.join(missing)}, too")
        if (self.oidc_issuer is not None or self.trusted_proxies) and not self.logins:
            raise ValueError("people could log in, but no rule in `logins` lets anybody in")
        return self

    @property
    def places(self) -> dict[str, Path]:
        """Folders of the service by name, each from its setting or under `home`."""
        return {
            "models": self.models_dir or self.home / "models",
            "results": self.results_dir or self.home / "results",
            "uploads": self.uploads_dir or self.home / "uploads",
            "stdin": self.home / "stdin",
            "logs": self.home / "logs",
            "environments": self.home / "environments",
            "kernels": self.home / "kernels",
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files = TomlConfigSettingsSource(settings_cls, toml_file=config_files())
        return (init_settings, env_settings, files)


def usable_memory_bytes(share: float) -> int:
    """That share of the memory this process may use: the machine's, or its control group's if less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return int(total * share)
