"""How an older ledger becomes one of today; run by `ledger.migrate`."""
