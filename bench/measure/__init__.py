"""The measurement: certificates, lockstep, and the run that repeats them."""
