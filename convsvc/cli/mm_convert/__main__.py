"""`python -m convsvc.cli.mm_convert`."""

from convsvc.cli.mm_convert import main

if __name__ == "__main__":
    raise SystemExit(main())
