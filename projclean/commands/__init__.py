"""One file per command: its options, its help with an example, a call into the library, an exit code."""
