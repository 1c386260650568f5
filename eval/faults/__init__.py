"""The fault suite: kills, full disks, read-only places, changing inputs, and runs that meet at one output."""
