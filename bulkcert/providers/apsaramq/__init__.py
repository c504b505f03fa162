"""Device certificates of ApsaraMQ for MQTT: what can be asked (`actions`), how (`requests`,
`signing`, `client`), and what the answers mean (`replies`, `certificates`).

API OnsMqtt, version 2020-04-20. One file for each action, or for those that are alike.
"""
