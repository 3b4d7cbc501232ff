"""The language of tables (docs/tables.md): metrics, claims, tables and experiments as data."""
