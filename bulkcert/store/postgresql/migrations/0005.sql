-- Version 5: the files of a job, for hosts that have none of them: the job file, and what it names.

CREATE TABLE bulkcert.job_file (
    run integer NOT NULL REFERENCES bulkcert.run,
    name text NOT NULL,                 -- relative to the folder of the job
    content bytea,                      -- NULL: the job has it no more
    PRIMARY KEY (run, name)
);
