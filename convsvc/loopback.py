"""Which addresses only this machine reaches."""

from __future__ import annotations


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. A name other than localhost is not looked up: it may mean another machine tomorrow.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    import ipaddress  # 4 ms that most commands do without

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
