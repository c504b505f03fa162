"""The public names of the package; `bulkcert.NAME` imports this module when a name is first used.

Each name stands here once. `import bulkcert` by itself stays fast, and so does `bulkcert --help`.
"""

from __future__ import annotations as _annotations

from bulkcert.credentials import credentials_from as credentials_from
from bulkcert.errors import BulkcertError as BulkcertError
from bulkcert.event_log import EventType as EventType
from bulkcert.event_log import RunEvent as RunEvent
from bulkcert.events import Detail as Detail
from bulkcert.events import Event as Event
from bulkcert.events import Notice as Notice
from bulkcert.events import Progress as Progress
from bulkcert.events import Result as Result
from bulkcert.events import Settled as Settled
from bulkcert.events import Started as Started
from bulkcert.job import Job as Job
from bulkcert.jobfile import load_job as load_job
from bulkcert.model import Outcome as Outcome
from bulkcert.model import State as State
from bulkcert.reading import results as results
from bulkcert.report.summary import Summary as Summary
from bulkcert.run import Run as Run
