"""Tables of identity. A list that only grows: what was released is not edited, a change is one more step."""

from __future__ import annotations

MIGRATIONS = (
    """
    CREATE TABLE deployment (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        issuer TEXT NOT NULL,
        begun INTEGER NOT NULL DEFAULT 0
    );
    INSERT INTO deployment (only, issuer) VALUES (1, lower(hex(randomblob(16))));

    CREATE TABLE namespaces (
        name TEXT PRIMARY KEY,
        services INTEGER NOT NULL,
        instances INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        upload INTEGER NOT NULL,
        created TEXT NOT NULL
    ) WITHOUT ROWID;
    INSERT INTO namespaces VALUES ('micro', 200, 500, 0, 67108864, '');

    CREATE TABLE accounts (
        namespace TEXT NOT NULL REFERENCES namespaces (name) ON DELETE CASCADE,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        type TEXT NOT NULL,
        scopes TEXT NOT NULL,
        metadata TEXT NOT NULL,
        created TEXT NOT NULL,
        secret TEXT NOT NULL,
        PRIMARY KEY (namespace, id)
    ) WITHOUT ROWID;

    -- Ids and names of accounts share one space, so that nobody can be called what another is.
    CREATE TABLE called (
        namespace TEXT NOT NULL,
        called TEXT NOT NULL,
        account TEXT NOT NULL,
        PRIMARY KEY (namespace, called),
        FOREIGN KEY (namespace, account) REFERENCES accounts (namespace, id) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE INDEX called_by_account ON called (namespace, account);

    CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        namespace TEXT NOT NULL,
        account TEXT NOT NULL,
        current BLOB NOT NULL UNIQUE,
        created REAL NOT NULL,
        refreshed REAL NOT NULL,
        expires REAL NOT NULL,
        address TEXT NOT NULL,
        FOREIGN KEY (namespace, account) REFERENCES accounts (namespace, id) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE INDEX sessions_by_account ON sessions (namespace, account);
    CREATE INDEX sessions_by_expiry ON sessions (expires);

    -- Refresh tokens that have served: one that comes again was stolen.
    CREATE TABLE used (
        token BLOB PRIMARY KEY,
        session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
        time REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX used_by_session ON used (session, time);

    CREATE TABLE rules (
        namespace TEXT NOT NULL REFERENCES namespaces (name) ON DELETE CASCADE,
        id TEXT NOT NULL,
        scope TEXT NOT NULL,
        type TEXT NOT NULL,
        name TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        access TEXT NOT NULL,
        priority INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    ) WITHOUT ROWID;

    CREATE TABLE keys (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        kid TEXT NOT NULL UNIQUE,
        private BLOB NOT NULL,
        created REAL NOT NULL
    );

    CREATE TABLE revoked (
        namespace TEXT NOT NULL,
        account TEXT NOT NULL,
        session TEXT NOT NULL,
        before REAL NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (namespace, account, session)
    ) WITHOUT ROWID;

    CREATE TABLE audit (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        time REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        target TEXT NOT NULL,
        namespace TEXT NOT NULL,
        address TEXT NOT NULL,
        outcome TEXT NOT NULL
    );
    CREATE INDEX audit_by_namespace ON audit (namespace, position);
    """,
    """
    -- How many entries of the audit log each namespace has, and all together ("*").
    CREATE TABLE audited (namespace TEXT PRIMARY KEY, entries INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO audited SELECT namespace, count(*) FROM audit GROUP BY namespace;
    INSERT INTO audited SELECT '*', count(*) FROM audit;

    CREATE TRIGGER audit_grows AFTER INSERT ON audit BEGIN
        INSERT INTO audited VALUES (new.namespace, 1), ('*', 1)
            ON CONFLICT DO UPDATE SET entries = entries + 1;
    END;
    CREATE TRIGGER audit_shrinks AFTER DELETE ON audit BEGIN
        UPDATE audited SET entries = entries - 1 WHERE namespace IN (old.namespace, '*');
        DELETE FROM audited WHERE namespace = old.namespace AND entries = 0;
    END;
    """,
)
