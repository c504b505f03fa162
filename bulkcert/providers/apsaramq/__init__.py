"""The provider `apsaramq`: device certificates of ApsaraMQ for MQTT, OnsMqtt 2020-04-20. By module:

actions             the declarations: actions, fields, the provider
requests            a target's fields         -> a request
signature           a request                 -> what authenticates it
responses           a response                -> what it means
xml                 a response in XML         -> its elements
client              one call: signature, request, response
service             the calls, for one operation at a time
certificates        a response                -> certificates
change              the step of `inactivate`, `activate` and `delete`
query               the steps of `get` and `list`
advice              what to do about each code
verification        how what is read back differs from a record
handler             a job's setup             -> its action handler, made of steps
"""
