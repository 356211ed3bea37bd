"""The soak: many processes and threads record while the network flaps; at the end the books must balance.

python tools/soak --seconds 60

writer.py  one process that records
run.py     the run: collector, network, processes, and the books at the end
cli.py     arguments, the table, exit codes
"""
