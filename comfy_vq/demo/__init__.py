"""The project's own small text-to-image model: its scenes, its captions, and its checker."""
