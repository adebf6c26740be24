"""`feed bench`: how fast a feed is, measured by readers that check what they get, and against others.

`command` is the command line. `measure` runs rounds: it starts a target (`targets`) on a fresh log (`logs`), readers,
publishers and probers in processes of their own (`worker`, `readers`, `publishers`, `prober`), and puts together what
they saw. `state` plays a round of readers of state (`state_readers`), and `scenarios` names what plays which. `cores`
says which process runs where; `children` starts and ends the programs that are measured. `payload`, `framing` and
`checker` are the pure parts: what an event carries, how it is found in a stream, and whether a stream is what it should
be. `report` makes the table and the JSON.
"""
