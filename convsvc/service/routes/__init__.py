"""The HTTP interface, one small file a subject. A route translates; what is done is in the store and the planner."""
