"""PostgreSQL: records on a server, over asyncpg. The one room that knows it."""
