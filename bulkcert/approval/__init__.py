"""Approvals of a plan: signed statements beside the job, and whether they are enough.

    statement   the readable text that is signed             -> and back
    signers     an OpenSSH allowed_signers file              -> who may approve
    ssh_keygen  signs, and says who has signed
    files       the folder of approvals beside a job file
    verdict     who has approved a plan, and what is missing

A statement is checked against the plan as a whole, not only its hash: what people have read is what
is carried out.
"""
