"""Throwaway virtual machines: stock kernels without root, and one command run in one of them."""

# The CPU that a machine to be frozen has besides its two, kept free for its agent, so that the
# agent can tell of what happened while the others stand.
AGENT_CPU = 2
