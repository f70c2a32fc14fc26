"""Jobs, their documents and chunks, trusted models."""

_TRANSITIONS = """
    INSERT INTO transitions (before, after) VALUES
        ('queued', 'planning'), ('queued', 'running'), ('queued', 'committing'),
        ('queued', 'paused'), ('queued', 'cancelled'),
        ('planning', 'running'), ('planning', 'paused'), ('planning', 'failed'), ('planning', 'cancelled'),
        ('running', 'committing'), ('running', 'paused'), ('running', 'failed'), ('running', 'cancelled'),
        ('committing', 'succeeded'), ('committing', 'succeeded_with_rejections'), ('committing', 'failed'),
        ('paused', 'queued'), ('paused', 'cancelled'),
        ('failed', 'queued'), ('failed', 'cancelled')
    """

_SQLITE = (
    """
    CREATE TABLE schema_version (
        version INTEGER PRIMARY KEY,
        applied_at_ms INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE CHECK (id <> ''),
        name TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN (
            'queued', 'planning', 'running', 'committing', 'succeeded', 'succeeded_with_rejections',
            'paused', 'failed', 'cancelled')),
        want TEXT NOT NULL CHECK (want IN ('run', 'pause', 'cancel')),
        want_told TEXT NOT NULL CHECK (want_told IN ('run', 'pause', 'cancel')),
        spec_digest TEXT NOT NULL,
        model_digest TEXT NOT NULL,
        output TEXT NOT NULL,
        staging TEXT NOT NULL,
        foreground INTEGER NOT NULL CHECK (foreground IN (0, 1)),
        priority INTEGER NOT NULL,
        epoch INTEGER NOT NULL CHECK (epoch >= 0),
        token TEXT,
        worker_id TEXT,
        lease_until_ms INTEGER,
        crashes INTEGER NOT NULL CHECK (crashes >= 0),
        rows_total INTEGER NOT NULL CHECK (rows_total >= 0),
        rows_predicted INTEGER NOT NULL CHECK (rows_predicted >= 0),
        rows_rejected INTEGER NOT NULL CHECK (rows_rejected >= 0),
        chunks_total INTEGER NOT NULL CHECK (chunks_total >= 0),
        chunks_done INTEGER NOT NULL CHECK (chunks_done >= 0),
        labels TEXT NOT NULL,
        usage TEXT NOT NULL,
        error TEXT,
        created_at_ms INTEGER NOT NULL,
        started_at_ms INTEGER,
        finished_at_ms INTEGER,
        CONSTRAINT leased CHECK (
            (state IN ('planning', 'running', 'committing')) = (token IS NOT NULL)
            AND (token IS NULL) = (worker_id IS NULL)
            AND (token IS NULL) = (lease_until_ms IS NULL)),
        CONSTRAINT planned_rows CHECK (rows_predicted + rows_rejected <= rows_total),
        CONSTRAINT planned_chunks CHECK (chunks_done <= chunks_total),
        CONSTRAINT reconciled CHECK (
            state NOT IN ('committing', 'succeeded', 'succeeded_with_rejections')
            OR (rows_predicted + rows_rejected = rows_total AND chunks_done = chunks_total)),
        CONSTRAINT rejections CHECK (
            (state <> 'succeeded' OR rows_rejected = 0)
            AND (state <> 'succeeded_with_rejections' OR rows_rejected > 0))
    )
    """,
    "CREATE INDEX jobs_by_state ON jobs (state, foreground, priority DESC, number)",
    "CREATE INDEX jobs_by_output ON jobs (output, number)",
    """
    CREATE TABLE transitions (
        before TEXT NOT NULL,
        after TEXT NOT NULL,
        PRIMARY KEY (before, after)
    ) WITHOUT ROWID
    """,
    _TRANSITIONS,
    """
    CREATE TRIGGER jobs_start BEFORE INSERT ON jobs
    WHEN NEW.state NOT IN ('queued', 'planning')
    BEGIN
        SELECT RAISE(ABORT, 'a job starts queued or planning');
    END
    """,
    """
    CREATE TRIGGER jobs_follow BEFORE UPDATE OF state ON jobs
    WHEN NEW.state <> OLD.state
        AND NOT EXISTS (SELECT 1 FROM transitions WHERE before = OLD.state AND after = NEW.state)
    BEGIN
        SELECT RAISE(ABORT, 'this state cannot follow that one');
    END
    """,
    """
    CREATE TABLE documents (
        job_id TEXT NOT NULL REFERENCES jobs (id),
        kind TEXT NOT NULL CHECK (kind IN ('spec', 'plan', 'manifest', 'journal')),
        body TEXT NOT NULL,
        PRIMARY KEY (job_id, kind)
    )
    """,
    """
    CREATE TRIGGER documents_frozen BEFORE UPDATE ON documents
    BEGIN
        SELECT RAISE(ABORT, 'documents never change');
    END
    """,
    """
    CREATE TABLE chunks (
        job_id TEXT NOT NULL REFERENCES jobs (id),
        chunk INTEGER NOT NULL CHECK (chunk >= 0),
        epoch INTEGER NOT NULL CHECK (epoch > 0),
        rows INTEGER NOT NULL CHECK (rows >= 0),
        predicted INTEGER NOT NULL CHECK (predicted >= 0),
        rejected INTEGER NOT NULL CHECK (rejected >= 0),
        receipt TEXT NOT NULL,
        committed_at_ms INTEGER NOT NULL,
        PRIMARY KEY (job_id, chunk),
        CONSTRAINT receipt_reconciled CHECK (rows = predicted + rejected)
    )
    """,
    """
    CREATE TABLE trusted (
        digest TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        trusted_by TEXT NOT NULL,
        trusted_at_ms INTEGER NOT NULL
    )
    """,
)

_POSTGRESQL = (
    """
    CREATE TABLE schema_version (
        version BIGINT PRIMARY KEY,
        applied_at_ms BIGINT NOT NULL
    )
    """,
    """
    CREATE TABLE jobs (
        number BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE CHECK (id <> ''),
        name TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN (
            'queued', 'planning', 'running', 'committing', 'succeeded', 'succeeded_with_rejections',
            'paused', 'failed', 'cancelled')),
        want TEXT NOT NULL CHECK (want IN ('run', 'pause', 'cancel')),
        want_told TEXT NOT NULL CHECK (want_told IN ('run', 'pause', 'cancel')),
        spec_digest TEXT NOT NULL,
        model_digest TEXT NOT NULL,
        output TEXT NOT NULL,
        staging TEXT NOT NULL,
        foreground BOOLEAN NOT NULL,
        priority BIGINT NOT NULL,
        epoch BIGINT NOT NULL CHECK (epoch >= 0),
        token TEXT,
        worker_id TEXT,
        lease_until_ms BIGINT,
        crashes BIGINT NOT NULL CHECK (crashes >= 0),
        rows_total BIGINT NOT NULL CHECK (rows_total >= 0),
        rows_predicted BIGINT NOT NULL CHECK (rows_predicted >= 0),
        rows_rejected BIGINT NOT NULL CHECK (rows_rejected >= 0),
        chunks_total BIGINT NOT NULL CHECK (chunks_total >= 0),
        chunks_done BIGINT NOT NULL CHECK (chunks_done >= 0),
        labels JSON NOT NULL,
        usage JSON NOT NULL,
        error JSON,
        created_at_ms BIGINT NOT NULL,
        started_at_ms BIGINT,
        finished_at_ms BIGINT,
        CONSTRAINT leased CHECK (
            (state IN ('planning', 'running', 'committing')) = (token IS NOT NULL)
            AND (token IS NULL) = (worker_id IS NULL)
            AND (token IS NULL) = (lease_until_ms IS NULL)),
        CONSTRAINT planned_rows CHECK (rows_predicted + rows_rejected <= rows_total),
        CONSTRAINT planned_chunks CHECK (chunks_done <= chunks_total),
        CONSTRAINT reconciled CHECK (
            state NOT IN ('committing', 'succeeded', 'succeeded_with_rejections')
            OR (rows_predicted + rows_rejected = rows_total AND chunks_done = chunks_total)),
        CONSTRAINT rejections CHECK (
            (state <> 'succeeded' OR rows_rejected = 0)
            AND (state <> 'succeeded_with_rejections' OR rows_rejected > 0))
    )
    """,
    "CREATE INDEX jobs_by_state ON jobs (state, foreground, priority DESC, number)",
    "CREATE INDEX jobs_by_output ON jobs (output, number)",
    """
    CREATE TABLE transitions (
        before TEXT NOT NULL,
        after TEXT NOT NULL,
        PRIMARY KEY (before, after)
    )
    """,
    _TRANSITIONS,
    """
    CREATE FUNCTION tidemill_start() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.state NOT IN ('queued', 'planning') THEN
            RAISE EXCEPTION USING MESSAGE = 'a job starts queued or planning', ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END
    $$
    """,
    "CREATE TRIGGER jobs_start BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION tidemill_start()",
    """
    CREATE FUNCTION tidemill_follow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT 1 FROM transitions WHERE before = OLD.state AND after = NEW.state) THEN
            RAISE EXCEPTION USING MESSAGE = 'this state cannot follow that one', ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER jobs_follow BEFORE UPDATE ON jobs
    FOR EACH ROW WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION tidemill_follow()
    """,
    """
    CREATE TABLE documents (
        job_id TEXT NOT NULL REFERENCES jobs (id),
        kind TEXT NOT NULL CONSTRAINT documents_kind CHECK (kind IN ('spec', 'plan', 'manifest', 'journal')),
        body JSON NOT NULL,
        PRIMARY KEY (job_id, kind)
    )
    """,
    """
    CREATE FUNCTION tidemill_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ' never change', ERRCODE = 'check_violation';
    END
    $$
    """,
    """
    CREATE TRIGGER documents_frozen BEFORE UPDATE ON documents
    FOR EACH STATEMENT EXECUTE FUNCTION tidemill_frozen()
    """,
    """
    CREATE TABLE chunks (
        job_id TEXT NOT NULL REFERENCES jobs (id),
        chunk BIGINT NOT NULL CHECK (chunk >= 0),
        epoch BIGINT NOT NULL CHECK (epoch > 0),
        rows BIGINT NOT NULL CHECK (rows >= 0),
        predicted BIGINT NOT NULL CHECK (predicted >= 0),
        rejected BIGINT NOT NULL CHECK (rejected >= 0),
        receipt JSON NOT NULL,
        committed_at_ms BIGINT NOT NULL,
        PRIMARY KEY (job_id, chunk),
        CONSTRAINT receipt_reconciled CHECK (rows = predicted + rejected)
    )
    """,
    """
    CREATE TABLE trusted (
        digest TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        trusted_by TEXT NOT NULL,
        trusted_at_ms BIGINT NOT NULL
    )
    """,
)

STATEMENTS = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}
