"""Source layout + target layout -> plan. `make_plan(job)` is the only entry; it reads headers and writes nothing."""
