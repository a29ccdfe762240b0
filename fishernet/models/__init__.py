"""One file a family; ``fishernet.families`` has their rows."""
