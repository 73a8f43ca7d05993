"""The paths through the kernel that sockstep knows, as data: one module each."""
