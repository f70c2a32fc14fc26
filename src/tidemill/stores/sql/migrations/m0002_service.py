"""What a service needs: tenants, needs, events, idempotency, models, keys, audit, announced workers.

Every column that is added to a table has a default: workers of the version before go on.
"""

_NOW = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"

_TRANSITIONS = "INSERT INTO transitions (before, after) VALUES ('planning', 'queued'), ('running', 'queued')"

# A job of the version before started as its `foreground` says; when it was paused nobody wrote down.
_FORMER_EVENTS = (
    """
    INSERT INTO events (job_id, at_ms, state)
    SELECT id, created_at_ms, CASE WHEN foreground THEN 'planning' ELSE 'queued' END FROM jobs ORDER BY number
    """,
    """
    INSERT INTO events (job_id, at_ms, state)
    SELECT id, COALESCE(finished_at_ms, started_at_ms, created_at_ms), state FROM jobs
    WHERE state <> CASE WHEN foreground THEN 'planning' ELSE 'queued' END ORDER BY number
    """,
)

# An index that SQLite need not leave holds the column of its condition, too.
_INDEXES = (
    """
    CREATE INDEX jobs_in_line ON jobs (foreground, owner, priority, number, model_key, state)
    WHERE state = 'queued'
    """,
    """
    CREATE INDEX jobs_alike ON jobs (foreground, owner, model_key, priority, cpus, memory_bytes, gpus, number, state)
    WHERE state = 'queued'
    """,
    "CREATE INDEX jobs_by_owner ON jobs (owner, started_at_ms)",
    "CREATE INDEX jobs_by_tenant ON jobs (tenant, number)",
    "CREATE INDEX jobs_by_tenant_and_state ON jobs (tenant, state, number)",
    "CREATE INDEX jobs_by_parent ON jobs (parent_id, number) WHERE parent_id IS NOT NULL",
    "CREATE INDEX jobs_by_end ON jobs (finished_at_ms) WHERE finished_at_ms IS NOT NULL",
    "CREATE INDEX events_by_job ON events (job_id, number)",
    "CREATE INDEX idempotency_by_job ON idempotency (job_id)",
    "CREATE INDEX audit_by_tenant ON audit (tenant, number)",
    "CREATE INDEX audit_by_time ON audit (at_ms)",
)

_SQLITE = (
    "ALTER TABLE jobs ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default' CHECK (tenant <> '')",
    "ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN model_key TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN model_name TEXT",
    "ALTER TABLE jobs ADD COLUMN cpus INTEGER NOT NULL DEFAULT 1 CHECK (cpus >= 0)",
    "ALTER TABLE jobs ADD COLUMN memory_bytes INTEGER NOT NULL DEFAULT 0 CHECK (memory_bytes >= 0)",
    "ALTER TABLE jobs ADD COLUMN gpus INTEGER NOT NULL DEFAULT 0 CHECK (gpus >= 0)",
    "ALTER TABLE jobs ADD COLUMN parent_id TEXT",
    "ALTER TABLE jobs ADD COLUMN managed INTEGER NOT NULL DEFAULT 0 CHECK (managed IN (0, 1))",
    "UPDATE jobs SET model_key = model_digest",
    """
    CREATE TRIGGER jobs_key AFTER INSERT ON jobs
    WHEN NEW.model_key = ''
    BEGIN
        UPDATE jobs SET model_key = NEW.model_digest WHERE number = NEW.number;
    END
    """,
    _TRANSITIONS,
    # SQLite cannot change a constraint, only make a table anew.
    """
    CREATE TABLE documents_anew (
        job_id TEXT NOT NULL REFERENCES jobs (id),
        kind TEXT NOT NULL CHECK (kind IN ('spec', 'plan', 'manifest', 'journal', 'model')),
        body TEXT NOT NULL,
        PRIMARY KEY (job_id, kind)
    )
    """,
    "INSERT INTO documents_anew (job_id, kind, body) SELECT job_id, kind, body FROM documents",
    "DROP TABLE documents",
    "ALTER TABLE documents_anew RENAME TO documents",
    """
    CREATE TRIGGER documents_frozen BEFORE UPDATE ON documents
    BEGIN
        SELECT RAISE(ABORT, 'documents never change');
    END
    """,
    """
    CREATE TABLE events (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL REFERENCES jobs (id),
        at_ms INTEGER NOT NULL,
        state TEXT NOT NULL
    )
    """,
    *_FORMER_EVENTS,
    """
    CREATE TRIGGER jobs_began AFTER INSERT ON jobs
    BEGIN
        INSERT INTO events (job_id, at_ms, state) VALUES (NEW.id, NEW.created_at_ms, NEW.state);
    END
    """,
    f"""
    CREATE TRIGGER jobs_moved AFTER UPDATE OF state ON jobs
    WHEN NEW.state <> OLD.state
    BEGIN
        INSERT INTO events (job_id, at_ms, state) VALUES (NEW.id, {_NOW}, NEW.state);
    END
    """,
    """
    CREATE TABLE idempotency (
        tenant TEXT NOT NULL,
        key TEXT NOT NULL CHECK (key <> ''),
        request_digest TEXT NOT NULL,
        job_id TEXT NOT NULL REFERENCES jobs (id) DEFERRABLE INITIALLY DEFERRED,
        PRIMARY KEY (tenant, key)
    )
    """,
    """
    CREATE TABLE model_versions (
        tenant TEXT NOT NULL CHECK (tenant <> ''),
        name TEXT NOT NULL CHECK (name <> ''),
        version INTEGER NOT NULL CHECK (version >= 1),
        digest TEXT NOT NULL,
        flavor TEXT NOT NULL,
        carries_code INTEGER NOT NULL CHECK (carries_code IN (0, 1)),
        preload TEXT NOT NULL,
        path TEXT NOT NULL,
        size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
        origin TEXT NOT NULL,
        signature TEXT,
        environment TEXT,
        description TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL,
        created_by TEXT NOT NULL,
        PRIMARY KEY (tenant, name, version)
    )
    """,
    """
    CREATE TABLE aliases (
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        alias TEXT NOT NULL CHECK (alias <> ''),
        version INTEGER NOT NULL,
        PRIMARY KEY (tenant, name, alias),
        FOREIGN KEY (tenant, name, version) REFERENCES model_versions (tenant, name, version)
    )
    """,
    """
    CREATE TABLE model_limits (
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        max_running INTEGER NOT NULL CHECK (max_running >= 0),
        PRIMARY KEY (tenant, name)
    )
    """,
    """
    CREATE TABLE api_keys (
        id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
        name TEXT NOT NULL,
        tenant TEXT NOT NULL CHECK (tenant <> ''),
        role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
        owner TEXT NOT NULL,
        secret_sha256 TEXT NOT NULL CHECK (length(secret_sha256) = 64),
        max_running INTEGER CHECK (max_running >= 0),
        requests_per_minute INTEGER CHECK (requests_per_minute >= 0),
        created_at_ms INTEGER NOT NULL,
        expires_at_ms INTEGER,
        revoked_at_ms INTEGER,
        last_used_at_ms INTEGER
    )
    """,
    """
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        tenant TEXT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL CHECK (action <> ''),
        subject TEXT NOT NULL,
        detail TEXT NOT NULL
    )
    """,
    """
    CREATE TRIGGER audit_frozen BEFORE UPDATE ON audit
    BEGIN
        SELECT RAISE(ABORT, 'audit entries never change');
    END
    """,
    """
    CREATE TABLE workers (
        id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
        host TEXT NOT NULL,
        pid INTEGER NOT NULL,
        version TEXT NOT NULL,
        cpus INTEGER NOT NULL,
        memory_bytes INTEGER NOT NULL,
        gpus INTEGER NOT NULL,
        free_cpus INTEGER NOT NULL,
        free_memory_bytes INTEGER NOT NULL,
        free_gpus INTEGER NOT NULL,
        draining INTEGER NOT NULL CHECK (draining IN (0, 1)),
        started_at_ms INTEGER NOT NULL,
        seen_at_ms INTEGER NOT NULL
    )
    """,
    *_INDEXES,
)

# Names sort byte by byte, as in SQLite, whatever the language of the database.
_POSTGRESQL = (
    """
    ALTER TABLE jobs
        ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default' CHECK (tenant <> ''),
        ADD COLUMN owner TEXT NOT NULL DEFAULT '',
        ADD COLUMN model_key TEXT NOT NULL DEFAULT '',
        ADD COLUMN model_name TEXT,
        ADD COLUMN cpus BIGINT NOT NULL DEFAULT 1 CHECK (cpus >= 0),
        ADD COLUMN memory_bytes BIGINT NOT NULL DEFAULT 0 CHECK (memory_bytes >= 0),
        ADD COLUMN gpus BIGINT NOT NULL DEFAULT 0 CHECK (gpus >= 0),
        ADD COLUMN parent_id TEXT,
        ADD COLUMN managed BOOLEAN NOT NULL DEFAULT FALSE
    """,
    "UPDATE jobs SET model_key = model_digest",
    """
    CREATE FUNCTION tidemill_key() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.model_key := NEW.model_digest;
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER jobs_key BEFORE INSERT ON jobs
    FOR EACH ROW WHEN (NEW.model_key = '') EXECUTE FUNCTION tidemill_key()
    """,
    _TRANSITIONS,
    "ALTER TABLE documents DROP CONSTRAINT documents_kind",
    """
    ALTER TABLE documents ADD CONSTRAINT documents_kind
    CHECK (kind IN ('spec', 'plan', 'manifest', 'journal', 'model'))
    """,
    """
    CREATE TABLE events (
        number BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        job_id TEXT NOT NULL REFERENCES jobs (id),
        at_ms BIGINT NOT NULL,
        state TEXT NOT NULL
    )
    """,
    *_FORMER_EVENTS,
    """
    CREATE FUNCTION tidemill_began() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO events (job_id, at_ms, state) VALUES (NEW.id, NEW.created_at_ms, NEW.state);
        RETURN NULL;
    END
    $$
    """,
    "CREATE TRIGGER jobs_began AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION tidemill_began()",
    """
    CREATE FUNCTION tidemill_moved() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO events (job_id, at_ms, state)
        VALUES (NEW.id, floor(extract(epoch FROM statement_timestamp()) * 1000), NEW.state);
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER jobs_moved AFTER UPDATE ON jobs
    FOR EACH ROW WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION tidemill_moved()
    """,
    """
    CREATE TABLE idempotency (
        tenant TEXT NOT NULL,
        key TEXT NOT NULL CHECK (key <> ''),
        request_digest TEXT NOT NULL,
        job_id TEXT NOT NULL REFERENCES jobs (id) DEFERRABLE INITIALLY DEFERRED,
        PRIMARY KEY (tenant, key)
    )
    """,
    """
    CREATE TABLE model_versions (
        tenant TEXT COLLATE "C" NOT NULL CHECK (tenant <> ''),
        name TEXT COLLATE "C" NOT NULL CHECK (name <> ''),
        version BIGINT NOT NULL CHECK (version >= 1),
        digest TEXT NOT NULL,
        flavor TEXT NOT NULL,
        carries_code BOOLEAN NOT NULL,
        preload JSON NOT NULL,
        path TEXT COLLATE "C" NOT NULL,
        size_bytes BIGINT NOT NULL CHECK (size_bytes >= 0),
        origin TEXT NOT NULL,
        signature JSON,
        environment JSON,
        description TEXT NOT NULL,
        created_at_ms BIGINT NOT NULL,
        created_by TEXT NOT NULL,
        PRIMARY KEY (tenant, name, version)
    )
    """,
    """
    CREATE TABLE aliases (
        tenant TEXT COLLATE "C" NOT NULL,
        name TEXT COLLATE "C" NOT NULL,
        alias TEXT COLLATE "C" NOT NULL CHECK (alias <> ''),
        version BIGINT NOT NULL,
        PRIMARY KEY (tenant, name, alias),
        FOREIGN KEY (tenant, name, version) REFERENCES model_versions (tenant, name, version)
    )
    """,
    """
    CREATE TABLE model_limits (
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        max_running BIGINT NOT NULL CHECK (max_running >= 0),
        PRIMARY KEY (tenant, name)
    )
    """,
    """
    CREATE TABLE api_keys (
        id TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
        name TEXT NOT NULL,
        tenant TEXT NOT NULL CHECK (tenant <> ''),
        role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
        owner TEXT NOT NULL,
        secret_sha256 TEXT NOT NULL CHECK (length(secret_sha256) = 64),
        max_running BIGINT CHECK (max_running >= 0),
        requests_per_minute BIGINT CHECK (requests_per_minute >= 0),
        created_at_ms BIGINT NOT NULL,
        expires_at_ms BIGINT,
        revoked_at_ms BIGINT,
        last_used_at_ms BIGINT
    )
    """,
    """
    CREATE TABLE audit (
        number BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        at_ms BIGINT NOT NULL,
        tenant TEXT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL CHECK (action <> ''),
        subject TEXT NOT NULL,
        detail JSON NOT NULL
    )
    """,
    "CREATE TRIGGER audit_frozen BEFORE UPDATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION tidemill_frozen()",
    """
    CREATE TABLE workers (
        id TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
        host TEXT NOT NULL,
        pid BIGINT NOT NULL,
        version TEXT NOT NULL,
        cpus BIGINT NOT NULL,
        memory_bytes BIGINT NOT NULL,
        gpus BIGINT NOT NULL,
        free_cpus BIGINT NOT NULL,
        free_memory_bytes BIGINT NOT NULL,
        free_gpus BIGINT NOT NULL,
        draining BOOLEAN NOT NULL,
        started_at_ms BIGINT NOT NULL,
        seen_at_ms BIGINT NOT NULL
    )
    """,
    *_INDEXES,
    # Renewed leases wake nobody: transactions that notify are committed one after the other.
    """
    CREATE FUNCTION tidemill_wake() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NOTIFY tidemill;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER jobs_wake AFTER INSERT OR DELETE OR UPDATE OF state, want, chunks_done, labels ON jobs
    FOR EACH ROW EXECUTE FUNCTION tidemill_wake()
    """,
    *(
        f"CREATE TRIGGER {table}_wake AFTER INSERT OR UPDATE OR DELETE ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION tidemill_wake()"
        for table in ("model_versions", "aliases", "model_limits", "api_keys", "trusted")
    ),
)

STATEMENTS = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}
