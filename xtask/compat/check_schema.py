"""Compare the DBOS schema of an SQLite database (sqlite:///path) with the facts of version 125 in schema/:
columns, indexes, the version row. Extra tables, columns and indexes are reported but allowed."""
import csv, pathlib, re, sqlite3, sys

FACTS = pathlib.Path(__file__).resolve().parent / "schema"
url = sys.argv[1]
bad, extra = [], []


def rows(name):
    return list(csv.DictReader(open(FACTS / name, newline="")))


def norm(s):
    return re.sub(r'["\s]+', " ", s or "").strip().lower()


def compare(kind, want, have, strict=True):
    for k in sorted(set(want) - set(have)):
        bad.append(f"missing {kind} {k}")
    for k in sorted(set(have) - set(want)):
        extra.append(f"extra {kind} {k}")
    for k in sorted(set(want) & set(have)):
        if strict and want[k] != have[k]:
            bad.append(f"{kind} {k}: want {want[k]} have {have[k]}")


c = sqlite3.connect(url.replace("sqlite:///", "", 1))

def q(sql):
    return c.execute(sql).fetchall()
types = lambda t: {"bigint": "INTEGER", "integer": "INTEGER", "text": "TEXT", "boolean": "BOOLEAN", "real": "REAL"}.get(t.lower(), t)
compare("column", {(r["table_name"], r["column_name"]): (types(r["type"]), int(r["notnull"]), bool(r["dflt_value"]) and r["dflt_value"] != "NULL", int(r["pk"])) for r in rows("sqlite_columns_v125.csv")},
        {(t, n): (types(ty), nn, d is not None and d != "NULL", pk) for t, n, ty, nn, d, pk in
         q("select m.name,p.name,p.type,p.\"notnull\",p.dflt_value,p.pk from sqlite_master m, pragma_table_xinfo(m.name) p where m.type='table' and m.name not like 'sqlite_%'")})
iff = lambda s: re.sub(r"\s*([(),=])\s*", r"\1", norm(s)).replace("create index if not exists", "create index").replace("create unique index if not exists", "create unique index")
compare("index", {r["name"]: iff(r["sql"]) for r in rows("sqlite_indexes_v125.csv") if r["sql"]},
        {n: iff(s) for n, s in q("select name,sql from sqlite_master where type='index' and sql is not null")})
versions = q("select version from dbos_migrations")
if [tuple(v) for v in versions] != [(125,)]:
    bad.append(f"dbos_migrations must be exactly one row 125, is {versions}")
print("\n".join(bad + extra) or "schema matches v125")
sys.exit(1 if bad else 0)
