"""The shared language of sockstep: events, steps, story, verdict, report. No Textual, no bcc."""

__version__ = "0.1.0"
