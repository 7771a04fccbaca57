"""`make demo`: a real model goes through the real service, there and back, and still answers the same."""
