"""Who may come in, for how much, and what is noted of it: tokens, tenants, limits, the audit."""
