"""A provider for bulkcert: device certificates of Beacon, a made-up service. By module:

actions       the declarations: actions, fields, the provider
requests      a target's fields      -> a request
signature     a request              -> what authenticates it
responses     a response             -> what it means
client        one call: signature, request, response
suspend, get  the step of each action
verification  how what is read back differs from a record
handler       a job's setup          -> its action handler
"""
