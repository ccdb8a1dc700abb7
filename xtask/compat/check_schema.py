"""Compare the DBOS schema of a database (postgresql://... or sqlite:///path) with the facts of version 125 in schema/:
columns, indexes, triggers, function signatures, foreign keys, the version row. Extras are reported but allowed."""
import csv, pathlib, re, sqlite3, sys

FACTS = pathlib.Path(__file__).resolve().parent / "schema"
url = sys.argv[1]
schema = sys.argv[2] if len(sys.argv) > 2 else "dbos"
bad, extra = [], set()


def rows(name):
    return list(csv.DictReader(open(FACTS / name, newline="")))


def norm(s):
    return re.sub(r'["\s]+', " ", s or "").strip().lower()


def compare(kind, want, have):
    bad.extend(f"missing {kind} {k}" for k in sorted(set(want) - set(have)))
    for k in sorted(set(have) - set(want)):
        table = k[0] if isinstance(k, tuple) else None
        extra.add(f"table {table}" if table and all(t != table for t, _ in want) else f"{kind} {k}")
    bad.extend(f"{kind} {k}: want {want[k]} have {have[k]}" for k in sorted(set(want) & set(have)) if want[k] != have[k])


def check_postgres():
    import psycopg
    c = psycopg.connect(url)

    def q(sql, *a):
        return c.execute(sql, a).fetchall()
    compare("column", {(r["table_name"], r["column_name"]): (r["data_type"], r["is_nullable"], bool(r["column_default"])) for r in rows("pg_columns_v125.csv")},
            {(t, n): (d, nu, df is not None) for t, n, d, nu, df in q("select table_name,column_name,data_type,is_nullable,column_default from information_schema.columns where table_schema=%s", schema)})
    fix = lambda s: norm(s.replace(f" {schema}.", " dbos."))
    compare("index", {r["indexname"]: fix(r["indexdef"]) for r in rows("pg_indexes_v125.csv")},
            {n: fix(d) for n, d in q("select indexname,indexdef from pg_indexes where schemaname=%s", schema)})
    compare("trigger", {r["trigger"]: 1 for r in rows("pg_triggers_v125.csv")},
            {n: 1 for (n,) in q("select tgname from pg_trigger t join pg_class k on k.oid=tgrelid where k.relnamespace=%s::regnamespace and not tgisinternal", schema)})
    compare("function", {r["proname"]: norm(r["args_with_defaults"]) for r in rows("pg_functions_v125.csv")},
            {n: norm(a) for n, a in q("select proname,pg_get_function_arguments(oid) from pg_proc where pronamespace=%s::regnamespace", schema)})
    compare("foreign key", {r["conname"]: 1 for r in rows("pg_constraints_v125.csv") if r["contype"] == "f"},
            {n: 1 for (n,) in q("select conname from pg_constraint where connamespace=%s::regnamespace and contype='f'", schema)})
    return q(f'select version from "{schema}".dbos_migrations')


def check_sqlite():
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
    return q("select version from dbos_migrations")


versions = check_postgres() if url.startswith("postgres") else check_sqlite()
if [tuple(v) for v in versions] != [(125,)]:
    bad.append(f"dbos_migrations must be exactly one row 125, is {versions}")
allowed = f"; beside it, allowed: {', '.join(sorted(extra))}" if extra else ""
print("\n".join(bad) or f"schema matches v125{allowed}")
sys.exit(1 if bad else 0)
