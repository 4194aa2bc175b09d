"""Store and views on SQL: SQLAlchemy Core, on SQLite files or in schemas of a Postgres."""
