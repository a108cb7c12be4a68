"""``ms-controlnet demo``: a small ControlNet pipeline, unmodified scripts, and what they draw on both backends."""
