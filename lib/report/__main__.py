"""python -m lib.report"""

import sys

from lib.report.report import main

sys.exit(main())
