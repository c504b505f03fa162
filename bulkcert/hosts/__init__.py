"""What several hosts on one run need besides the store: leases, the switch, and shared slots."""
