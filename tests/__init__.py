"""The tests, one folder a tier; where they find what they share."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "recordings/samples"
RECORDINGS = sorted(SAMPLES.glob("*.jsonl"))
