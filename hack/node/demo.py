"""`make cluster-demo`: a shop loses its namespace and gets it back; told with what each step took.

nginx with content, and a writer that appends to a ledger as a data base does to its log: each record carries
the hash of the one before it, so that a hole or a torn record shows. Velero backs both up with `--snapshot-move-data`,
the namespace is deleted, Velero restores it, and everything is compared. At the end the agent's own metrics.
"""

from __future__ import annotations

import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster
from tests.e2e.velero import Movement, Velero
from tests.e2e.workload import Content, Volume, Workload, differences

NAMESPACE = "shop"
_STORY = Path(__file__).parent / "manifests"
_SHOWN = re.compile(
    r"lighterage_(read|reused|written|uploaded|downloaded)_bytes_total|"
    r"lighterage_(files|jobs_ended|storage_requests|volume_bytes)_total|lighterage_job_phase_duration_seconds_sum"
)


class Shop(Workload):
    """The application: nginx in its pod serves /data/site, and the ledger's writer runs."""

    def start_serving(self) -> None:
        self._put("nginx.conf")
        self.shell("nginx -c /tmp/nginx.conf -e /tmp/nginx.log")

    def write_ledger(self) -> None:
        self._put("ledger.py")
        self.shell("python3 /tmp/ledger.py write /data/ledger/log >/dev/null 2>&1 &")

    def check_ledger(self) -> int:
        """How many records there are, all of them whole."""
        self._put("ledger.py")
        return int(self.shell("python3 /tmp/ledger.py check /data/ledger/log"))

    def _put(self, name: str) -> None:
        """A file of the story, into /tmp of the pod."""
        self.cluster.execute(NAMESPACE, "app", "sh", "-c", f"cat >/tmp/{name}", given=(_STORY / name).read_text())

    def get(self, page: str) -> str:
        return self.shell(f"wget -q -O- http://127.0.0.1:8080/{page}")


def main() -> None:
    cluster = Cluster(os.environ["KUBECONFIG"])
    velero = Velero(cluster)
    shop = Shop(cluster, NAMESPACE, [Volume("site"), Volume("ledger")])
    name = f"shop-{int(time.time())}"
    cluster.delete_namespaces([NAMESPACE])
    with told("The shop opens: nginx with some 200 files, a ledger that grows with every sale"):
        shop.deploy()
        shop.make("site", "small", "odd", seed=1)
        shop.shell("echo '<h1>Lighters for sale</h1>' >/data/site/index.html")
        shop.start_serving()
        shop.write_ledger()
    before, sold, counted = site(shop), shop.check_ledger(), metrics(cluster)
    say(f"  {len(before['/data/site'])} entries on the site, {sold} records in the ledger, and it goes on")
    with told(f"velero backup create {name} --include-namespaces shop --snapshot-move-data"):
        velero.backup(name, NAMESPACE, "--snapshot-move-data")
    show_movements(velero.movements(backup=name))
    with told("Disaster: the namespace is deleted, with its volumes"):
        cluster.delete_namespaces([NAMESPACE])
    with told(f"velero restore create --from-backup {name}"):
        velero.restore(name, name)
        shop.wait_until_running()
    show_movements(velero.movements(restore=name))
    wrong = differences(before, site(shop))
    found = shop.check_ledger()
    shop.start_serving()
    page = shop.get("index.html").strip()
    say(f"\nThe site: {len(before['/data/site'])} entries, {len(wrong)} that differ in content, owner, mode or time")
    say(f"The ledger: {found} records, every one whole, and none of the {sold} from before the backup is missing")
    say(f"GET /index.html: {page}")
    show_metrics(counted, metrics(cluster))
    cluster.delete_namespaces([NAMESPACE])
    if wrong or found < sold or "Lighters" not in page:
        say("\n".join(["NOT EQUAL:", *wrong[:20]]))
        sys.exit(1)
    say("\nEverything is back.")


def site(shop: Shop) -> dict[str, Content]:
    """The content of the site; the ledger changes all the time."""
    return {path: content for path, content in shop.content().items() if path.endswith("site")}


@contextmanager
def told(what: str) -> Iterator[None]:
    """One step of the story, and what it took."""
    say(f"\n{what}")
    started = time.monotonic()
    yield
    say(f"  done in {time.monotonic() - started:.1f} s")


def say(text: str) -> None:
    print(text, flush=True)


def show_movements(movements: list[Movement]) -> None:
    for moved in movements:
        say(
            f"  {moved.kind} {moved.name}: {moved.phase}, {moved.total_bytes / 1e6:.1f} MB,"
            f" started after {moved.seconds_to_start:.0f} s, ended after {moved.seconds_to_end:.0f} s"
        )


def metrics(cluster: Cluster) -> dict[str, float]:
    """What all agents have counted so far."""
    counted: dict[str, float] = {}
    for pod in cluster.list("Pod", VELERO_NAMESPACE, "role=node-agent"):
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8085/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                name, _, value = line.rpartition(" ")
                if _SHOWN.match(name):
                    counted[name] = counted.get(name, 0) + float(value)
    return counted


def show_metrics(before: dict[str, float], after: dict[str, float]) -> None:
    say("\nWhat the agent's metrics have counted meanwhile:")
    for name, value in sorted(after.items()):
        if grown := value - before.get(name, 0):
            say(f"  {name} {grown:.10g}")


if __name__ == "__main__":
    main()
