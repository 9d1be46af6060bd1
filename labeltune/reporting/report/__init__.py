"""The report: `results` (what it reads), `build` and the `*_sections` (what it says), `document`, `i18n`, `render`."""
