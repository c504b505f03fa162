"""The provider `enos`: device certificates of EnOS, connect-service v2.0. By module:

actions             the declarations: actions, fields, conditions, the provider
requests            a target's fields         -> a request
signature           a request                 -> what authenticates it
responses           a response                -> what it means
client              one call: access token, signature, request, response
service             the calls, for one operation at a time
inventory           a `list` response         -> certificates
query               steps that only read: `list`, and the selection of certificates
revocation          the step of `revoke`
renewal             the step of `renew`
rotation            the steps of `rotate`
issuance            checks of a new certificate
chain               the CA of a new certificate, where it did not come with it
successor           which certificate did a renewal in doubt issue?
selection           the conditions of `[select]`
certificate_folder  where new certificates are kept
advice              what to do about each code, and what remarks mean
verification        how what is read back differs from a record
handler             a job's setup             -> its action handler, made of steps
"""
