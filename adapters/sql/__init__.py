"""The store on SQL: SQLAlchemy Core, SQLite today."""
