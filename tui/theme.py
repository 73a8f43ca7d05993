"""Two sets of colours: one for terminals that show many, one that leaves the choice to them.

Besides Textual's own names: `quiet` for what is there but not news, `cursor` for the ground of
the line that is looked at.
"""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="sockstep",
    primary="#7aa7d9",
    secondary="#9db7c9",
    accent="#e3b562",
    success="#86b88b",
    warning="#d9a05b",
    error="#e07a72",
    foreground="#cfd6de",
    background="#12161c",
    surface="#171c23",
    panel="#1d232c",
    variables={
        "quiet": "#7b8794",
        "cursor": "#263241",
        "rule": "#39434f",
        "block-cursor-foreground": "#12161c",
        "footer-background": "#1d232c",
        "footer-key-foreground": "#e3b562",
        "scrollbar": "#39434f",
        "scrollbar-background": "#12161c",
    },
)
ANSI = Theme(
    name="sockstep-ansi",
    ansi=True,
    primary="ansi_cyan",
    secondary="ansi_cyan",
    accent="ansi_yellow",
    success="ansi_green",
    warning="ansi_yellow",
    error="ansi_red",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    variables={
        "ansi-background": "ansi_default",
        "ansi-foreground": "ansi_default",
        "quiet": "ansi_default",
        "cursor": "ansi_default",
        "rule": "ansi_default",
        "border": "ansi_cyan",
        "border-blurred": "ansi_default",
        "block-cursor-foreground": "ansi_default",
        "block-cursor-background": "ansi_default",
        "block-cursor-text-style": "bold reverse",
        "block-cursor-blurred-text-style": "bold",
        "footer-key-foreground": "ansi_yellow",
        "input-cursor-text-style": "reverse",
        "scrollbar": "ansi_cyan",
        "scrollbar-background": "ansi_default",
    },
)
