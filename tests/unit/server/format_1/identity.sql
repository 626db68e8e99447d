BEGIN TRANSACTION;
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
INSERT INTO "accounts" VALUES('micro','greeter@latest','greeter@latest','service','[]','{"service": "greeter", "version": "latest"}','','$argon2id$greeter');
INSERT INTO "accounts" VALUES('micro','jane','Jane «J» Doe ☃','user','["admin", "ops:eu"]','{"team": "a\"\\\u00e9"}','2026-01-01T00:00:00Z','$argon2id$jane');
INSERT INTO "accounts" VALUES('shop','jane','Jane of the shop','user','[]','{}','','$argon2id$shop');
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
INSERT INTO "audit" VALUES(1,1800000000.25,'micro/admin','account.create','jane','micro','192.0.2.7','ok');
INSERT INTO "audit" VALUES(2,1800000000.25,'micro/admin','namespace.create','shop','shop','192.0.2.7','ok');
INSERT INTO "audit" VALUES(3,1800000000.25,'micro/admin','login','jane','micro','192.0.2.7','ok');
INSERT INTO "audit" VALUES(4,1800000000.25,'micro/admin','login','jane','micro','192.0.2.7','ok');
INSERT INTO "audit" VALUES(5,1800000000.25,'micro/admin','login','jane','shop','192.0.2.7','ok');
INSERT INTO "audit" VALUES(6,1800000000.25,'micro/admin','rule.create','jane','micro','192.0.2.7','ok');
INSERT INTO "audit" VALUES(7,1800000000.25,'micro/admin','session.end','jane','micro','192.0.2.7','ok');
INSERT INTO "audit" VALUES(8,1800000000.25,'micro/admin','key.rotate','a','micro','192.0.2.7','ok');
INSERT INTO "audit" VALUES(9,1800000000.25,'micro/admin','key.rotate','b','micro','192.0.2.7','ok');
CREATE TABLE audited (namespace TEXT PRIMARY KEY, entries INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "audited" VALUES('*',9);
INSERT INTO "audited" VALUES('micro',7);
INSERT INTO "audited" VALUES('shop',2);
CREATE TABLE called (
        namespace TEXT NOT NULL,
        called TEXT NOT NULL,
        account TEXT NOT NULL,
        PRIMARY KEY (namespace, called),
        FOREIGN KEY (namespace, account) REFERENCES accounts (namespace, id) ON DELETE CASCADE
    ) WITHOUT ROWID;
INSERT INTO "called" VALUES('micro','greeter@latest','greeter@latest');
INSERT INTO "called" VALUES('micro','Jane «J» Doe ☃','jane');
INSERT INTO "called" VALUES('micro','jane','jane');
INSERT INTO "called" VALUES('shop','Jane of the shop','jane');
INSERT INTO "called" VALUES('shop','jane','jane');
CREATE TABLE deployment (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        issuer TEXT NOT NULL,
        begun INTEGER NOT NULL DEFAULT 0
    );
INSERT INTO "deployment" VALUES(1,'0123456789abcdef0123456789abcdef',1);
CREATE TABLE keys (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        kid TEXT NOT NULL UNIQUE,
        private BLOB NOT NULL,
        created REAL NOT NULL
    );
INSERT INTO "keys" VALUES(1,'a',X'2D2D2D2D2D424547494E20612D2D2D2D2D',1800000000.25);
INSERT INTO "keys" VALUES(2,'b',X'2D2D2D2D2D424547494E20622D2D2D2D2D',1799999991.25);
CREATE TABLE namespaces (
        name TEXT PRIMARY KEY,
        services INTEGER NOT NULL,
        instances INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        upload INTEGER NOT NULL,
        created TEXT NOT NULL
    ) WITHOUT ROWID;
INSERT INTO "namespaces" VALUES('micro',7,8,9,10,'');
INSERT INTO "namespaces" VALUES('shop',1,2,3,1099511627776,'2026-02-02');
CREATE TABLE revoked (
        namespace TEXT NOT NULL,
        account TEXT NOT NULL,
        session TEXT NOT NULL,
        before REAL NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (namespace, account, session)
    ) WITHOUT ROWID;
INSERT INTO "revoked" VALUES('micro','','s2',1800000000.25,1800000900.25);
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
INSERT INTO "rules" VALUES('micro','only-ops','ops:eu','service','greeter*','Greeter.Hello','denied',-7);
INSERT INTO "rules" VALUES('shop','all','+','*','*','*','granted',2147483647);
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
INSERT INTO "sessions" VALUES('s1','micro','jane',X'0000000000000000000000000000000000000000000000000000000000007432',1800000000.25,1800000002.25,1809000000.25,'2001:db8::1');
INSERT INTO "sessions" VALUES('s3','shop','jane',X'0000000000000000000000000000000000000000000000000000000000007333',1800000000.25,1800000000.25,1809000000.25,'2001:db8::1');
CREATE TABLE used (
        token BLOB PRIMARY KEY,
        session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
        time REAL NOT NULL
    ) WITHOUT ROWID;
INSERT INTO "used" VALUES(X'0000000000000000000000000000000000000000000000000000000000007331','s1',1800000001.25);
INSERT INTO "used" VALUES(X'0000000000000000000000000000000000000000000000000000000000007431','s1',1800000002.25);
CREATE INDEX called_by_account ON called (namespace, account);
CREATE INDEX sessions_by_account ON sessions (namespace, account);
CREATE INDEX sessions_by_expiry ON sessions (expires);
CREATE INDEX used_by_session ON used (session, time);
CREATE INDEX audit_by_namespace ON audit (namespace, position);
CREATE TRIGGER audit_grows AFTER INSERT ON audit BEGIN
        INSERT INTO audited VALUES (new.namespace, 1), ('*', 1)
            ON CONFLICT DO UPDATE SET entries = entries + 1;
    END;
CREATE TRIGGER audit_shrinks AFTER DELETE ON audit BEGIN
        UPDATE audited SET entries = entries - 1 WHERE namespace IN (old.namespace, '*');
        DELETE FROM audited WHERE namespace = old.namespace AND entries = 0;
    END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('audit',9);
INSERT INTO "sqlite_sequence" VALUES('keys',2);
COMMIT;
PRAGMA user_version = 2;
