"""The ApsaraMQ for MQTT side of the simulator.

gateway       access key, date, signature, nonce, limits; and the actions on certificates
signature     Alibaba Cloud's request signatures, V3 and V1
registry      which device certificates exist, and whether they are active
refusals      error codes, messages and HTTP statuses
"""
