"""What is refused on machines that are not at hand here."""

from __future__ import annotations

import platform

import pytest

from probes.attach import AttachError
from probes.doctor import choose, examine


def test_backend_kprobe_reads_the_registers_of_x86_64_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(AttachError, match=r"^backend kprobe: .* x86_64 .* aarch64 .*$"):
        choose("kprobe")
    findings = examine()["findings"]
    assert isinstance(findings, list)
    found = next(finding for finding in findings if finding["name"] == "kprobes")
    assert not found["have"]
    assert "aarch64" in found["what"]
