"""The engine: it knows Lightning, measurements, findings and sinks, and no symptom."""
