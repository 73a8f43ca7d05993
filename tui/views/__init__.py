"""What each pane shows: functions from a `Look` to lines of text. No widgets here."""
