"""The rules of a campaign: may the next operation be claimed? Pure, on times and outcomes."""
