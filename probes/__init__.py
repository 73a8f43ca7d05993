"""The agent: the only part with privileges, and the only one that imports bcc."""
