"""An embedded stand-in for the Google services that the demo uses; see README.md here.

`start`, `status`, `stop` and `reset` manage its one process; nothing else is public. It imports
nothing from the rest of `lib` and could serve another project.
"""

from lib.localcloud.process import LocalCloudError, reset, start, status, stop

__all__ = ["LocalCloudError", "reset", "start", "status", "stop"]
