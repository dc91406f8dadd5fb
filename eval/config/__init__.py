"""Configuration: its schema, its composition from YAML and overrides, presets."""
