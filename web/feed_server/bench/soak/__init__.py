"""`feed bench --soak`: hours of churn in minutes, every id checked, and a look for what does not go away again.

`ledger` says what each reader should have got, `streams` speaks to the server, `readers` and `publishers` come and go,
`load` is the process of them all, `samples` judges what was seen of the server's process, `run` puts it together.
"""
