"""Files that graphs read and write: where they lie, and whole checkpoints in one."""
