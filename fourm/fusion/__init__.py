"""The name that ``fourm.alignment`` had up to 0.4.0; its programs are still found here."""
