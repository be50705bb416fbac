"""Spatio-temporal detection: who does what, where. numpy alone reads and measures."""
