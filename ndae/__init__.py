"""Neural DAEs: networks that obey constraints."""
