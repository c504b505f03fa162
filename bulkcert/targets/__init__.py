"""Read target files: from bytes, on disk or on standard input, to checked targets.

In: CSV with a header, in UTF-8 with or without a byte order mark unless [format] of the job file
says otherwise; JSON Lines (one object per line) in UTF-8; or the first sheet of an Excel workbook.
Text may be gzip-compressed. Lines end in LF or CRLF; a lone CR is a fault.
Out: one `Target` for each good row and one `Rejection` for each fault of a bad row, in file order.
A file that is unusable as a whole raises `TargetsError`.
Must never raise anything else, whatever the bytes; keep more than a long row or a block of short
ones in memory; guess what a bad row means; or skip a row silently. Only rows without content are
skipped; rows that a run wrote about devices without certificates are left out, and counted.

    file           TargetFile, which puts the other modules together
    input          the content, decompressed, and its digest
    start          the first bytes           -> the format; whether a run has written it
    lines          the content               -> lines of text of limited length
    encoding       other encodings           -> UTF-8, or which one it seems to be
    delimiter      the header of CSV         -> what separates the cells
    csv_reader     lines of CSV              -> rows of cells, one by one or many at once
    workbook       the sheet of a workbook   -> rows of cells
    table          rows of cells             -> targets and rejections
    jsonl_reader   lines of JSON             -> targets and rejections
    columns        headers or keys           -> the fields that they contain
    records        what a run writes, as rows of the next job
    rejected       rejected.csv, as rows of the next job
    extra          columns that the job does not use, kept for the reports
    chosen         columns that the rules of the job name
    row            the values of one row     -> a target, or its rejections
    tally          what has been read so far: rows, and columns that are not used
    wording        fields and headers, as messages mention them
"""

from bulkcert.targets.file import TargetFile, digest
from bulkcert.targets.input import opened
from bulkcert.targets.start import Format

__all__ = ["Format", "TargetFile", "digest", "opened"]
