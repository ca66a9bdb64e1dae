"""Imported before all else by a script: Ctrl-C during its imports, which take seconds, ends it without a traceback.

`caption.config.cli.run` lets Ctrl-C raise KeyboardInterrupt again.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, in the background
    signal.signal(signal.SIGINT, signal.SIG_DFL)
