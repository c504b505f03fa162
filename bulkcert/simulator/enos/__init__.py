"""The EnOS side of the simulator.

gateway            rate limit, access token and signature of a call; routing to the services
signature          the `apim-signature` of a call
tokens             the token service: `token/get` and `token/refresh`
certificates       the certificate API: `list`, `revoke`, `renew`, `apply`; and `products`
issuance           which certificates `renew` and `apply` issue
portal             public files: the authorities' certificates and revocation lists
refusals           error codes and messages
fleet              which devices and certificates exist, a million of them in little memory
authority          orders certificates from the authority process and hands out the results
authority_process  the certificate authorities: a process of its own, which holds their keys
"""
