"""The order of tests, and what a session says about those it could not run."""

import os

import pytest

# Read when torch is first imported: threads that spin come to a crawl on cores that others use too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ("processes" in item.keywords, "slow" in item.keywords))
    if not os.environ.get("KUBEBUILDER_ASSETS"):
        for item in items:
            if "apiserver" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="KUBEBUILDER_ASSETS is not set"))


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    missed = sum("apiserver" in report.keywords for report in skipped)
    if missed:
        terminalreporter.write_line(
            f"{missed} tests against a real Kubernetes API server did NOT run: "
            "set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd",
            yellow=True,
        )
