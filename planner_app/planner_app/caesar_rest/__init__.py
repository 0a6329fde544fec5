"""A stand-in for caesar-rest where its sources cannot be had: its HTTP API, its documents, its calls to Slurm.

Written from what caesar-rest does, observed from outside. It is for testbeds: there is no sign-in, and every user is
`anonymous`.
"""
