"""Names and addresses of machines."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Returns whether a host name or IP address is always this machine's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
