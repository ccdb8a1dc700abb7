"""Run one SQL statement with psycopg, and nothing else, and print its rows as JSON; with --until again and again until
these are the rows."""
import argparse, json, sys, time
import psycopg

PATIENCE, PAUSE = 60.0, 0.05

p = argparse.ArgumentParser(description=__doc__)
p.add_argument("url")
p.add_argument("sql")
p.add_argument("--args", type=json.loads, default=[])
p.add_argument("--until", type=json.loads, default=None)
a = p.parse_args()
began = time.monotonic()
with psycopg.connect(a.url, autocommit=True) as connection:
    while True:
        cursor = connection.execute(a.sql, a.args or None)
        rows = [list(row) for row in cursor.fetchall()] if cursor.description else []
        if a.until is None or rows == a.until or time.monotonic() - began > PATIENCE:
            break
        time.sleep(PAUSE)
json.dump(rows, sys.stdout, default=str)
print()
