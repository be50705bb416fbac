"""Temporal localisation: when does what happen in a long video. numpy alone reads and measures."""
