"""What watches a certifier in service, and what answers when it abstains.

Key modules: `auditor` (chooses a random share of certificates), `backlog` (the thread that checks them), `eprocess`
(the evidence against the guarantee), `drift` (the evidence that inputs changed), `bets` (what both are made of),
`record` (what survives a restart), `status` (numbers, a line, Prometheus), `fallback` (abstentions go to Monte Carlo
within a `budget`).
"""
