"""Figures: `curves` (points and tables), `figures` (the drawings), `style` (colours, fonts, reproducible files)."""
