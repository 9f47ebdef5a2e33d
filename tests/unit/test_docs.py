"""The docs say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from scripts import configuration

ROOT = Path(__file__).parents[2]


def test_configuration_md_is_what_the_settings_classes_say() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration.text(), "run make gen"


def test_every_setting_is_read_somewhere() -> None:
    places = {
        "cli": list((ROOT / "cli").glob("*.py")),
        "session_svc": list((ROOT / "services" / "session_svc").glob("*.py")),
        "exec_svc": list((ROOT / "services" / "exec_svc").glob("*.py")),
        "scheduler_svc": list((ROOT / "services" / "scheduler_svc").glob("*.py")),
    }
    for _, settings in configuration.SECTIONS:
        package = settings.__module__.partition(".")[0]
        inherited = list((ROOT / "services" / "sandbox_rpc").glob("*.py"))
        code = "\n".join(path.read_text() for path in (*places[package], *inherited))
        for name in settings.model_fields:
            assert re.search(rf"\w\.{name}\b", code), f"{settings.__qualname__}.{name}"


def test_every_dependency_has_its_reason() -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    names = re.findall(
        r'^  "([a-z0-9-]+)', declared.partition("[project.scripts]")[0], re.MULTILINE
    )
    assert len(names) > 20
    for name in names:
        short = name.removeprefix("opentelemetry")
        assert name in reasons or f" {short}" in reasons, name


def test_links_between_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)[)#]", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
