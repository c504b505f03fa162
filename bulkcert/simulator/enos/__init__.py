"""The EnOS side of the simulator.

gateway            routing, the account's limit, access tokens and signatures
tokens             the token service: `token/get` and `token/refresh`
certificates       the certificate API: `list`, `revoke`, `renew`, `apply`; and `products`
issuance           which certificates `renew` and `apply` issue
portal             what is public: the authorities' certificates and revocation lists
refusals           error codes and messages
fleet              which devices and certificates exist
authority          orders certificates from the authority process and hands out the PEM texts
authority_process  the certificate authority: a process of its own, which holds the keys
"""
