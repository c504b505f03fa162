"""The ApsaraMQ for MQTT side of the simulator.

gateway       source addresses, access key, date, signature, nonce and rate limit of a call
signature     Alibaba Cloud's request signatures, V3 and V1
nonces        which nonces were used
sources       how much each source address sends, and which ones are blocked
certificates  the actions on device certificates
registry      which device certificates exist, and whether they are active
responses     the form of responses: success, refusal, over the limit
refusals      error codes, messages and HTTP statuses
"""
