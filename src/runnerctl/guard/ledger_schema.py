"""The tables of the job database, and how one that is older comes to have them."""

from __future__ import annotations

import sqlite3

__all__ = ["APPLICATION_ID", "GPU_COLUMNS", "JOB_COLUMNS", "VERSION", "migrate"]

APPLICATION_ID = 0x72637462  # "rctb": the file is ours (PRAGMA application_id)
# Columns in the order of the structs that they are read into.
JOB_COLUMNS = (
    *("slot", "started_at", "ended_at", "interrupted", "result", "refused"),
    *("repository", "workflow", "workflow_ref", "job", "run_id", "run_attempt"),
    *("actor", "event", "ref", "fork", "queued_seconds"),
    *("xids", "residue_processes", "residue_removed", "residue_remains"),
)
GPU_COLUMNS = (
    *("uuid", "name", "seconds", "measured_seconds", "busy_seconds"),
    *("utilization_mean_percent", "utilization_peak_percent", "memory_peak_bytes", "memory_total_bytes"),
    *("energy_joules", "temperature_peak_celsius", "throttled", "ecc_corrected", "ecc_uncorrected"),
)
# A migration is a list of statements; the version of a database is how many of them it has had.
# `totals` only grows, also when jobs are forgotten: counters for Prometheus must not fall.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value)",
        "INSERT INTO meta VALUES ('created_at', CAST(strftime('%s', 'now') AS REAL))",
        "INSERT INTO meta VALUES ('kept_at', 0.0)",
        "CREATE TABLE jobs ("
        " number INTEGER PRIMARY KEY AUTOINCREMENT, slot TEXT NOT NULL, started_at REAL NOT NULL,"
        " ended_at REAL, interrupted INTEGER NOT NULL DEFAULT 0, result TEXT, refused TEXT,"
        " repository TEXT, workflow TEXT, workflow_ref TEXT, job TEXT, run_id INTEGER, run_attempt INTEGER,"
        " actor TEXT, event TEXT, ref TEXT, fork INTEGER, queued_seconds REAL, xids TEXT,"
        " residue_processes INTEGER NOT NULL DEFAULT 0, residue_removed INTEGER NOT NULL DEFAULT 0,"
        " residue_remains TEXT, seen_at REAL NOT NULL, counted INTEGER NOT NULL DEFAULT 0)",
        "CREATE INDEX jobs_to_count ON jobs (ended_at) WHERE NOT counted",
        "CREATE INDEX jobs_started ON jobs (started_at)",
        "CREATE INDEX jobs_ended ON jobs (ended_at)",
        "CREATE TABLE gpus ("
        " job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE, place INTEGER NOT NULL,"
        " uuid TEXT NOT NULL, name TEXT, seconds REAL NOT NULL, measured_seconds REAL, busy_seconds REAL,"
        " utilization_mean_percent REAL, utilization_peak_percent INTEGER, memory_peak_bytes INTEGER,"
        " memory_total_bytes INTEGER, energy_joules REAL, temperature_peak_celsius INTEGER, throttled TEXT,"
        " ecc_corrected INTEGER, ecc_uncorrected INTEGER, PRIMARY KEY (job, place)) WITHOUT ROWID",
        "CREATE TABLE totals ("
        " slot TEXT NOT NULL, repository TEXT NOT NULL, result TEXT NOT NULL,"
        " jobs INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0,"
        " gpu_seconds REAL NOT NULL DEFAULT 0,"
        " measured_gpu_seconds REAL NOT NULL DEFAULT 0, busy_gpu_seconds REAL NOT NULL DEFAULT 0,"
        " energy_joules REAL NOT NULL DEFAULT 0, xids INTEGER NOT NULL DEFAULT 0,"
        " PRIMARY KEY (slot, repository, result)) WITHOUT ROWID",
    ),
)
VERSION = len(_MIGRATIONS)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database of ours, or an empty file, to `VERSION`: all or nothing. Raises sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
