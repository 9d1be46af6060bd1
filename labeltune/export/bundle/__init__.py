"""Scripts that are copied into an export: they must not import labeltune."""
