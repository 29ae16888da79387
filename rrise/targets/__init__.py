"""Class-count targets: what the base classifier answers under noise, sampled once and stored as integer counts."""
