"""Settings: one table of name, type, default and help. Flag > environment > file > default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "tidemill"


def config_files() -> list[Path]:
    """Where settings files are looked for; the later one wins."""
    if home := os.environ.get("TIDEMILL_HOME"):
        user = Path(home) / "config.toml"
    else:
        user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tidemill" / "config.toml"
    return [user, Path("tidemill.toml")]


class Settings(BaseSettings):
    """Every setting; the environment variable is `TIDEMILL_` and the name in capitals."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(env_prefix="TIDEMILL_", extra="forbid")

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
        Field(description="URL of the job store, such as postgresql://user@host/tidemill; by default SQLite in home."),
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
            description="Folders that jobs sent with an API key may read and write; by default none but uploads"
            " and managed results. Without keys, on loopback, everything."
        ),
    ] = None
    model_hosts: Annotated[
        list[str],
        Field(
            description="Hosts on private networks that models may be fetched from with an API key; by default only"
            " the public internet."
        ),
    ] = []
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
    rate_currency: Annotated[str, Field(description="Currency of the rate card.")] = "USD"
    rate_cpu_hour: Annotated[float, Field(ge=0, description="Price of an hour of one CPU.")] = 0.0
    rate_gb_read: Annotated[float, Field(ge=0, description="Price of 10^9 bytes of input.")] = 0.0
    rate_gb_written: Annotated[float, Field(ge=0, description="Price of 10^9 bytes of output.")] = 0.0
    rate_job: Annotated[float, Field(ge=0, description="Price of a job.")] = 0.0

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
