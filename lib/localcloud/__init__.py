"""An embedded stand-in for the Google services that the demo uses; see README.md here.

`start`, `status`, `owner`, `stop` and `reset` manage its one process, whose data are in `STATE`;
`wait_for_loss` notices its end, `not_answering` is the error for one that is too slow, `direct` is
for its clients. lib/cloud.py also reads `ledger` (its rules) and `errors.MARK`; nothing else is
public. It imports nothing from the rest of `lib` and could serve another project.
"""

from lib.localcloud.loopback import direct
from lib.localcloud.process import (
    STATE,
    LocalCloudError,
    not_answering,
    owner,
    reset,
    start,
    status,
    stop,
    wait_for_loss,
)

__all__ = [
    "STATE", "LocalCloudError", "direct", "not_answering", "owner", "reset", "start", "status",
    "stop", "wait_for_loss"]
