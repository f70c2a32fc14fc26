"""Settings: one table of name, type, default and help. Flag > environment > file > default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
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
        float, Field(gt=0, description="After so long without a heartbeat a job may be taken.")
    ] = 30.0
    heartbeat_seconds: Annotated[float, Field(gt=0, description="How often a lease is renewed.")] = 5.0
    stall_seconds: Annotated[
        float,
        Field(gt=0, description="A scorer that says nothing for so long hangs; slow models get more by themselves."),
    ] = 30.0

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
