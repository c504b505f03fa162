"""Evidence of a run: one signed file that proves what was planned, approved, done and seen.

    archive     files in a compressed tar archive, in one form only   -> and back, streamed
    manifest    what a pack is about, with the digest of each file    -> and back
    readme      how anybody checks a pack without this program
    contents    the store                                             -> the files of a pack
    pack        puts them together, and has the digests signed
    facts       the files of a pack                                   -> what they say
    agreement   what they say                                         -> the contradictions in it
    check       a pack, and who may sign                              -> is it intact?

The signature is over `SHA256SUMS`, which has the digest of every other file of the pack, so nothing
can be changed, exchanged, added or left out. docs/evidence.md says what that proves.
"""

NAMESPACE = "evidence@bulkcert"
"""What the signature is for: one made for something else, such as an approval, is not evidence."""
