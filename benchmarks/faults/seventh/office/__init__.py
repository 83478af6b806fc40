"""Programs of applied work: tables, series, texts, scans, and what goes wrong on the way."""
