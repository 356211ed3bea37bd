"""The crash-state explorer: what could a power cut, or a kill, leave of a queue, and is anything lost?

python tools/crash                      every scenario and every control
python tools/crash kill                 SIGKILL at each write-like system call in turn
python tools/crash --help

marks.py     the events that the programs record, and how a program announces what it does
programs.py  the recorded programs
strace.py    runs a program and reads the system calls it made
model.py     what is durable and what is pending after each of them
states.py    which states a crash at one point may leave
expect.py    what must be found at that point
check.py     opens a state and looks
explore.py   all points of a recording, in several processes
recovery.py  a second crash, during the recovery from the first
controls.py  runs that must find something
kill.py      SIGKILL anywhere
cli.py       arguments, tables, exit codes
"""
