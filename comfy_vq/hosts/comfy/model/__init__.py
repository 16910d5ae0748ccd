"""A MODEL of ComfyUI whose layers are coded, and what it is made from."""
