"""The web console at `/ui`: the same jobs, scopes and roots as the HTTP interface, for people. Pages are rendered here, on the server."""
