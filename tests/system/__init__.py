"""Real processes, spoken to as users do."""
