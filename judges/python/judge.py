"""The published Python SDK against a server: only the server's URL is not the SDK's own.

    judge.py --list    the names of the cases
    judge.py CASE      runs one; `passed: CASE` is printed if all that it claims is so

The server's URL is in POSTRIDER_URL, a token for an empty environment in POSTRIDER_TOKEN.
"""

import faulthandler
import sys
import unittest

from deliveries import Deliveries
from environment import Environment
from history import History
from managed import Managed

# Whatever hangs shows where, before it is ended from outside.
faulthandler.dump_traceback_later(50, exit=True)

cases = {
    name.removeprefix("test_"): group(name)
    for group in (Deliveries, Environment, History, Managed)
    for name in unittest.defaultTestLoader.getTestCaseNames(group)
}

if sys.argv[1] == "--list":
    print("\n".join(sorted(cases)))
    sys.exit()
result = unittest.TextTestRunner(verbosity=2).run(cases[sys.argv[1]])
if not result.wasSuccessful():
    sys.exit(1)
print("passed:", sys.argv[1])
