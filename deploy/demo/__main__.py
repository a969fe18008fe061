"""`python -m deploy.demo [down] [--engine mysql]`: tell the story, or remove what it made."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.demo import stage as stages
from deploy.demo.engines import ENGINES
from deploy.demo.installation import Installation
from deploy.demo.kubectl import Kubectl
from deploy.demo.report import Report
from deploy.demo.stage import Stage
from deploy.demo.story import NAMESPACE, Story


def main(arguments: list[str] | None = None) -> int:
    """Run the demo. Returns 0 when every table of the restored Database equals the original."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["tell", "down"], default="tell")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="postgres", help="whose story is told (postgres)")
    options = parser.parse_args(arguments)
    if options.command == "down":
        return _down(stages.present())
    engine = ENGINES[options.engine]
    report = Report()
    with report.step("find or bring up a cluster") as step:
        stage = stages.prepare([engine.image], report.progress)
        step.note = stage.description
    kubectl = Kubectl(stage.kubeconfig)
    with report.step("install the operator by its chart") as step:
        Installation(kubectl, stage.operator_image, stage.chart_values).install()
        step.note = stage.operator_image
    _remove(kubectl)
    equal = Story(kubectl, stage.bucket, report, engine=engine).tell()
    report.table()
    _trace(stage)
    print(
        f"\nWhat to try next:\n"
        f"  export KUBECONFIG={stage.kubeconfig}\n"
        f"  kubectl -n {NAMESPACE} get databases,backups,objectstores,backuppolicies -o wide\n"
        f"  kubectl -n {NAMESPACE} annotate database flights yoban.dev/switchover=''   # another primary\n"
        f"  kubectl yoban status flights -n {NAMESPACE}\n"
        f"  make demo-down\n"
    )
    return 0 if equal else 1


def _trace(stage: Stage) -> None:
    """Show the backup's trace as a waterfall, as `kubectl yoban trace` does."""
    from yoban.cli.kubectl import main as plugin

    print("\nthe backup's trace:")
    sys.stdout.flush()
    plugin(["trace", "first", "--kubeconfig", str(stage.kubeconfig), "--namespace", NAMESPACE])


def _remove(kubectl: Kubectl) -> None:
    """Remove what an earlier telling left."""
    space = kubectl.within(NAMESPACE)
    if space.get("namespace", NAMESPACE) is None:
        return
    for kind in ("pod", "database", "backup", "backuppolicy", "objectstore"):
        selector = ["-l", "app.kubernetes.io/name=yoban-demo-client"] if kind == "pod" else ["--all"]
        space.run("delete", kind, *selector, "--timeout=180s", deadline=190)
    space.run("delete", "pvc", "--all", "--timeout=120s", deadline=130)


def _down(stage: Stage | None) -> int:
    if stage is None:
        print("the lab is not up; there is nothing to remove")
        return 0
    kubectl = Kubectl(stage.kubeconfig)
    _remove(kubectl)
    kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s", deadline=130)
    Installation(kubectl, stage.operator_image).uninstall()
    print("the demo's namespace, its buckets and the operator are gone; `make lab-down` ends the lab cluster")
    return 0


if __name__ == "__main__":
    if not Path("deploy/chart").is_dir():
        sys.exit("run this from the top of the repository")
    sys.exit(main())
