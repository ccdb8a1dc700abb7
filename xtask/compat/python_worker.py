"""A worker of the official package that shares its database with programs of another language: it runs workflows until
its standard input ends. A line `release ID` lets a held one go on."""
import os, sys, threading
from common import base_parser
from dbos import DBOS, DBOSConfig, WorkflowSerializationFormat

p = base_parser(__doc__)
p.add_argument("--executor", default="python-1")
a = p.parse_args()
released = {}


def say(line):
    print(line, flush=True)


class PythonRefusal(Exception):
    code = 418


@DBOS.step()
def plus(x: int, y: int) -> int:
    return x + y


@DBOS.workflow(name="add")
def add(x: int, y: int, scale: int = 1) -> int:
    return plus(x, y) * scale


@DBOS.workflow(name="refuse-in-python")
def refuse(reason: str) -> None:
    raise PythonRefusal(reason)


@DBOS.step()
def hold() -> str:
    gate = released.setdefault(DBOS.workflow_id, threading.Event())
    say(f"held {DBOS.workflow_id}")
    gate.wait()
    return "released"


@DBOS.workflow(name="held-in-python")
def held() -> str:
    plus(1, 2)
    return hold()


@DBOS.workflow(name="price-in-rust")
def price_in_rust(item: str, count: int) -> dict:
    options = {"workflow_name": "price", "queue_name": "rust-orders", "application_name": "rust",
               "serialization_type": WorkflowSerializationFormat.PORTABLE}
    return DBOS.enqueue_workflow_with_options(options, item, count=count).get_result()


DBOS(config=DBOSConfig(name=a.app, system_database_url=a.url, executor_id=a.executor, application_version="python-v1",
                       dbos_system_schema=a.schema, log_level="CRITICAL"))
DBOS.launch()
DBOS.register_queue("python-work", polling_interval_sec=0.1)
say("ready")
for line in sys.stdin:
    if line.startswith("release "):
        released.setdefault(line.split()[1], threading.Event()).set()
# Not in order: a held workflow would keep it.
os._exit(0)
