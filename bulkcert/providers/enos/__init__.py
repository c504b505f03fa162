"""EnOS device certificates: what can be asked (`actions`), how (`signing`, `token`, `client`),
and what the answers mean (`replies`).
"""
