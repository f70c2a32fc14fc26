"""Settings to a wired context: the only place that picks members."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Thread

from tidemill.bootstrap import early
from tidemill.bootstrap.preloads import JOB_PRELOAD, LOOKUP_PRELOAD, LOOKUPS, PRELOAD, TASKS
from tidemill.config import Settings, usable_memory_bytes
from tidemill.domain.access import Role
from tidemill.domain.config_files import config_files
from tidemill.domain.cost import RateCard
from tidemill.domain.errors import TidemillError
from tidemill.domain.ids import new_id
from tidemill.domain.login import LoginRule, Logins
from tidemill.engine.layout import Compute
from tidemill.engine.worker import Entries
from tidemill.executors.local import LocalExecutor
from tidemill.ports.sink import Sink
from tidemill.ports.store import Store
from tidemill.registry import missing_extra
from tidemill.service import outputs
from tidemill.service.context import Context, Places, Policy, TaskEntries
from tidemill.service.provider import LOGIN_BACK, Provider
from tidemill.service.secrets import Secrets
from tidemill.service.signing import SigningKey
from tidemill.sinks.local import LocalSink
from tidemill.wire.spec import JobSpec

STORE = "tidemill.stores.sql.store"

ENTRIES = Entries(
    identify=f"{TASKS}:identify",
    environment=f"{TASKS}:environment",
    versions=f"{TASKS}:versions",
    plan=f"{TASKS}:plan",
    accelerate=f"{TASKS}:accelerate",
    assemble=f"{TASKS}:assemble",
    scorer="tidemill.bootstrap.scorer:main",
)
TASK_ENTRIES = TaskEntries(
    facts=f"{LOOKUPS}:facts",
    snapshot=f"{TASKS}:snapshot",
    still_planned=f"{TASKS}:still_planned",
    preview=f"{TASKS}:show",
    head=f"{TASKS}:head",
    look=f"{TASKS}:look",
    verify=f"{TASKS}:verify",
    compare=f"{TASKS}:compare",
    fetch_mlflow=f"{TASKS}:fetch_mlflow",
    inspect=f"{TASKS}:inspect",
    sample=f"{TASKS}:sample",
    trial=f"{TASKS}:trial",
    read_result=f"{TASKS}:read_result",
)

SUFFIXES = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl", "arrow": ".arrow", "orc": ".orc", "avro": ".avro"}
COMPRESSION_SUFFIXES = {"gzip": ".gz", "zstd": ".zst"}


def open_sink(spec: JobSpec) -> Sink:
    """The sink for a resolved spec's output."""
    assert spec.output is not None
    options = spec.output.options
    suffix = SUFFIXES.get(spec.output.format, ".parquet")
    if spec.output.format in ("csv", "jsonl"):
        suffix += COMPRESSION_SUFFIXES.get(str(options.get("compression")), "")
    return LocalSink(
        spec.output.path, mode=spec.output.mode, suffix=suffix, single_file=bool(options.get("single_file"))
    )


@contextmanager
def opened(
    settings: Settings | None = None, *, children: bool = True, warm: bool = False, spec: JobSpec | None = None
) -> Iterator[Context]:
    """A context on this machine; its children and connections end with the block.

    Use cases that only ask the store say `children=False`: nothing is started before it is needed. Whoever
    runs one job after another says `warm=True`: scorers are kept for the next one. Whoever is about to run a
    `spec` names it: if its output is there, children are not made ready to work on it before that is asked for; and
    the store is opened when it is needed, while they look at the model.
    """
    settings = settings or Settings()
    warm_bytes = usable_memory_bytes(settings.warm_memory_share) if warm else 0
    finished = spec is not None and _is_finished(spec)
    preload = JOB_PRELOAD if warm else LOOKUP_PRELOAD if finished else PRELOAD
    begun = None if warm or not children else early.taken()
    executor = begun or LocalExecutor(preload=preload, eager=children, warm_bytes=warm_bytes)
    with ExitStack() as ends:
        ends.callback(executor.close)
        if begun is not None:
            begun.preload(preload)
        worker_id = new_id("worker")

        @cache
        def joined() -> tuple[Store, str]:
            store = ends.enter_context(closing(_open_store(settings)))
            return store, store.workers.register(worker_id)

        context = Context(
            joined=joined,
            executor=executor,
            fresh_executor=lambda: LocalExecutor(eager=False),
            open_sink=open_sink,
            entries=ENTRIES,
            tasks=TASK_ENTRIES,
            compute=Compute(
                cores=settings.cores,
                memory_bytes=usable_memory_bytes(settings.memory_share),
                stall_seconds=settings.stall_seconds,
                preload=JOB_PRELOAD,
            ),
            worker_id=worker_id,
            host=socket.gethostname(),
            user=_user(),
            places=Places(**settings.places),
            policy=_policy(settings),
            secrets=_secrets(settings),
            rates=_rates(settings),
            signing=_signing(settings),
            provider=_provider(settings),
        )
        if spec is None:
            joined()  # Whoever is not about to run a spec hears first whether there is a store.
        elif not finished:
            importing = Thread(target=_import_store, name="store")
            importing.start()
            ends.callback(importing.join)
        yield context


def _is_finished(spec: JobSpec) -> bool:
    """Whether something was published at a spec's output. What is wrong with the spec is for the use case to say."""
    if spec.output is None:
        return False
    with suppress(TidemillError):
        resolved = spec.model_copy(update={"output": outputs.resolve(spec.output)})
        return open_sink(resolved).look().manifest is not None
    return False


@contextmanager
def opened_store(settings: Settings | None = None, *, upgrade: bool) -> Iterator[Store]:
    """The store alone, for commands about it; without `upgrade` one with an older schema is refused."""
    settings = settings or Settings()
    with closing(_open_store(settings, upgrade=upgrade)) as store:
        yield store


def _import_store() -> None:
    """What opens a store, imported while others wait for children: SQLAlchemy takes as long as they do."""
    with suppress(Exception):  # Whoever opens the store will see.
        import_module(STORE)


def _open_store(settings: Settings, *, upgrade: bool = True) -> Store:
    module = import_module(STORE)
    url = None if settings.store is None else _secrets(settings).resolved(settings.store)
    store: Store = module.open_store(
        url or settings.home,
        home=settings.home,
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        upgrade=upgrade,
    )
    return store


def _policy(settings: Settings) -> Policy:
    return Policy(
        data_roots=None if settings.data_roots is None else tuple(path.resolve() for path in settings.data_roots),
        kept_folders=_kept_folders(settings),
        result_days=settings.result_days,
        job_days=settings.job_days,
        staging_days=settings.staging_days,
        upload_days=settings.upload_days,
        unfinished_upload_days=settings.unfinished_upload_days,
        log_days=settings.log_days,
        environment_days=settings.environment_days,
        audit_days=settings.audit_days,
        delivery_days=settings.delivery_days,
        firing_days=settings.firing_days,
        max_upload_bytes=settings.max_upload_bytes,
        upload_quota_bytes=settings.upload_quota_bytes,
        requests_per_minute=settings.requests_per_minute,
        model_schemes=tuple(settings.model_schemes),
        model_hosts=tuple(host.lower() for host in settings.model_hosts),
        webhook_hosts=tuple(host.lower() for host in settings.webhook_hosts),
        logins=_logins(settings),
        public_url=None if settings.public_url is None else settings.public_url.rstrip("/"),
    )


def _signing(settings: Settings) -> SigningKey:
    given = settings.webhook_key
    return SigningKey(settings.home / "webhook.key", None if given is None else given.get_secret_value())


def _kept_folders(settings: Settings) -> tuple[Path, ...]:
    secrets = [] if settings.secrets_dir is None else [settings.secrets_dir]
    config = [file for file in config_files() if file.exists()]
    return tuple(path.absolute() for path in (settings.home, *settings.places.values(), *secrets, *config))


def _secrets(settings: Settings) -> Secrets:
    return Secrets(folder=settings.secrets_dir, hosts=settings.secret_hosts)


def _logins(settings: Settings) -> Logins | None:
    if settings.oidc_issuer is None and not settings.trusted_proxies:
        return None
    return Logins(
        rules=tuple(
            LoginRule(role=Role(rule.role), tenant=rule.tenant, user=rule.user, group=rule.group)
            for rule in settings.logins
        ),
        session_hours=settings.session_hours,
        trusted_proxies=tuple(settings.trusted_proxies),
        user_header=settings.proxy_user_header,
        groups_header=settings.proxy_groups_header,
    )


def _provider(settings: Settings) -> Provider | None:
    if settings.oidc_issuer is None:
        return None
    try:
        oidc = import_module("tidemill.service.oidc")
    except ModuleNotFoundError as exc:
        raise missing_extra("oidc", exc) from exc
    assert settings.public_url is not None and settings.oidc_client_id is not None, "the settings see to that"
    home = settings.public_url.rstrip("/")
    secret = settings.oidc_client_secret
    provider: Provider = oidc.OidcProvider(
        oidc.Client(
            issuer=settings.oidc_issuer,
            client_id=settings.oidc_client_id,
            client_secret=None if secret is None else _secrets(settings).resolved(secret.get_secret_value()),
            redirect_url=home + LOGIN_BACK,
            home_url=f"{home}/",
            scopes=tuple(settings.oidc_scopes),
            name_claim=settings.oidc_name_claim,
            groups_claim=settings.oidc_groups_claim,
        )
    )
    return provider


def _rates(settings: Settings) -> RateCard | None:
    card = RateCard(
        currency=settings.rate_currency,
        per_cpu_hour=settings.rate_cpu_hour,
        per_gb_read=settings.rate_gb_read,
        per_gb_written=settings.rate_gb_written,
        per_job=settings.rate_job,
    )
    return None if card == RateCard(currency=card.currency) else card


def _user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return str(os.getuid())
