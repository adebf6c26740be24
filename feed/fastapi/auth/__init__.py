"""Who may do what: grants, the origins and hosts that may ask, and how much a client may publish."""
