"""Ray jobs: submit, follow, stop."""
