"""What this machine costs: measured once, kept in a profile, read by modeled runs without torch.

profile.py and host.py read and describe (standard library only), probes.py says what is run, analysis.py turns its record
into a profile, and measure.py, the only file here that imports torch, runs it.
"""
